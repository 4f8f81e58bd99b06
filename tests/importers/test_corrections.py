"""`data import --corrections`: which corrections are transcripts, and what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.corpus_folder import make_folder

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.importers.base import ColumnNames, CorrectionOptions, ImportRequest
from moonshine_tune.importers.corrections import has_many_errors, rewriting_in
from moonshine_tune.importers.run import ImportResult, import_data

_HEADING = "audio,hypothesis,corrected,created_at"
_CONFIRMED = "a.wav,turn left now,turn left now,2026-01-01"
_CORRECTED = "b.wav,we use cooper netties here,We use Kubernetes here.,2026-01-02"


def import_log(folder: Path, content: str, name: str = "log.csv", **options: Any) -> ImportResult:
    make_folder(folder, {name: content}, {f"{stem}.wav": 1.0 for stem in "abcdef"})
    columns = ColumnNames(text=options.pop("text_column", None))
    request = ImportRequest(
        folder, folder / "out.jsonl", columns=columns, corrections=folder / name, force=True,
        correction_options=CorrectionOptions(**options),
    )  # fmt: skip
    return import_data(request, SilentProgress())


def log(*rows: str) -> str:
    return "\n".join([_HEADING, *rows]) + "\n"


def texts(folder: Path) -> dict[str, str | None]:
    return {item.id: item.text for item in read_manifest(folder / "out.jsonl").utterances}


def left_out(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "out.left-out.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_corrections_are_the_texts_and_hypotheses_are_kept(tmp_path: Path) -> None:
    result = import_log(tmp_path, log(_CONFIRMED, _CORRECTED))
    assert "1 confirmed without a change, 1 corrected" in result.remarks
    assert texts(tmp_path) == {"a": "turn left now", "b": "We use Kubernetes here."}
    extra = read_manifest(tmp_path / "out.jsonl").utterances[1].extra
    assert extra["hypothesis"] == "we use cooper netties here"
    assert result.left_out is None and not (tmp_path / "out.left-out.jsonl").exists()


def test_what_is_no_transcript_is_listed_with_its_reason(tmp_path: Path) -> None:
    result = import_log(
        tmp_path,
        log(
            _CONFIRMED,
            _CORRECTED,
            'c.wav,meet tomorrow,"Meet tomorrow. Please bring the signed contract too.",2026-01-03',
            "d.wav,what time is it,Который час сейчас,2026-01-03",
            "gone.wav,good bye,Goodbye.,2026-01-03",
            "e.wav,send it to ana,Send it to Anne.,2026-01-03",
            "e.wav,send it to ana,Send it to Anna.,2026-01-04",
        ),
    )
    assert texts(tmp_path)["e"] == "Send it to Anna."
    assert [(Path(row["audio"]).name, row["reason"]) for row in left_out(tmp_path)] == [
        ("c.wav", "rewritten"), ("d.wav", "in another script"), ("gone.wav", "missing"),
        ("e.wav", "superseded by a later correction"),
    ]  # fmt: skip
    assert left_out(tmp_path)[0]["hypothesis"] == "meet tomorrow"
    assert left_out(tmp_path)[0]["location"].endswith("log.csv:4")
    assert result.kept + len(result.dropped) == result.rows == 7


@pytest.mark.parametrize(
    ("first", "second"),
    [("raw_text", "corrected_text"), ("asrText", "editedText"), ("pred_text", "text"),
     ("recognizedText", "modifiedText"), ("text", "correction"), ("hyp", "ref"),
     ("original_text", "final_text"), ("Raw Transcript", "Final Transcript")],
)  # fmt: skip
def test_columns_are_known_by_their_usual_names(first: str, second: str, tmp_path: Path) -> None:
    rows = [{"audioPath": "a.wav", first: "cooper netties", second: "Kubernetes"},
            {"audioPath": "b.wav", first: "good day", second: "good day"}]  # fmt: skip
    import_log(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")
    assert texts(tmp_path) == {"a": "Kubernetes", "b": "good day"}
    table = (
        f"file\t{second}\t{first}\na.wav\tKubernetes\tcooper netties\nb.wav\tgood day\tgood day\n"
    )
    import_log(tmp_path, table, "log.tsv")
    assert texts(tmp_path) == {"a": "Kubernetes", "b": "good day"}


@pytest.mark.parametrize("heading", ["audio,text,text2", "audio,first try,second try"])
def test_two_readings_are_shown_with_the_flags_to_type(heading: str, tmp_path: Path) -> None:
    content = f"{heading}\na.wav,turn left now,turn left here\nb.wav,go home,go home now\n"
    first, second = heading.split(",")[1:]
    with pytest.raises(ProblemsError) as caught:
        import_log(tmp_path, content)
    assert caught.value.exit_code == 2 and len(caught.value.problems) == 2
    assert all("--hypothesis-column" in problem for problem in caught.value.problems)
    import_log(tmp_path, content, hypothesis_column=first, text_column=second)
    assert texts(tmp_path)["a"] == "turn left here"
    import_log(tmp_path, content, hypothesis_column=second, text_column=first)
    assert texts(tmp_path)["a"] == "turn left now"


def test_no_pair_of_columns_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no two columns look like") as caught:
        import_log(tmp_path, "audio,corrected\na.wav,turn left now\n")
    assert "--hypothesis-column" in (caught.value.hint or "")


def test_an_empty_correction_is_asked(tmp_path: Path) -> None:
    content = log(_CONFIRMED, "b.wav,thank you for watching,,2026-01-02", "c.wav,,,2026-01-02")
    with pytest.raises(ProblemsError, match="1 corrections are empty") as caught:
        import_log(tmp_path, content)
    assert "--empty-correction silence" in (caught.value.hint or "")
    import_log(tmp_path, content, empty="silence")
    assert texts(tmp_path) == {"a": "turn left now", "b": "", "c": ""}
    import_log(tmp_path, content, empty="unchanged")
    assert texts(tmp_path) == {"a": "turn left now", "b": "thank you for watching", "c": ""}
    import_log(tmp_path, content, empty="skip")
    assert texts(tmp_path) == {"a": "turn left now"}
    assert {row["reason"] for row in left_out(tmp_path)} == {"without a correction"}


def test_duplicates_without_times_are_asked_unless_they_agree(tmp_path: Path) -> None:
    rows = ["a.wav,go hum,Go home", "a.wav,go hum,Go Rome"]
    content = "\n".join(["audio,hypothesis,corrected", *rows]) + "\n"
    with pytest.raises(ProblemsError, match="1 recordings have several corrections") as caught:
        import_log(tmp_path, content)
    assert "--duplicates last" in (caught.value.hint or "")
    import_log(tmp_path, content, duplicates="last")
    assert texts(tmp_path) == {"a": "Go Rome"}
    import_log(tmp_path, content, duplicates="first")
    assert texts(tmp_path) == {"a": "Go home"}
    import_log(tmp_path, content.replace("Rome", "home"))
    assert texts(tmp_path) == {"a": "Go home"}


def test_a_log_without_a_change_and_a_log_of_one_row(tmp_path: Path) -> None:
    result = import_log(tmp_path, log(_CONFIRMED))
    assert any("no correction differs" in remark for remark in result.remarks)
    result = import_log(tmp_path, log(_CORRECTED))
    assert "0 confirmed without a change, 1 corrected" in result.remarks
    # The list of an earlier import does not outlive it.
    import_log(tmp_path, log(_CONFIRMED, "gone.wav,a,b,2026-01-01"))
    assert (tmp_path / "out.left-out.jsonl").exists()
    import_log(tmp_path, log(_CONFIRMED))
    assert not (tmp_path / "out.left-out.jsonl").exists()


def test_a_log_whose_recordings_are_all_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="1 missing"):
        import_log(tmp_path, log("gone.wav,a,b,2026-01-01"))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("options", [{"duplicates": "newest"}, {"empty": "drop"}])
def test_unknown_values_name_the_known_ones(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        import_log(tmp_path, log(_CONFIRMED), **options)
    assert "one of:" in (caught.value.hint or "")


_ERRORS = [
    ("we use cooper netties in production", "We use Kubernetes in production."),
    ("okay so what i wanted to say is the meeting", "Okay, so what I wanted to say is the meeting "
     "is moved."),
    ("thank you thank you thank you thank you thank you thank you", "Thank you."),
    ("it costs twenty five dollars", "It costs $25."),
    ("pull request number for hundred and to", "pull request number 402"),
    ("i went to the star to by some bred", "I went to the store to buy some bread"),
    ("um so i think uh we should go", "so I think we should go"),
    ("yes", "Go"),
    ("", "two words"),
]  # fmt: skip
_REWRITES = [
    ("we should meet at ten", "We should meet at ten. Please let me know if that works."),
    ("i need milk eggs bread", "Shopping:\n- Milk\n- Eggs\n- Bread"),
    ("so basically i was thinking that maybe we could sort of try to move the meeting to friday",
     "Let's move the meeting to Friday."),
    ("the results were bad because the data was noisy",
     "Because the data was noisy, the results were bad."),
    ("tell him i'm running late", "Apologies, I will be arriving later than planned."),
    ("the weather is nice today", "Das Wetter ist heute schön"),
    ("hey john can you send me the file", "Dear John,\n\nCould you please send me the file?\n\n"
     "Best regards,\nPeter"),
]  # fmt: skip


@pytest.mark.parametrize(("hypothesis", "correction"), _ERRORS)
def test_errors_of_a_recognizer_are_corrected(hypothesis: str, correction: str) -> None:
    assert rewriting_in(hypothesis, correction, normalizer_for("english-1")) is None


@pytest.mark.parametrize(("hypothesis", "correction"), _REWRITES)
def test_rewriting_is_told_apart(hypothesis: str, correction: str) -> None:
    assert rewriting_in(hypothesis, correction, normalizer_for("english-1"))


def test_of_a_voice_that_the_recognizer_fails_on_other_words_are_errors() -> None:
    normalizer = normalizer_for("english-1")
    pair = ("this is an offer to yato tabo kahi is", "It was an awful thing yet what could he do")
    assert rewriting_in(*pair, normalizer)
    assert has_many_errors([pair] * 5, normalizer)
    assert not has_many_errors([pair] * 2 + [("a b c d e", "a b c d f")] * 5, normalizer)
    assert rewriting_in(*pair, normalizer, many_errors=True) is None
    assert rewriting_in(pair[0], "He left", normalizer, many_errors=True)
