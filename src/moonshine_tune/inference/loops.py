"""Transcripts in which the decoder repeats itself, instead of following the sound.

Greedy decoding can fall into a loop, on noise, on spelled words and where speakers change. A loop
fills the transcript up to its limit, so one costs as many errors as dozens of other mistakes.
"""

import re
from collections.abc import Callable, Sequence

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.audio.segment import split_at_pauses
from moonshine_tune.inference.timed_text import TimedText, TimedWord

# A short text eight times, as people say "no, no, no, no"; or a phrase three times.
_LOOP = re.compile(r"(.{1,11}?)\1{7,}|(.{12,80}?)\2{2,}", re.DOTALL)
# Fewer times, if the text ends in it: the decoder stops at its limit, in the middle of a loop.
_UNFINISHED = re.compile(r"(.{3,80}?)\1{4,}(.{0,79})$", re.DOTALL)
# A part must be long enough to be understood.
_LEAST_S, _MIN_PART_S = 4.0, 1.0

Transcribe = Callable[[Sequence[Samples]], list[TimedText]]


def has_loop(text: str) -> bool:
    """Whether a part of a transcript is repeated as nobody speaks."""
    if _LOOP.search(text) is not None:
        return True
    unfinished = _UNFINISHED.search(text)
    return unfinished is not None and unfinished[1].startswith(unfinished[2])


def without_loops(clips: Sequence[Samples], transcribe: Transcribe) -> list[TimedText]:
    """Transcripts of clips; one with a loop is made again from parts of its clip.

    What still repeats then is written once.

    Args:
        clips: mono 16 kHz.
        transcribe: the texts of clips, in order.
    """
    texts = transcribe(clips)
    rows = [row for row, text in enumerate(texts) if has_loop(text.text)]
    spans = {row: _parts(clips[row]) for row in rows}
    parts = [clips[row][start:stop] for row in rows for start, stop in spans[row]]
    again = iter(transcribe(parts) if parts else [])
    for row in rows:
        shorter = [
            _shifted(_written_once(next(again)), start / SAMPLE_RATE_HZ) for start, _ in spans[row]
        ]
        texts[row] = TimedText(
            " ".join(part.text for part in shorter if part.text),
            tuple(word for part in shorter for word in part.words),
        )
    return texts


def _parts(clip: Samples) -> list[tuple[int, int]]:
    """First sample and end of the parts of a clip, which is cut at its pauses."""
    seconds = len(clip) / SAMPLE_RATE_HZ
    if seconds < _LEAST_S:
        return [(0, len(clip))]
    # At two thirds there is a pause to choose, and mostly only one cut.
    spans = split_at_pauses(clip, max_s=0.67 * seconds, min_s=_MIN_PART_S)
    return [(round(start * SAMPLE_RATE_HZ), round(end * SAMPLE_RATE_HZ)) for start, end in spans]


def _written_once(text: TimedText) -> TimedText:
    """A transcript whose loops are written once, with as many words as are left."""
    if not has_loop(text.text):
        return text
    shorter = _LOOP.sub(lambda match: match[1] or match[2], text.text).strip()
    return TimedText(shorter, text.words[: len(shorter.split())])


def _shifted(text: TimedText, seconds: float) -> TimedText:
    """The same, that much later."""
    words = (
        TimedWord(word.text, word.start + seconds, word.end + seconds, word.confidence)
        for word in text.words
    )
    return TimedText(text.text, tuple(words))
