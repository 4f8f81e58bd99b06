"""A microphone, as mono samples at 16 kHz: through the package sounddevice of moonshine-voice."""

import queue
from typing import Any, Protocol

import numpy as np
import soxr

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.text import first_line

_BLOCK_S = 0.064
# What waits for a model that is slower than speech; more is lost, and counted.
_MAX_WAITING_S = 60.0


class SoundSource(Protocol):
    """Where speech comes from while it is spoken."""

    def start(self) -> None:
        """Record from now on."""
        ...

    def stop(self) -> None:
        """Record no longer; what is recorded can still be read."""
        ...

    def read(self) -> Samples:
        """What was recorded since the last call."""
        ...


class Microphone:
    """An input of this machine. Close it, or use it as a context manager.

    Args:
        name: a part of its name, or its number; None for the system's own choice.
        instead: a command that needs no microphone, for the hint of an error.

    Raises:
        MachineError: there is no microphone, no permission, or no library for it.
    """

    def __init__(self, name: str | None = None, *, instead: str = "") -> None:
        self._instead = instead
        device = int(name) if name is not None and name.isdecimal() else name
        self._waiting: queue.Queue[Samples] = queue.Queue(round(_MAX_WAITING_S / _BLOCK_S))
        self._lost = 0
        try:
            import sounddevice

            info: Any = sounddevice.query_devices(device, "input")
            self._stream, rate_hz = self._open(sounddevice, device, info)
        except ImportError as error:
            raise self._error(f"sounddevice is not installed ({first_line(error)})") from error
        except Exception as error:
            # PortAudio's own errors, an unknown name (ValueError), and OSError without PortAudio.
            raise self._error(first_line(error)) from error
        self.name = str(info["name"])
        self._resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def _open(self, library: Any, device: Any, info: Any) -> tuple[Any, int]:
        """A stream at 16 kHz, or at the rate of the device where it has no other."""
        rates = (SAMPLE_RATE_HZ, round(info["default_samplerate"]))
        for rate_hz in rates:
            try:
                stream = library.InputStream(
                    samplerate=rate_hz,
                    blocksize=round(_BLOCK_S * rate_hz),
                    device=device,
                    channels=1,
                    dtype="float32",
                    callback=self._take,
                )
            except library.PortAudioError:
                if rate_hz == rates[-1]:
                    raise
            else:
                return stream, rate_hz
        raise MachineError("no rate fits")

    @property
    def lost_s(self) -> float:
        """Seconds of sound that nobody read in time."""
        return self._lost * _BLOCK_S

    def start(self) -> None:
        """Record from now on.

        Raises:
            MachineError: the microphone does not start.
        """
        try:
            self._stream.start()
        except Exception as error:
            raise self._error(first_line(error)) from error

    def stop(self) -> None:
        """Record no longer; what is recorded can still be read."""
        self._stream.stop()

    def read(self) -> Samples:
        """What was recorded since the last call, mono 16 kHz."""
        blocks = []
        while not self._waiting.empty():
            blocks.append(self._waiting.get_nowait())
        if not blocks:
            return np.zeros(0, np.float32)
        return np.asarray(self._resampler.resample_chunk(np.concatenate(blocks)), np.float32)

    def close(self) -> None:
        """Free the microphone."""
        self._stream.close()

    def __enter__(self) -> "Microphone":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _take(self, block: Any, _frames: int, _time: Any, _status: Any) -> None:
        """Called by PortAudio in its own thread, which must not wait."""
        try:
            self._waiting.put_nowait(block[:, 0].copy())
        except queue.Full:
            self._lost += 1

    def _error(self, reason: str) -> MachineError:
        hints = [f"give a recording: {self._instead}"] if self._instead else []
        if "PortAudio library" in reason:
            hints.append("on Debian and Ubuntu, install it with: sudo apt install libportaudio2")
        else:
            hints.append("see the microphones of this machine: python -m sounddevice")
        return MachineError(f"no microphone can be used here: {reason}", hint="; ".join(hints))
