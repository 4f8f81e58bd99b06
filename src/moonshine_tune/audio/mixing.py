"""Which channels of a recording are read, and at which scale: decided by its content, per file.

Some recordings lose their speech when all channels are averaged: one of them has the opposite sign
(a miswired cable, a camera's effect), or is dead. Some files of floats hold integers. The decision
looks at some places of a file, and every span of it gets the same.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from moonshine_tune.audio.remarks import Remark
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import AudioError

_WINDOWS = 24
_WINDOW_FRAMES = 2048
# Speech may lie between the places if these are quieter than this.
_QUIET_PEAK = 0.01
_MORE_WINDOWS = 240
_BLOCK_FRAMES = 1 << 20
# The mean of two channels with correlation r has the power (1 + r) / 2. Microphones in one room
# stay far above -0.5, even in stereo.
_CANCELED = 0.5
# A channel this far below the loudest one, and below the noise of a muted microphone, is dead.
_DEAD_BELOW_LOUDEST = 1e-4
_DEAD_POWER = 1e-6
_AS_LOUD = 0.9
# Floats may exceed full scale, by the gain of a mixer. From here on they are no floats of ±1.
_MAX_FLOAT = 8.0
# Bits and full scale of integers, from 40 dB below it to 6 dB above it.
_SCALES = ((16, 2.0**15), (24, 2.0**23), (32, 2.0**31))
_LEAST_SHARE = 0.01
_GRID = 2.0**30  # of 16-bit numbers divided by 32768 twice
_GRID_24_BITS = 2.0**23
_LEAST_PEAK = 2.0**-15

ReadFrames = Callable[[int, int], Samples]


class Mix(NamedTuple):
    """How the frames of a recording become mono samples.

    Attributes:
        channels: those that are averaged, from 0; None for all.
        factor, offset: a sample is (stored - offset) × factor.
        remarks: what was decided, for the user.
    """

    channels: tuple[int, ...] | None = None
    factor: float = 1.0
    offset: float = 0.0
    remarks: tuple[Remark, ...] = ()

    def mono(self, frames: Samples, channel: int | None) -> Samples:
        """Mono samples of float32 [frames, channels]; `channel`, from 1, is taken alone."""
        if channel is not None:
            mono = frames[:, channel - 1]
        elif self.channels is not None:
            mono = frames[:, list(self.channels)].mean(axis=1, dtype=np.float32)
        else:
            mono = frames.mean(axis=1, dtype=np.float32) if frames.shape[1] > 1 else frames[:, 0]
        if self.factor != 1.0 or self.offset:
            mono = ((mono - np.float32(self.offset)) * np.float32(self.factor)).astype(np.float32)
        return mono


PLAIN = Mix()


def choose_mix(read: ReadFrames, num_frames: int, num_channels: int, *, is_float: bool) -> Mix:
    """The mix of a recording.

    Args:
        read: frames from a position, float32 [count, channels].
        is_float: whether the file stores floats.

    Raises:
        AudioError: floats far beyond ±1 whose scale is not certain.
    """
    if (num_channels == 1 and not is_float) or not num_frames:
        return PLAIN
    windows = _read_windows(read, num_frames, _WINDOWS)
    factor, offset, remarks = 1.0, 0.0, []
    if is_float:
        factor, offset, remark = _scale(windows, read, num_frames)
        remarks += [Remark("scale", remark)] if remark else []
    channels = None
    if num_channels > 1:
        frames = (np.concatenate(windows) - np.float32(offset)) * np.float32(factor)
        channels, remark = _channels(frames)
        remarks += [Remark("channels", remark)] if remark else []
    return Mix(channels, factor, offset, tuple(remarks)) if remarks else PLAIN


def _read_windows(read: ReadFrames, num_frames: int, count: int) -> list[Samples]:
    """Some places of a recording; everything of a short one, and more of a quiet one."""
    if num_frames <= count * _WINDOW_FRAMES:
        return [read(0, num_frames)]
    step = (num_frames - _WINDOW_FRAMES) / (count - 1)
    windows = [read(round(index * step), _WINDOW_FRAMES) for index in range(count)]
    if count == _WINDOWS and max(float(np.abs(window).max()) for window in windows) < _QUIET_PEAK:
        return _read_windows(read, num_frames, _MORE_WINDOWS)
    return windows


def _channels(frames: Samples) -> tuple[tuple[int, ...] | None, str]:
    """The channels to average, with a remark where these are not all."""
    if not np.isfinite(frames).all():
        return None, ""
    rows = np.ascontiguousarray(frames.T)
    products = (rows @ rows.T).astype(np.float64) / max(len(frames), 1)
    power = products.diagonal()
    # Of equals the first.
    loudest = int(np.flatnonzero(power >= _AS_LOUD * power.max())[0])
    if not power[loudest] >= _DEAD_POWER:
        return None, ""
    is_dead = (power < _DEAD_BELOW_LOUDEST * power[loudest]) & (power < _DEAD_POWER)
    live = np.flatnonzero(~is_dead)
    # Both are times the square of the number of live channels.
    power_of_mean, power_if_unrelated = products[np.ix_(live, live)].sum(), power[live].sum()
    if len(live) > 1 and power_of_mean < _CANCELED * power_if_unrelated:
        return (loudest,), (
            f"channels cancel each other, so channel {loudest + 1} alone is read (choose with: "
            "data import --audio-out DIR --channel N)"
        )
    if is_dead.any():
        dead = ", ".join(str(index + 1) for index in np.flatnonzero(is_dead))
        names = "channel" if is_dead.sum() == 1 else "channels"
        return tuple(int(index) for index in live), f"{names} {dead} silent, so left out"
    return None, ""


def _scale(windows: list[Samples], read: ReadFrames, num_frames: int) -> tuple[float, float, str]:
    """Factor and offset of a file of floats, with a remark where they change anything."""
    peak = max(float(np.abs(window).max(initial=0.0)) for window in windows)
    if not np.isfinite(peak) or _LEAST_PEAK < peak <= 1.0:
        return 1.0, 0.0, ""
    levels = _measure_floats(
        read(start, min(_BLOCK_FRAMES, num_frames - start))
        for start in range(0, num_frames, _BLOCK_FRAMES)
    )
    if not np.isfinite(levels.peak) or levels.peak == 0.0:
        return 1.0, 0.0, ""
    if levels.peak <= _LEAST_PEAK:
        if levels.is_divided_twice:
            return 32_768.0, 0.0, "16-bit numbers divided by 32,768 twice: multiplied once"
        return 1.0, 0.0, ""
    if levels.peak <= 1.0 or (levels.peak <= _MAX_FLOAT and not levels.is_whole):
        return 1.0, 0.0, ""
    return _integer_scale(levels)


class _FloatLevels(NamedTuple):
    """What tells the scale of floats.

    Attributes:
        is_whole: every sample is an integer.
        is_divided_twice: every sample is a 16-bit number divided by 32768 twice, and they are not
            24-bit numbers.
    """

    peak: float
    lowest: float
    mean: float
    is_whole: bool
    is_divided_twice: bool


def _measure_floats(blocks: Iterable[Samples]) -> _FloatLevels:
    peak, lowest, total, count = 0.0, np.inf, 0.0, 0
    is_whole = is_fine = is_24_bits = True
    for block in blocks:
        if not block.size:
            break
        peak = max(peak, float(np.abs(block).max()))
        lowest = min(lowest, float(block.min()))
        total += float(block.sum(dtype=np.float64))
        count += block.size
        is_whole = is_whole and _is_grid(block)
        is_fine = is_fine and peak <= _LEAST_PEAK and _is_grid(block * np.float32(_GRID))
        is_24_bits = is_24_bits and is_fine and _is_grid(block * np.float32(_GRID_24_BITS))
    return _FloatLevels(peak, lowest, total / max(count, 1), is_whole, is_fine and not is_24_bits)


def _integer_scale(levels: _FloatLevels) -> tuple[float, float, str]:
    peak = levels.peak
    if levels.is_whole and levels.lowest >= 0.0 and peak <= 255.0 and 100 <= levels.mean <= 156:
        return 1 / 128.0, 128.0, "unsigned 8-bit numbers stored as floats: brought to ±1"
    if levels.is_whole and peak <= 128.0:
        raise AudioError(
            f"integers of up to {peak:g} stored as floats: either 8-bit numbers, or 16-bit numbers "
            "that are nearly silent",
            hint="bring it to full scale with: ffmpeg -i OLD -af volume=X -c:a pcm_f32le NEW.wav, "
            "where X is 1/128 for 8-bit numbers, and 1/32768 for 16-bit numbers",
        )
    for bits, full_scale in _SCALES:
        is_quiet = levels.is_whole and bits == 16
        if (0.0 if is_quiet else full_scale * _LEAST_SHARE) <= peak <= full_scale * 2.0:
            return (
                1 / full_scale,
                0.0,
                f"{bits}-bit numbers stored as floats: divided by " + (f"{full_scale:,.0f}"),
            )
    raise AudioError(
        f"floats of up to {peak:,.6g}, and full scale is 1: either integers, or the gain was far "
        "too high",
        hint="bring it to full scale with: ffmpeg -i OLD -af volume=X -c:a pcm_f32le NEW.wav, "
        f"where X is 1/32768 for 16-bit numbers, or {0.5 / peak:.3g} for too much gain",
    )


def _is_grid(samples: Samples) -> bool:
    """Whether every sample is an integer."""
    return bool(np.array_equal(np.rint(samples), samples))
