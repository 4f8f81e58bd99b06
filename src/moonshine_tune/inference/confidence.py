"""How likely a recognized word is right: a logistic map of what its tokens surprise the model."""

import math
from collections.abc import Sequence

# Fitted by `python -m benchmarks.transcription fit`, on speech that no figure of the guide is from.
_BIAS = 4.42
_WEIGHTS = (-2.89, -3.26)
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
