"""How likely sound is speech and not a pause, 10 ms after 10 ms, by energy around each moment."""

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.samples import Samples
from moonshine_tune.audio.segment import HOP_S, levels_db

Levels = npt.NDArray[np.float64]

# Sound counts as speech down to this far below the loudest moment nearby: final consonants are 20
# to 25 dB below their vowel, breath is 30 dB below ...
_BELOW_PEAK_DB = 27.0
# ... and this far above the quietest moments nearby, but never up to the speech itself.
_ABOVE_FLOOR_DB, _BELOW_PEAK_AT_LEAST_DB = 6.0, 12.0
# How far "nearby" reaches to each side: a word or two, as one word may be far louder than the next.
_REACH_S = 0.6
# A moment whose surroundings are all this far below the loudest of the clip has no speech nearby.
_QUIETEST_SPEECH_DB = 30.0
_FLOOR_PERCENTILE = 10.0
# Certainty grows up to this distance from the threshold.
_CERTAIN_DB = 6.0
_SMOOTHED_FRAMES = 3


def speech_activity(samples: Samples) -> Levels:
    """-1 (surely a pause) to 1 (surely sound) for each 10 ms of a clip, mono 16 kHz."""
    levels = _smoothed(levels_db(samples))
    if not len(levels):
        return levels
    reach = round(_REACH_S / HOP_S)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(levels, reach, mode="edge"), 2 * reach + 1
    )
    peak = np.maximum(around.max(axis=1), levels.max() - _QUIETEST_SPEECH_DB)
    floor = np.percentile(around, _FLOOR_PERCENTILE, axis=1)
    threshold = np.maximum(
        peak - _BELOW_PEAK_DB, np.minimum(floor + _ABOVE_FLOOR_DB, peak - _BELOW_PEAK_AT_LEAST_DB)
    )
    return np.asarray(np.clip((levels - threshold) / _CERTAIN_DB, -1.0, 1.0))


def _smoothed(levels: Levels) -> Levels:
    """Energy in dB averaged over neighboring frames: a click of one frame is no speech."""
    if len(levels) < _SMOOTHED_FRAMES:
        return levels
    kernel = np.full(_SMOOTHED_FRAMES, 1 / _SMOOTHED_FRAMES)
    padded = np.pad(10 ** (levels / 10), _SMOOTHED_FRAMES // 2, mode="edge")
    return np.asarray(10 * np.log10(np.convolve(padded, kernel, mode="valid")))
