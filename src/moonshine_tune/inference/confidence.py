"""How likely a recognized word is right: a logistic map of what its tokens surprise the model.

On music and noise the model writes what it is sure of, such as "Thank you for watching!". But it
does not read it from the sound: its attention jumps back and forth, and on speech it moves on.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Fitted by `python -m benchmarks.transcription fit`, on speech that no figure of the guide is from.
_BIAS = 4.42
_WEIGHTS = (-2.89, -3.26)
# Share of the tokens at which the attention moves on: below the first, nothing is read from the
# sound; from the second on, all is. Of 122 clips of speech the lowest share is 0.83, and of 46 with
# noise at 5 dB 0.80; the median of noise is 0.65, that of music 0.67.
_NOT_READ, _READ = 0.65, 0.95
# Sound that is farther than this from every token's peak was skipped: words are shorter.
_COVERED_S = 0.8
# More surprise makes no difference.
_MOST_OF_WORD, _MOST_OF_CLIP = 12.0, 6.0


def word_features(log_probs: Sequence[float], clip_log_prob: float) -> tuple[float, float]:
    """What the confidence is made of: roots of the surprise of the word, and of its clip.

    Among sure words a small difference of surprise says much, and among unsure ones little: on
    speech not fitted on, roots predict better than the surprise itself.

    Args:
        log_probs: of the word's tokens, in nats.
        clip_log_prob: mean over all tokens of the clip.
    """
    return (
        math.sqrt(min(max(-sum(log_probs), 0.0), _MOST_OF_WORD)),
        math.sqrt(min(max(-clip_log_prob, 0.0), _MOST_OF_CLIP)),
    )


def word_confidence(log_probs: Sequence[float], clip_log_prob: float) -> float:
    """Probability that a word is right, 0 to 1; it falls with every doubt about the word."""
    features = word_features(log_probs, clip_log_prob)
    score = _BIAS + sum(w * value for w, value in zip(_WEIGHTS, features, strict=True))
    return 1.0 / (1.0 + math.exp(-score))


def share_read(attention: npt.NDArray[np.floating], spoken: Sequence[int]) -> float:
    """How far a text is read from its sound and not made up, 0 to 1; 1 for a single token.

    Args:
        attention: [L, T] of each token to each encoder frame.
        spoken: positions of the tokens that are more than punctuation.
    """
    if len(spoken) < 2:
        return 1.0
    peaks = attention[list(spoken)].argmax(axis=1)
    moving = float((np.diff(peaks) >= 0).mean())
    return min(max((moving - _NOT_READ) / (_READ - _NOT_READ), 0.0), 1.0)


def share_covered(
    attention: npt.NDArray[np.floating],
    spoken: Sequence[int],
    sounds: npt.NDArray[np.floating],
    frame_s: float,
) -> float:
    """Share of what sounds in a clip that is near the peak of some token's attention, 0 to 1.

    A text that ends early, or leaves a part out, is sure of each of its words.

    Args:
        attention, spoken: as of `share_read`.
        sounds: [T] above 0 where a frame is sound and not a pause.
        frame_s: seconds from one frame to the next.
    """
    sounding = np.flatnonzero(sounds > 0)
    if not len(sounding) or not spoken:
        return 0.0
    peaks = attention[list(spoken)].argmax(axis=1)
    distances = np.abs(sounding[:, None] - peaks[None, :]).min(axis=1) * frame_s
    return float((distances <= _COVERED_S).mean())
