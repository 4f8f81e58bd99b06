"""Two results are compared with one normalizer, on the same references and the same clips."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.alike import AlikeScores, score_alike
from moonshine_tune.metrics.wer import (
    ErrorCounts,
    PairedComparison,
    ScoredUtterance,
    compare_paired,
    score_utterance,
    summarize,
)

_TEXTS = [
    ("Rubout N I D nine", "rub out n i d 9"),
    ("don't erase twenty-one", "do not erase 21"),
    ("okay, Mister Smith's colour", "ok mr smith is color"),
    ("go", "go"),
]


def _result(
    normalizer: str, pairs: Sequence[tuple[str, str]] = _TEXTS, *, seconds: float | None = None
) -> list[ScoredUtterance]:
    return [
        score_utterance(f"u{n}", *pair, normalizer_for(normalizer), seconds=seconds)
        for n, pair in enumerate(pairs)
    ]


def _alike(
    before: Sequence[ScoredUtterance],
    after: Sequence[ScoredUtterance],
    *normalizers: str | None,
) -> AlikeScores:
    first, second = normalizers or ("english-1", "english-1")
    return score_alike(
        before, after, normalizer_for(second) if second else None, normalizer_before=first
    )


def _compared(alike: AlikeScores) -> PairedComparison:
    return compare_paired(alike.before, alike.after)


@pytest.mark.parametrize("after", ["english-1", "spelled-1", "basic-1"])
@pytest.mark.parametrize("before", ["english-1", "spelled-1", "basic-1"])
def test_the_same_transcripts_show_no_difference_under_any_normalizers(
    before: str, after: str
) -> None:
    alike = _alike(_result(before), _result(after), before, after)
    change = _compared(alike)
    assert (change.difference, change.ci95) == (0.0, (0.0, 0.0))
    assert alike.after == tuple(_result(after))
    assert bool(alike.remarks) == (before != after)
    assert all(before in remark and after in remark for remark in alike.remarks)


def test_respelled_references_are_scored_again_with_the_present_ones() -> None:
    respelled = [("rub out n i d nine", _TEXTS[0][1]), *_TEXTS[1:]]
    alike = _alike(_result("spelled-1"), _result("spelled-1", respelled), "spelled-1", "spelled-1")
    assert _compared(alike).difference == 0.0
    assert "other references of 1 clips" in alike.remarks[0]
    assert [item.reference for item in alike.before] == [text for text, _ in respelled]


def test_a_real_difference_stays() -> None:
    worse = [(reference, "") for reference, _ in _TEXTS]
    alike = _alike(_result("spelled-1"), _result("english-1", worse), "spelled-1", "english-1")
    assert _compared(alike).verdict == "worse"


def test_clips_of_one_side_are_left_out_by_count() -> None:
    alike = _alike(_result("english-1")[:3], _result("english-1")[1:])
    assert [item.id for item in alike.before] == [item.id for item in alike.after] == ["u1", "u2"]
    assert alike.remarks == ("compared on the 2 of 4 clips that both have, 2 left out",)
    assert len({item.id for item in alike.after}) == summarize(alike.before).utterances


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(RequestError, match="no clip in common"):
        _alike(_result("english-1")[:2], _result("english-1")[2:])


def test_other_clips_with_the_same_ids_are_left_out() -> None:
    """Numbered ids of two corpora: the texts have next to nothing in common."""
    others = [("entirely unlike what stood here", "x"), ("and once again", "y"), *_TEXTS[2:]]
    alike = _alike(_result("english-1"), _result("english-1", others))
    assert [item.id for item in alike.after] == ["u2", "u3"]
    assert "2 have the same id and are other clips" in alike.remarks[-1]
    with pytest.raises(RequestError, match="same id"):
        _alike(_result("english-1")[:2], _result("english-1", others)[:2])


def test_lengths_tell_clips_apart_where_both_are_known() -> None:
    spoken = [("462", "462")]
    spelled = [("four six two", "462")]
    kept = _alike(
        _result("english-1", spoken, seconds=1.5), _result("english-1", spelled, seconds=1.5)
    )
    assert len(kept.after) == 1
    with pytest.raises(RequestError, match="same id"):
        _alike(_result("english-1", seconds=1.5), _result("english-1", seconds=2.5))


def test_without_the_names_of_the_normalizers_the_counts_decide() -> None:
    """An old folder without result.json: scored again, and reported if that changed anything."""
    silent = _alike(_result("english-1"), _result("english-1"), None, "english-1")
    assert silent.remarks == ()
    changed = _alike(_result("spelled-1"), _result("english-1"), None, "english-1")
    assert _compared(changed).difference == 0.0
    assert "another normalizer" in changed.remarks[0]


def test_a_reference_that_is_empty_on_one_side_does_not_hide_words() -> None:
    filler = [("hmm", "thank you"), ("go on", "go on")]
    alike = _alike(
        _result("spelled-1", filler), _result("english-1", filler), "spelled-1", "english-1"
    )
    assert summarize(alike.before).empty.made_up_words == 2
    assert _compared(alike).ci95 == (0.0, 0.0)


def test_other_sound_under_the_same_ids_is_named() -> None:
    before = [replace(item, recording=f"sound {n}") for n, item in enumerate(_result("basic-1"))]
    after = [replace(before[0], recording="new"), *before[1:3], replace(before[3], recording=None)]
    (remark,) = _alike(before, after, "basic-1", "basic-1").remarks
    assert remark.startswith("1 of 4 recordings have changed since the earlier result")
    assert _alike(before, before, "basic-1", "basic-1").remarks == ()


def test_what_an_earlier_version_counted_otherwise_is_counted_again() -> None:
    """A version of `english-1` read `don’t` as two words."""
    right = score_utterance("u0", "don’t go", "don't go", normalizer_for("english-1"))
    assert right.words.errors == 0
    before = replace(right, words=ErrorCounts(substitutions=1, reference=3))
    assert _compared(_alike([before], [right])).difference == 0.0
