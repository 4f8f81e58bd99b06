"""The words and the WER of exported files, judged beside the base's own files."""

from collections.abc import Sequence

import pytest

from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.demo.gates import export_gates
from moonshine_tune.export.parity.verdict import ClipTranscripts, judge, least_clips
from moonshine_tune.runs.records import EQUAL, NOT_DECIDED, WORSE, AgainstBase

_TEXT = "one two three four five six seven eight"


def _changed(text: str, words: int) -> str:
    """The text with its first words changed."""
    return " ".join(["wrong"] * words + text.split()[words:])


def _clips(
    count: int,
    changed: Sequence[int],
    base_changed: Sequence[int] = (),
    *,
    text: str = _TEXT,
    has_text: bool = True,
    words: int = 1,
) -> list[ClipTranscripts]:
    """Clips of which the runtime changes `words` words in some, and so does the base's in some."""
    return [
        ClipTranscripts(
            text if has_text else None,
            text,
            _changed(text, words) if index in changed else text,
            text,
            _changed(text, words) if index in base_changed else text,
        )
        for index in range(count)
    ]


def _judged(clips: Sequence[ClipTranscripts], bound: float = 5.0) -> AgainstBase:
    return judge(clips, normalizer_for("basic-1"), bound)


def test_files_that_differ_as_much_as_the_bases_own_are_equal() -> None:
    """A fixed bound of 5 % refused them: 12.5 % of the words differ, in both alike."""
    judged = _judged(_clips(60, range(60), range(60)))
    assert judged.words.adapted == judged.words.base == 12.5
    assert judged.verdict == judged.words.verdict == EQUAL


def test_files_that_differ_more_than_the_bases_own_are_worse() -> None:
    judged = _judged(_clips(60, range(60), range(0, 60, 4)))
    assert judged.words.verdict == WORSE and judged.words.ci95[0] > 5.0
    assert judged.verdict == WORSE


def test_a_loss_of_wer_is_worse_where_the_words_are_within_their_margin() -> None:
    """The base's changes do no harm; those of the files are all errors."""
    harmless = [
        ClipTranscripts(_TEXT, _TEXT, _changed(_TEXT, 1), _changed(_TEXT, 1), _TEXT)
        if index % 2
        else ClipTranscripts(_TEXT, _TEXT, _changed(_TEXT, 1), _TEXT, _changed(_TEXT, 1))
        for index in range(80)
    ]
    judged = _judged(harmless)
    assert judged.words.verdict == EQUAL
    assert judged.wer is not None and judged.wer.verdict == WORSE
    assert judged.verdict == WORSE


def test_a_base_that_is_closer_to_torch_by_chance_refuses_nothing() -> None:
    """Files that are within the margin by themselves need no base."""
    judged = _judged(_clips(100, range(0, 100, 20)))
    assert judged.words.base == 0.0 and judged.words.adapted == 0.625
    assert judged.verdict == EQUAL


@pytest.mark.parametrize("has_text", [True, False])
def test_a_few_clips_decide_nothing(has_text: bool) -> None:
    """Digits: of 40 words three differ, and two of the base's."""
    judged = _judged(_clips(40, range(3), range(20, 22), text="four", has_text=has_text))
    assert judged.words.adapted == 7.5 and judged.words.base == 5.0
    assert judged.verdict == NOT_DECIDED
    assert (judged.words.clips_needed or 0) > 40
    assert (judged.wer is not None) is has_text


@pytest.mark.parametrize("changed", [0, 1, 3])
def test_a_single_clip_is_not_decided(changed: int) -> None:
    """Resampling one clip gives an interval of no width."""
    clips = _clips(1, range(1), words=changed)
    assert _judged(clips).verdict == NOT_DECIDED


def test_clips_that_are_all_the_same_decide_by_their_number() -> None:
    verdicts = [_judged(_clips(count, ())).verdict for count in (5, 15, 40, 60)]
    assert verdicts == [NOT_DECIDED, NOT_DECIDED, NOT_DECIDED, EQUAL]
    assert [least_clips(bound) for bound in (5.0, 10.0, 100.0)] == [19, 9, 0]
    without_texts = [_judged(_clips(count, (), has_text=False)).verdict for count in (15, 25)]
    assert without_texts == [NOT_DECIDED, EQUAL]


