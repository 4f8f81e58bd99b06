"""When each word of a transcript is spoken: the best path through attention and energy.

The words follow each other, with or without a pause between them. A path gives each frame to a
token or to a pause. Frames of a token are those to which the decoder attends when it predicts it,
and that sound; frames of a pause are quiet. Attention alone (dynamic time warping over it, as
published for Whisper) spreads words over the pauses around them, by 300 ms and more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.activity import speech_activity
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.segment import HOP_S
from moonshine_tune.models.base import SpeechModel, TextTokenizer

# Weight of the energy against the attention, whose standard scores are about 2 on the word.
_ACTIVITY_WEIGHT = 2.5
_START_OF_WORD = "▁"
# Scripts without spaces: a token is as close to a word as one gets.
_UNSPACED = ((0x0E00, 0x0EFF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WordTokens:
    """A word of a transcript, as it is written.

    Attributes:
        spoken: positions of its tokens, without those that are punctuation alone.
    """

    text: str
    spoken: tuple[int, ...]


def words_of(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[WordTokens]:
    """The words of a transcript; punctuation belongs to the word before it."""
    # A model may have more ids than its tokenizer; these have no text.
    pieces = [tokenizer.raw.id_to_token(token) or "" for token in ids]
    groups: list[list[int]] = []
    for position, piece in enumerate(pieces):
        text = piece.removeprefix(_START_OF_WORD)
        starts = piece.startswith(_START_OF_WORD) or _is_unspaced(text)
        if not groups or (starts and (_is_spoken(text) or not text)):
            groups.append([])
        groups[-1].append(position)
    words = []
    for group in groups:
        text = tokenizer.decode([ids[position] for position in group])
        spoken = tuple(n for n in group if _is_spoken(pieces[n])) or tuple(group)
        if text:
            words.append(WordTokens(text, spoken))
    return words


def _is_spoken(piece: str) -> bool:
    """Whether a token is more than punctuation; a byte of a character may be a letter's."""
    return any(map(str.isalnum, piece))


def _is_unspaced(text: str) -> bool:
    return bool(text) and any(first <= ord(text[0]) <= last for first, last in _UNSPACED)


def word_spans(
    model: SpeechModel,
    samples: Samples,
    attention: npt.NDArray[np.float32],
    words: Sequence[WordTokens],
) -> list[tuple[float, float]]:
    """Start and end of each word in seconds from the start of the clip.

    Args:
        samples: of the clip, mono 16 kHz.
        attention: [L, T] of `TokenEvidence`.
    """
    hop_s = model.samples_per_frame / SAMPLE_RATE_HZ
    offset_s = model.frame_offset_samples / SAMPLE_RATE_HZ
    sounds = frame_activity(model, samples, attention.shape[1])
    frames = _best_path(attention, _ACTIVITY_WEIGHT * sounds, [word.spoken for word in words])
    end_s = len(samples) / SAMPLE_RATE_HZ
    return [
        (
            min(start * hop_s + (offset_s if start else 0.0), end_s),
            min(stop * hop_s + offset_s, end_s),
        )
        for start, stop in frames
    ]


def frame_activity(model: SpeechModel, samples: Samples, num_frames: int) -> Array:
    """`speech_activity` of a clip at the middle of each encoder frame, [num_frames]."""
    activity = speech_activity(samples)
    hop_s = model.samples_per_frame / SAMPLE_RATE_HZ
    middles = (np.arange(num_frames) + 0.5) * hop_s + model.frame_offset_samples / SAMPLE_RATE_HZ
    sounds: Array = np.interp(middles, (np.arange(len(activity)) + 0.5) * HOP_S, activity)
    return sounds


def _best_path(
    attention: npt.NDArray[np.float32], sounds: Array, words: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """First frame and end of each word on the best path, which visits all frames in order.

    States of the path: a pause, which may have no frame, then the tokens of a word with at least
    one frame each, and so on. The best total up to a frame is a running maximum, because a state's
    frames follow each other.
    """
    num_frames = len(sounds)
    states: list[tuple[int, int]] = [(-1, -1)]
    for word, tokens in enumerate(words):
        states += [(word, token) for token in tokens] + [(-1, -1)]
    if sum(token >= 0 for _, token in states) > num_frames:
        edges = np.linspace(0, num_frames, len(words) + 1).round().astype(int)
        return [(int(start), int(stop)) for start, stop in pairwise(edges)]
    positions = np.arange(num_frames + 1)
    best = np.full(num_frames + 1, -np.inf)
    best[0] = 0.0
    origins: list[npt.NDArray[np.int64]] = []
    for _, token in states:
        gains = -sounds if token < 0 else attention[token] + sounds
        total = np.concatenate([[0.0], np.cumsum(gains, dtype=np.float64)])
        reached = best - total
        if token >= 0:
            # At least one frame.
            reached = np.concatenate([[-np.inf], reached[:-1]])
        running = np.maximum.accumulate(reached)
        is_new = (reached == running) & np.isfinite(reached)
        origin = np.maximum.accumulate(np.where(is_new, positions, 0))
        origins.append(origin - 1 if token >= 0 else origin)
        best = running + total
    spans: list[list[int]] = [[num_frames, 0] for _ in words]
    stop = num_frames
    for (word, _), origin in zip(reversed(states), reversed(origins), strict=True):
        start = int(origin[stop])
        if word >= 0:
            spans[word] = [start, max(spans[word][1], stop)]
        stop = start
    return [(start, end) for start, end in spans]
