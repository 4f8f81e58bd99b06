"""Captions that roll: each cue repeats the last line of the cue before it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from moonshine_tune.corpus.manifest import Utterance

# A phrase of fewer words, or of fewer characters where a script has no spaces, is also repeated by
# people.
_FEWEST_WORDS, _FEWEST_CHARACTERS = 3, 6
# So many cues of a recording, and this share of them, repeat the one before: no accident.
_FEWEST_CUES, _LEAST_SHARE = 3, 0.3


def repeated_captions(utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, str]]:
    """Utterances whose first words are the last words of the one before, with these words.

    Only recordings in which that is the rule, and only spans and clips of one recording.
    """
    groups: dict[object, list[Utterance]] = defaultdict(list)
    for item in utterances:
        if item.text and (item.start is not None or item.session):
            groups[item.session if item.start is None else item.audio].append(item)
    for members in groups.values():
        if len(members) <= _FEWEST_CUES:
            continue
        ordered = sorted(members, key=lambda item: item.start or 0.0)
        repeated = [
            (later, phrase)
            for earlier, later in pairwise(ordered)
            if (phrase := _common_phrase(earlier.text or "", later.text or ""))
        ]
        if len(repeated) >= max(_FEWEST_CUES, _LEAST_SHARE * len(members)):
            yield from repeated


def _common_phrase(earlier: str, later: str) -> str:
    """The longest end of a text that another starts with, and goes on after it; else empty."""
    has_spaces = " " in earlier or " " in later
    # A phrase has two words at least: most pairs end here.
    if (" ".join(later.split(" ", 2)[:2]) if has_spaces else later[:2]) not in earlier:
        return ""
    first, second = (text.split() if has_spaces else list(text) for text in (earlier, later))
    fewest = _FEWEST_WORDS if has_spaces else _FEWEST_CHARACTERS
    for size in range(min(len(first), len(second)), 0, -1):
        is_long = size >= fewest or size == len(first) > 1
        if is_long and first[-size:] == second[:size] and earlier != later:
            return (" " if has_spaces else "").join(second[:size])
    return ""
