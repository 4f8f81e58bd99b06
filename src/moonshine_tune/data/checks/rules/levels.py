"""Level, noise and bandwidth of recordings, and silence at their ends."""

from moonshine_tune.audio.measure import NARROW_HZ, RecordingQuality
from moonshine_tune.data.checks.base import Drop, clip_check
from moonshine_tune.data.checks.checked_manifest import SHORTEST_S, CheckedClip

# In a loud recording a few samples touch full scale; from this share on, clipping is audible.
_CLIPPED_FRACTION = 0.001
# Floats below the smallest step of 16 bits.
_SMALLEST_STEP = 2.0**-15
# Longer silence at one end is more than a pause of the speaker.
_LONG_SILENCE_S = 3.0
# Speech hardly above its noise; a level with little resolution in 16 bits; a converter with an
# offset; a line or codec that removes the upper band.
_NOISY_SNR_DB = 6.0
_QUIET_DBFS = -42.0
_OFFSET = 0.02


@clip_check("error", rank=60, fix=Drop())
def silent(clip: CheckedClip) -> str | None:
    """[clip stays|clips stay] below the noise of a muted microphone: the model would learn to make
    up the words.

    Record again, or remove [the line|the lines].
    """
    is_silent = clip.measures.is_silent and clip.measures.seconds >= SHORTEST_S
    if not is_silent:
        return None
    level = f"loudest 10 ms at {clip.measures.loudest_dbfs:.0f} dBFS"
    is_below_steps = 0.0 < clip.measures.peak < _SMALLEST_STEP
    return f"{level}, perhaps divided by 32,768 twice" if is_below_steps else level


@clip_check("warning", rank=50, fix=Drop(on_request=True), limit=f"{_CLIPPED_FRACTION:.1%}")
def clipped(clip: CheckedClip) -> str | None:
    """[clip has|clips have] more than {limit} of the samples cut off at full scale.

    Record at a lower level where you can.
    """
    fraction = clip.measures.clipped_fraction
    return f"{fraction:.1%} of the samples" if fraction > _CLIPPED_FRACTION else None


@clip_check("note", rank=60, limit=f"{_LONG_SILENCE_S:g}")
def long_silence(clip: CheckedClip) -> str | None:
    """[clip has|clips have] more than {limit} s of silence at one end.

    Trim [it|them]: silence costs training time.
    """
    silence = max(clip.measures.leading_silence_s, clip.measures.trailing_silence_s)
    is_long = silence > _LONG_SILENCE_S and not clip.measures.is_silent
    return f"{silence:.1f} s" if is_long else None


@clip_check(
    "warning", rank=180, fix=Drop(on_request=True), audit_only=True, limit=f"{_NOISY_SNR_DB:g}"
)
def noisy(clip: CheckedClip) -> str | None:
    """[clip has|clips have] speech less than {limit} dB above the noise (estimated).

    Keep [it|them] if such noise is your domain, else record closer to the mouth.
    """
    quality = _quality(clip)
    if quality is None or quality.snr_db >= _NOISY_SNR_DB:
        return None
    return f"about {quality.snr_db:.1f} dB above the noise"


@clip_check(
    "warning", rank=190, fix=Drop(on_request=True), audit_only=True, limit=f"{_QUIET_DBFS:g}"
)
def too_quiet(clip: CheckedClip) -> str | None:
    """[clip stays|clips stay] below {limit} dBFS even in the loudest 10 ms: 16 bits hold little
    more than rounding noise.

    Record at a higher level.
    """
    level = clip.measures.loudest_dbfs
    is_quiet = level < _QUIET_DBFS and not clip.measures.is_silent
    return f"loudest 10 ms at {level:.0f} dBFS" if is_quiet else None


@clip_check("warning", rank=200, fix=Drop(on_request=True), audit_only=True, limit=f"{_OFFSET:.0%}")
def dc_offset(clip: CheckedClip) -> str | None:
    """[clip has|clips have] an offset of {limit} of full scale or more: a defect of the converter.

    Fix the recorder; the offset can be filtered out.
    """
    quality = _quality(clip)
    if quality is None or abs(quality.dc_offset) < _OFFSET:
        return None
    return f"{quality.dc_offset:+.1%} of full scale"


@clip_check("note", rank=10, audit_only=True, limit=f"{NARROW_HZ:g}")
def narrow_band(clip: CheckedClip) -> str | None:
    """[clip has|clips have] nothing above {limit} Hz: recorded over a telephone, or by a codec.

    Do nothing if your microphone will be the same, else record again.
    """
    quality = _quality(clip)
    if quality is None or not quality.is_narrow:
        return None
    return f"nothing above {quality.bandwidth_hz:.0f} Hz"


def _quality(clip: CheckedClip) -> RecordingQuality | None:
    """The quality of a clip that is not silent."""
    return None if clip.measures.is_silent else clip.quality
