"""Neighboring segments become utterances of a sentence or a few, cut where sentences end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from moonshine_tune.data.alignment.segments import LITTLE_AGREEMENT, AlignedSegment
from moonshine_tune.data.alignment.text_words import TextWord

# Long enough for a sentence with pauses in it, short enough for small batches.
_UTTERANCE_S = 15.0
# Segments with a longer silence between them are not joined.
_MAX_GAP_S = 1.0
# A segment of about two words, and how much of it and its neighbors must agree.
_SHORT_LETTERS, _LEAST_TOGETHER = 15, 0.6
_SENTENCE_ENDS = tuple(".?!…。！？")


def absorb_faults(
    segments: Sequence[AlignedSegment],
    text: str,
    words: Sequence[TextWord],
    max_s: float,
) -> list[AlignedSegment]:
    """Join short segments with too little agreement to the neighbors that surround them.

    A wrong word of the text is most of a segment of two words, and little of a longer one. Both
    borders are certain, and all three together must agree.

    Args: as of `join_segments`.
    """
    result = list(segments)
    index = 1
    while index < len(result) - 1:
        before, fault, after = three = result[index - 1 : index + 2]
        if (
            fault.problem == LITTLE_AGREEMENT
            and before.problem is after.problem is None
            and _follows(before, fault)
            and _follows(fault, after)
            and fault.num_letters <= _SHORT_LETTERS
            and _is_as_long(fault)
            and after.end_s - before.start_s <= max_s
            and _agreement(three) >= _LEAST_TOGETHER
        ):
            parts = [replace(item, problem=None) for item in three]
            result[index - 1 : index + 2] = [_joined(parts, text, words)]
        else:
            index += 1
    return result


def _is_as_long(segment: AlignedSegment) -> bool:
    """Whether the text has about as many letters as the model wrote."""
    counts = [sum(map(str.isalnum, item)) for item in (segment.text, segment.hypothesis)]
    return min(counts) >= max(counts) / 2


def _agreement(segments: Sequence[AlignedSegment]) -> float:
    num_letters = sum(item.num_letters for item in segments)
    return sum(item.num_equal for item in segments) / max(num_letters, 1)


def join_segments(
    segments: Sequence[AlignedSegment], text: str, words: Sequence[TextWord], max_s: float
) -> list[AlignedSegment]:
    """Join those that are kept and follow each other, in audio and text.

    Borders stay at ends of sentences if there are any, else in the longest pauses.

    Args:
        words: `text_words` of the text.
        max_s: longest utterance in seconds; about half of 15 s to 15 s are made.
    """
    result: list[AlignedSegment] = []
    for run in _runs(segments):
        first = 0
        while first < len(run):
            last = _last(run, first, text, words, min(_UTTERANCE_S, max_s))
            result.append(_joined(run[first : last + 1], text, words))
            first = last + 1
    return result


def _runs(segments: Sequence[AlignedSegment]) -> Iterator[list[AlignedSegment]]:
    """Kept segments that follow each other; each of the others alone."""
    run: list[AlignedSegment] = []
    for segment in segments:
        is_kept = run and run[-1].problem is None and segment.problem is None
        if run and not (is_kept and _follows(run[-1], segment)):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _follows(first: AlignedSegment, second: AlignedSegment) -> bool:
    """Whether nothing is between two segments, neither in the text nor in the recording."""
    return second.words[0] == first.words[1] and second.start_s - first.end_s <= _MAX_GAP_S


def _last(
    run: Sequence[AlignedSegment],
    first: int,
    text: str,
    words: Sequence[TextWord],
    limit_s: float,
) -> int:
    """Index of the last segment of the utterance that begins with the first one."""
    start_s = run[first].start_s
    if run[-1].end_s - start_s <= limit_s:
        return len(run) - 1
    inside = [
        index for index in range(first, len(run)) if run[index].end_s - start_s <= limit_s
    ] or [first]
    late = [index for index in inside if run[index].end_s - start_s >= limit_s / 2] or inside
    ends = [index for index in late if _ends_sentence(run[index], text, words)] or late
    return max(ends, key=lambda index: run[index].pause_s)


def _ends_sentence(segment: AlignedSegment, text: str, words: Sequence[TextWord]) -> bool:
    end = segment.words[1]
    return segment.text.rstrip("\"'”’)»").endswith(_SENTENCE_ENDS) or (
        0 < end < len(words) and "\n" in text[words[end - 1].end : words[end].start]
    )


def _joined(
    segments: Sequence[AlignedSegment], text: str, words: Sequence[TextWord]
) -> AlignedSegment:
    joined = segments[0]
    for segment in segments[1:]:
        border = segment.words[0]
        space = " " if words[border].start > words[border - 1].end else ""
        joined = replace(
            joined,
            end_s=segment.end_s,
            text=f"{joined.text}{space}{segment.text}",
            hypothesis=f"{joined.hypothesis} {segment.hypothesis}",
            words=(joined.words[0], segment.words[1]),
            pause_s=segment.pause_s,
            num_equal=joined.num_equal + segment.num_equal,
            num_letters=joined.num_letters + segment.num_letters,
            is_sure=(joined.is_sure[0], segment.is_sure[1]),
        )
    return joined
