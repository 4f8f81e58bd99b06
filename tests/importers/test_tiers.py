"""TextGrids and ELAN annotations: which tiers have the texts, and which are speakers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.corpus_folder import Imported, import_folder

from moonshine_tune.core.errors import ProblemsError, RequestError

_Intervals = list[tuple[float, float, str]]
_UTTERANCES: _Intervals = [(0, 2, "go left"), (2, 3, ""), (3, 6, "turn right now")]
_WORDS: _Intervals = [(0, 1, "go"), (1, 2, "left"), (3, 4, "turn"), (4, 5, "right"), (5, 6, "now")]


def _short(tiers: dict[str, _Intervals]) -> str:
    """A short TextGrid."""
    lines = ['File type = "ooTextFile short"', '"TextGrid"', "", "0", "10", "<exists>"]
    lines.append(str(len(tiers)))
    for name, intervals in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0", "10", str(len(intervals))]
        for start, end, text in intervals:
            lines += [str(start), str(end), f'"{text}"']
    return "\n".join(lines) + "\n"


def _elan(tiers: dict[str, _Intervals]) -> str:
    times = [time for intervals in tiers.values() for start, end, _ in intervals
             for time in (start, end)]  # fmt: skip
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{number}" TIME_VALUE="{round(1000 * time)}"/>'
        for number, time in enumerate(times)
    )
    content, slot = "", 0
    for name, intervals in tiers.items():
        content += f'<TIER LINGUISTIC_TYPE_REF="default" TIER_ID="{name}">'
        for _, _, text in intervals:
            content += (
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{slot}" '
                f'TIME_SLOT_REF1="ts{slot}" TIME_SLOT_REF2="ts{slot + 1}">'
                f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
            slot += 2
        content += "</TIER>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0">'
        f"<TIME_ORDER>{slots}</TIME_ORDER>{content}</ANNOTATION_DOCUMENT>"
    )


_FORMS = pytest.mark.parametrize(
    ("name", "form"), [("talk.TextGrid", _short), ("talk.eaf", _elan)], ids=["Praat", "ELAN"]
)


def _import(tmp_path: Path, name: str, content: str | bytes, **options: str) -> Imported:
    return import_folder(tmp_path, {name: content}, {"talk.wav": 10.0}, **options)


@_FORMS
def test_labels_of_silence_are_no_texts(name: str, form: object, tmp_path: Path) -> None:
    intervals = [(0, 1, "sil"), (1, 2, "go left"), (2, 3, "spn"), (3, 4, "go right"), (4, 5, "sp")]
    imported = _import(tmp_path, name, form({"utterance": intervals}))  # type: ignore[operator]
    assert imported.texts == ["go left", "go right"]
    assert "labels of silence are no texts: sil, spn, sp" in imported.remarks


@_FORMS
def test_tiers_that_alternate_are_speakers(name: str, form: object, tmp_path: Path) -> None:
    tiers = {"Ada": [(0, 2, "go left"), (5, 7, "stop now")], "Grace H.": [(2, 4, "why is that")]}
    imported = _import(tmp_path, name, form(tiers))  # type: ignore[operator]
    assert [(item.id, item.speaker, item.start, item.text) for item in imported.utterances] == [
        ("talk-00001", "Ada", 0.0, "go left"),
        ("talk-00002", "Grace H.", 2.0, "why is that"),
        ("talk-00003", "Ada", 5.0, "stop now"),
    ]
    assert "tiers are speakers: Ada, Grace H." in imported.remarks


@_FORMS
@pytest.mark.parametrize("order", [("words", "ort"), ("Wörter", "Satz"), ("b", "a")])
def test_words_inside_of_utterances_are_no_speaker(
    name: str, form: object, order: tuple[str, str], tmp_path: Path
) -> None:
    phones = [(n / 2, n / 2 + 0.5, "x") for n in (0, 1, 2, 3, 6, 7, 8, 9)]
    tiers = {"p": phones, order[0]: _WORDS, order[1]: _UTTERANCES}
    imported = _import(tmp_path, name, form(tiers))  # type: ignore[operator]
    assert imported.texts == ["go left", "turn right now"]
    assert {item.speaker for item in imported.utterances} == {None}
    assert f"the tier '{order[1]}' has the utterances" in imported.remarks


@pytest.mark.parametrize(
    "tiers",
    [
        pytest.param({"Ada": _UTTERANCES, "notes": [(2, 3, "door slams")]}, id="notes"),
        pytest.param({"Ada": _UTTERANCES, "deu": [(0, 2, "geh"), (3, 6, "dreh")]}, id="gloss"),
        pytest.param({"Ada": [(0, 4, "go left")], "Ben": [(2, 6, "go right")]}, id="overlap"),
        pytest.param(
            {"Ada": [(0, 9, "go left")], "Ben": [(1, 1.5, "mhm"), (5, 5.5, "yes")]}, id="answers"
        ),
        pytest.param({"words": _WORDS}, id="words"),
        pytest.param({"phones": [(0, 0.5, "g"), (0.5, 1, "ow")]}, id="phones"),
    ],
)
def test_doubtful_tiers_are_shown(tiers: dict[str, _Intervals], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"Its tiers: {', '.join(tiers)}") as caught:
        _import(tmp_path, "talk.TextGrid", _short(tiers))
    assert "--tier NAME" in str(caught.value.hint) and "--tier '*'" in str(caught.value.hint)


def test_tiers_are_taken_as_the_user_says(tmp_path: Path) -> None:
    content = _short({"Ada": _UTTERANCES, "Ben": [(6, 7, "yes")], "notes": [(2, 3, "door slams")]})
    name = "talk.TextGrid"
    assert _import(tmp_path, name, content, tier="Ben").spans == [(6.0, 7.0, "yes")]
    several = _import(tmp_path, name, content, tier="Ada, Ben")
    assert [item.speaker for item in several.utterances] == ["Ada", "Ada", "Ben"]
    everything = _import(tmp_path, name, content, tier="*")
    assert [item.speaker for item in everything.utterances] == ["Ada", "notes", "Ada", "Ben"]


def test_a_tier_without_words_does_not_count(tmp_path: Path) -> None:
    content = _short({"Ada": _UTTERANCES, "Ben": [(0, 3, ""), (3, 10, "sil")]})
    imported = _import(tmp_path, "talk.TEXTGRID", content.encode("utf-16"))
    assert imported.texts == ["go left", "turn right now"]


def test_an_alignment_beside_its_transcript_is_left_out(tmp_path: Path) -> None:
    """The Montreal Forced Aligner writes words and phones beside its `.lab` files."""
    files = {"a.lab": "go left", "a.TextGrid": _short({"words": _WORDS[:2], "phones": _WORDS[:2]})}
    imported = import_folder(tmp_path, files, {"a.wav": 10.0})
    assert imported.spans == [(None, None, "go left")]
    assert ".TextGrid files of words or phones" in imported.remarks


def test_turns_that_overlap_are_named(tmp_path: Path) -> None:
    tiers = {"Ada": [(0, 4.0, "go left"), (8, 9, "now")], "Ben": [(3.5, 6, "go right")]}
    with pytest.raises(ProblemsError, match=r"starts at 3\.5 s, but the cue before it ends at 4 s"):
        _import(tmp_path, "talk.TextGrid", _short(tiers))


def test_xml_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="neither captions nor an ELAN annotation"):
        _import(tmp_path, "talk.txt", "<?xml version='1.0'?>\n<Trans></Trans>")
    with pytest.raises(RequestError, match="cannot be read as an ELAN annotation"):
        _import(tmp_path, "talk.eaf", "<ANNOTATION_DOCUMENT>")


@_FORMS
def test_a_time_beyond_all_numbers_is_refused_by_name(
    name: str, form: Callable[[dict[str, _Intervals]], str], tmp_path: Path
) -> None:
    content = form({"words": [(0, 10**400, "go left")]})
    with pytest.raises((ProblemsError, RequestError), match="talk"):
        _import(tmp_path, name, content)
