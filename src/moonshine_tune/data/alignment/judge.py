"""Which segments are kept: their text is spoken in them, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.alignment.hypotheses import text_losses
from moonshine_tune.data.alignment.segments import LITTLE_AGREEMENT, AlignedSegment
from moonshine_tune.registry.open import OpenedModel

# The texts that the model compares: its own, and those of so many segments around it.
_NUM_OTHERS = 3
# A text of which less than half agrees must cost the model so much less than the best of the
# others, nats per token; one of which more agrees must cost less.
_MARGIN, _HALF = 0.75, 0.5


def judge_segments(
    segments: Sequence[AlignedSegment],
    audio: Path,
    opened: OpenedModel,
    progress: Progress,
    *,
    max_s: float,
    min_agreement: float,
) -> list[AlignedSegment]:
    """The segments, with the problem of each that is left out.

    A segment with little agreement is kept if the model finds its text likelier than the texts of
    its neighbors: speech with an accent is often recognized wrongly, and rarely as another text.
    """
    judged = [replace(item, problem=_plain_problem(item, max_s)) for item in segments]
    doubtful = [
        index
        for index, item in enumerate(judged)
        if item.problem is None and item.agreement < min_agreement
    ]
    likely = _likely(judged, doubtful, audio, opened, progress)
    for index in doubtful:
        if index not in likely:
            judged[index] = replace(judged[index], problem=LITTLE_AGREEMENT)
    return _without_open_ends(judged)


def _plain_problem(segment: AlignedSegment, max_s: float) -> str | None:
    if not segment.text:
        return "no words of the text"
    if segment.length_s > max_s:
        return f"no certain border within {max_s:g} s"
    return None


def _likely(
    segments: Sequence[AlignedSegment],
    doubtful: Sequence[int],
    audio: Path,
    opened: OpenedModel,
    progress: Progress,
) -> set[int]:
    """The doubtful segments whose text the model finds likelier than other texts."""
    texts = {}
    for index in doubtful:
        others = _texts_around(segments, index)
        if others:
            others += others[-1:] * (_NUM_OTHERS - len(others))
            texts[index] = [segments[index].text, *others]
    if not texts:
        return set()
    utterances = [
        Utterance(str(index), audio, start=segments[index].start_s, end=segments[index].end_s)
        for index in texts
    ]
    losses = text_losses(utterances, list(texts.values()), opened, progress)
    return {
        index
        for index, (own, *others) in zip(texts, losses, strict=True)
        if own < min(others) - (_MARGIN if segments[index].agreement < _HALF else 0.0)
    }


def _texts_around(segments: Sequence[AlignedSegment], index: int) -> list[str]:
    """The nearest texts of other segments."""
    own = segments[index].text
    order = sorted(range(len(segments)), key=lambda neighbor: (abs(neighbor - index), neighbor))
    others: list[str] = []
    for neighbor in order:
        text = segments[neighbor].text
        if text and text not in (own, *others) and len(others) < _NUM_OTHERS:
            others.append(text)
    return others


def _without_open_ends(segments: Sequence[AlignedSegment]) -> list[AlignedSegment]:
    """Leave out segments whose first or last words only a neighbor that is left out confirms."""
    result = list(segments)
    for index, segment in enumerate(segments):
        if segment.problem is not None:
            continue
        for end, name in ((0, "first"), (1, "last")):
            beside = index + (1 if end else -1)
            if segment.is_sure[end] or not 0 <= beside < len(segments):
                continue
            if segments[beside].problem is not None:
                result[index] = replace(segment, problem=f"its {name} words are uncertain")
    return result
