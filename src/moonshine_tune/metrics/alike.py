"""Two results made comparable: the clips of both, scored with one normalizer on one reference.

A WER depends on the normalizer, the references and the clips. Where they differ, a comparison of
two results shows their difference and not that of the models. The transcripts of both are kept, so
the earlier result is scored again as the later one was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import Normalizer
from moonshine_tune.metrics.wer import ScoredUtterance, score_utterance

# Texts of a clip that share less than this of their letters are of two clips. Lengths are those of
# the same samples, so that only their rounding differs.
_SAME_LETTERS, _SECONDS = 0.5, 0.05


@dataclass(frozen=True)
class AlikeScores:
    """Both results on the clips that they have in common, scored alike.

    Attributes:
        remarks: what was scored again and what was left out; empty where both were alike before.
    """

    before: tuple[ScoredUtterance, ...]
    after: tuple[ScoredUtterance, ...]
    remarks: tuple[str, ...]


def score_alike(
    before: Sequence[ScoredUtterance],
    after: Sequence[ScoredUtterance],
    normalizer: Normalizer | None,
    *,
    normalizer_before: str | None,
    name: str = "the earlier result",
) -> AlikeScores:
    """Score `before` again as `after` was scored, where it was scored in another way.

    Args:
        normalizer: of `after`; None where it is not known, and then nothing is scored again.
        normalizer_before: of `before`; None where it is not known.
        name: of `before`, for the remarks.

    Raises:
        RequestError: the two have no clip in common.
    """
    earlier = {item.id: item for item in before}
    is_other_rule = normalizer is not None and normalizer.name != normalizer_before
    pairs: list[tuple[ScoredUtterance, ScoredUtterance]] = []
    recounted = respelled = others = 0
    for item in after:
        first = earlier.get(item.id)
        if first is None:
            continue
        is_respelled = first.reference != item.reference
        if _is_another_clip(first, item) or (is_respelled and normalizer is None):
            others += 1
            continue
        # A text of ASCII is counted as it was by every version of a normalizer.
        is_plain = first.reference.isascii() and first.hypothesis.isascii()
        if normalizer is not None and (is_other_rule or is_respelled or not is_plain):
            again = _scored_again(first, item.reference, normalizer)
            recounted += again.words != first.words
            respelled += is_respelled
            first = again
        pairs.append((first, item))
    total = len(earlier.keys() | {item.id for item in after})
    if not pairs:
        raise RequestError(
            f"{name} has no clip in common with the present one"
            + (f": {others} have the same id and are others" if others else ""),
            hint="compare results of the same manifest",
        )
    remarks: list[str] = []
    if normalizer is not None and is_other_rule and (normalizer_before or recounted):
        remarks.append(
            f"{name} was scored with {normalizer_before or 'another normalizer'}: for the "
            f"comparison its transcripts are scored again with {normalizer.name}"
        )
    if respelled:
        remarks.append(
            f"{name} has other references of {respelled} clips: for the comparison its "
            "transcripts are scored again with the present ones"
        )
    if changed := sum(_has_other_sound(*pair) for pair in pairs):
        remarks.append(
            f"{changed} of {len(pairs)} recordings have changed since {name}, under the same ids: "
            "the difference is not that of the models alone"
        )
    if len(pairs) < total:
        reason = f"; {others} have the same id and are other clips" if others else ""
        remarks.append(
            f"compared on the {len(pairs)} of {total} clips that both have, {total - len(pairs)} "
            f"left out{reason}"
        )
    return AlikeScores(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), tuple(remarks))


def _scored_again(item: ScoredUtterance, reference: str, normalizer: Normalizer) -> ScoredUtterance:
    again = score_utterance(item.id, reference, item.hypothesis, normalizer)
    return replace(again, speaker=item.speaker, seconds=item.seconds, recording=item.recording)


def _has_other_sound(first: ScoredUtterance, second: ScoredUtterance) -> bool:
    return None not in (first.recording, second.recording) and first.recording != second.recording


def _is_another_clip(first: ScoredUtterance, second: ScoredUtterance) -> bool:
    """Whether two clips share no more than their id: other lengths, or quite other words."""
    if first.seconds is not None and second.seconds is not None:
        return abs(first.seconds - second.seconds) > _SECONDS
    if first.reference == second.reference:
        return False
    letters = _letters(first.reference), _letters(second.reference)
    if not all(letters):
        # One of the two has no words: whether they are of one clip cannot be known from them.
        return False
    return SequenceMatcher(None, *letters, autojunk=False).ratio() < _SAME_LETTERS


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