def test_transcripts_without_words_decide_nothing() -> None:
    empty = [ClipTranscripts(None, "", "", "", "")] * 60
    assert _judged(empty).verdict == NOT_DECIDED
    silent = [ClipTranscripts("", "", "", "", "")] * 60
    assert _judged(silent).wer is None
    # They count for nothing beside clips with words, either.
    few = _judged(_clips(5, ()) + silent)
    assert few.words.clips == 5 and few.verdict == NOT_DECIDED


def test_words_that_only_the_runtime_makes_up_are_worse() -> None:
    made_up = [ClipTranscripts(None, "", "thank you", "", "")] * 40
    assert _judged(made_up).verdict == WORSE


def test_clips_without_texts_decide_the_wer_where_few_words_differ() -> None:
    """The WER changes no more than the words do."""
    few = _clips(40, range(1), text="four")
    judged = _judged(few)
    assert judged.wer is not None and judged.wer.verdict == judged.verdict == NOT_DECIDED
    judged = _judged(few + _clips(80, range(2), has_text=False))
    assert judged.wer is not None and judged.wer.clips == 40
    assert judged.wer.verdict == judged.verdict == EQUAL


def test_one_clip_that_goes_wrong_is_neither_hidden_nor_a_refusal() -> None:
    clips = _clips(100, ())
    clips[7] = ClipTranscripts(_TEXT, _TEXT, "the " * 200, _TEXT, _TEXT)
    judged = _judged(clips)
    assert judged.verdict == NOT_DECIDED
    assert judged.words.adapted > 20


def test_the_margin_of_the_wer_grows_with_it() -> None:
    hard = [ClipTranscripts(_TEXT, _changed(_TEXT, 4), _changed(_TEXT, 4), _TEXT, _TEXT)] * 60
    judged = _judged(hard)
    assert judged.wer is not None and judged.wer.margin == 5.0
    easy = _judged(_clips(60, ())).wer
    assert easy is not None and easy.margin == 2.0


def test_the_number_of_clips_that_decide_is_about_right() -> None:
    """What is not decided on 40 clips is decided on as many as the advice says."""
    few = _judged(_clips(40, range(0, 40, 8), range(3, 40, 8), text="four", has_text=False))
    needed = few.words.clips_needed or 0
    assert few.verdict == NOT_DECIDED and 40 < needed < 2000
    many = _clips(needed, range(0, needed, 8), range(3, needed, 8), text="four", has_text=False)
    assert _judged(many).verdict == EQUAL


def test_a_difference_at_the_margin_needs_more_clips_than_can_be_told() -> None:
    at_margin = _clips(200, range(0, 200, 20), text="four", has_text=False)
    judged = _judged(at_margin)
    assert judged.verdict == NOT_DECIDED and judged.words.clips_needed is None


# --- the gate of plans and demonstrations


def test_a_gate_that_is_not_decided_holds_and_says_so() -> None:
    judged = _judged(_clips(40, range(3), range(20, 22), text="four"))
    parity = {"passed": None, "verdict": NOT_DECIDED, "word_difference": 7.5, "words": 40,
              "clips": 40, "advice": "about 100", "against_base": judged.to_json()}  # fmt: skip
    exported = {"changed": 3, "changed_files": ["a.ort"], "parity": parity}
    *_, agrees = export_gates(exported, 5.0)
    assert (agrees.passed, agrees.word, agrees.holds) == (None, "not decided", True)
    assert "+2.50 points beyond the base's own files" in agrees.figure
    assert agrees.note == "about 100"
    worse = {"passed": False, "verdict": WORSE, "first_difference": "words: too many"}
    *_, refused = export_gates(exported | {"parity": parity | worse}, 5.0)
    assert not refused.holds and refused.figure == "words: too many"
