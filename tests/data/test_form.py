"""Checks of the form of transcripts and of speakers, and what `data fix` does about them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import ManifestScan, Utterance, read_manifest
from moonshine_tune.corpus.rolling_captions import repeated_captions
from moonshine_tune.data.checks.base import all_checks
from moonshine_tune.data.checks.checked_manifest import CheckedManifest, CheckedSplits


def checked(texts: list[str], **more: Any) -> CheckedManifest:
    items = [
        Utterance(str(number), Path(f"/c/{number}.wav"), text, **more)
        for number, text in enumerate(texts)
    ]
    return CheckedManifest("train", ManifestScan(Path("train.jsonl"), tuple(items), (), ""), (), {})


def reported(kind: str, manifest: CheckedManifest) -> list[tuple[str, str]]:
    check = all_checks()[kind]
    if check.in_manifest is not None:
        return list(check.in_manifest(manifest))
    assert check.in_splits is not None
    return list(check.in_splits(CheckedSplits.of([manifest])))


def captions(texts: list[str], **more: Any) -> list[Utterance]:
    return [
        Utterance(str(number), Path("/c/talk.wav"), text, start=number * 2.0, end=number * 2.0 + 2)
        for number, text in enumerate(texts)
    ]


# --- findings


def test_the_most_repeated_placeholder_is_named_first() -> None:
    manifest = checked(["none", "NaN", "nan", "nan", "nan", "hello", "N/A", "N/A"])
    assert reported("possible_label", manifest)[0] == ("2", "'nan', 3 times")
    assert reported("placeholder", manifest) == [
        ("6", "'N/A', 2 times"), ("7", "'N/A', 2 times"), ("1", "'NaN'")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "language", "answer"),
    [
        ("um", None, True),
        ("Hmm.", "en", True),
        ("uh, mm (laughs) um", None, True),
        ("Um, yes", None, False),
        ("hum", "en", False),
        ("um", "de", False),
        ("[noise]", "en", False),
        ("...", "en", False),
        ("음", "ko", False),
    ],
)
def test_what_a_normalizer_empties_is_named_apart(
    text: str, language: str | None, answer: bool
) -> None:
    manifest = checked([text, "and more"], language=language)
    assert [name for name, _ in reported("empty_when_normalized", manifest)] == ["0"] * answer


def test_captions_that_roll_are_named() -> None:
    rolling = captions(["so today we", "so today we will look at", "will look at the new engine",
                        "at the new engine and how it runs", "and how it runs now"])  # fmt: skip
    assert [(item.id, phrase) for item, phrase in repeated_captions(rolling)] == [
        ("1", "so today we"), ("2", "will look at"), ("3", "at the new engine"),
        ("4", "and how it runs"),
    ]  # fmt: skip
    japanese = captions(["今日は新しい", "今日は新しいエンジンを", "今日は新しいエンジンを見て",
                         "今日は新しいエンジンを見ていきます"])  # fmt: skip
    assert len(list(repeated_captions(japanese))) == 3


@pytest.mark.parametrize(
    "texts",
    [
        ["I don't know", "I don't know what to say", "well", "that is fine", "let us go", "no"],
        ["turn left", "turn right", "turn left", "turn left now", "stop", "go on", "turn left"],
        ["yes", "yes", "yes", "yes", "yes"],
        ["네", "네 알겠습니다", "감사합니다", "안녕하세요"],
    ],
)
def test_what_people_repeat_is_no_rolling_caption(texts: list[str]) -> None:
    assert list(repeated_captions(captions(texts))) == []


def test_labels_are_not_called_capitals() -> None:
    manifest = checked(["[NOISE]", "#NAME?", "NULL", "TURN LEFT", "네"])
    assert [name for name, _ in reported("capitals", manifest)] == ["3"]


@pytest.mark.parametrize(
    ("text", "language", "edited"),
    [
        ("ISPARTA'YA GİDİYORUM", "tr", "Isparta'ya gidiyorum"),
        ("İYİ AKŞAMLAR", None, "İyi akşamlar"),
        ("I SAID I'M HERE", None, "I said I'm here"),
        ("DIE STRASSE UND DER FUSS", "de", "Die strasse und der fuss"),
        ("L'EAU EST BONNE", "fr", "L'eau est bonne"),
        ("ПРИВЕТ ВСЕМ", None, "Привет всем"),
    ],
)
def test_capitals_become_small_letters_of_the_language(
    text: str, language: str | None, edited: str
) -> None:
    fix: Any = all_checks()["capitals"].declared.fix
    assert fix.apply(Utterance("u", Path("a.wav"), text, language=language), None).text == edited


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("ﬁne “so”", 'fine "so"'),
        ("ｆｕｌｌ", "full"),
        ("x² and ½", "x² and ½"),
        ("Straße №5", "Straße No5"),
    ],
)
def test_odd_characters_become_the_same_letters(text: str, edited: str) -> None:
    fix: Any = all_checks()["odd_characters"].declared.fix
    assert fix.apply(Utterance("u", Path("a.wav"), text), None).text == edited


def test_names_of_speakers_are_named() -> None:
    items = [
        Utterance(f"{day}{label}", Path(f"/c/{day}.wav"), "text", label)
        for day in ("mon", "tue") for label in ("SPEAKER_00", "SPEAKER_01", "Zoë", "zoe")
    ]  # fmt: skip
    scan = ManifestScan(Path("t.jsonl"), tuple(items), (), "", nameless={"x": "N/A"})
    manifest = CheckedManifest("train", scan, (), {})
    assert reported("local_speakers", manifest)[0] == ("train:monSPEAKER_00", "SPEAKER_00 of mon")
    assert len(reported("local_speakers", manifest)) == 4
    assert reported("similar_speakers", manifest)[0] == ("train:monZoë", "Zoë = zoe")
    assert reported("nameless_speaker", manifest) == [("x", "'N/A'")]
    assert reported("unclear_speakers", manifest) == []
    assert manifest.num_speakers == 6


# --- through the command line

# Text in the file, and after `data fix`; None drops the line.
_TEXTS = {
    "moses": ("I don &apos;t know AT&amp;T", "I don't know AT&T"),
    "quote": ("he said (and I quote) go <unk>", "he said (and I quote) go"),
    "sound": ("so [laughter], yes ♪", "so, yes"),
    "noise": ("<eps>", None),
    "error": ("#REF!", None),
    "null": ("null", "null"),
    "spaces": ("two  spaces\nand a line", "two spaces and a line"),
    "nfd": ("cafe\u0301", "café"),
    "label": ("Speaker 1: hello", "hello"),
    "name": ("ANNA: hello there", "ANNA: hello there"),
    "formula": ("x < y and y > z", "x < y and y > z"),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for name, (text, _) in _TEXTS.items():
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, 24_000), 16_000)
        record = {"id": name, "audio": f"{name}.wav", "text": text, "speaker": f"of {name}"}
        lines.append(json.dumps(record) + "\n")
    path = tmp_path / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _json(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    run([*command, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def test_check_and_audit_name_the_same_and_a_fix_shows_every_change(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit, out = str(tmp_path / "audit"), tmp_path / "fixed.jsonl"
    check = {
        item["kind"]: item["ids"]
        for item in _json(capsys, "data", "check", str(manifest))["findings"]
    }
    expected = {
        "markup": ["moses", "quote", "sound"], "silence_label": ["noise"], "placeholder": ["error"],
        "possible_label": ["null"], "speaker_prefix": ["label"], "possible_speaker": ["name"],
        "parentheses": ["quote"], "cleaned_text": ["spaces", "nfd"],
        "unlike_base_style": ["moses", "quote", "spaces"],
    }  # fmt: skip
    assert check == expected
    record = _json(capsys, "data", "audit", str(manifest), "--no-model", "--out", audit)
    audited = {item["kind"]: item["ids"] for item in record["findings"]}
    assert {kind: audited.get(kind) for kind in expected} == expected
    result = _json(capsys, "data", "fix", audit, "--apply", "--out", str(out))
    fixed = {item.id: item.text for item in read_manifest(out).utterances}
    assert fixed == {name: text for name, (_, text) in _TEXTS.items() if text is not None}
    asked = {"parentheses": 1, "possible_label": 1, "possible_speaker": 1}
    assert result["asked"].items() >= asked.items()
    changes = {name: (before, after) for name, before, after in result["changes"]}
    assert changes == {
        name: pair for name, pair in _TEXTS.items() if pair[1] not in (None, pair[0])
    }

    also = ["--also", "parentheses", "--also", "possible_label", "--also", "possible_speaker"]
    run(["data", "fix", audit, *also])
    shown = capsys.readouterr().out
    assert "quote: he said (and I quote) go <unk> → he said go" in shown
    assert "name: ANNA: hello there → hello there" in shown
    assert "1 possible_label" in shown and "--also possible" not in shown
    assert r"spaces: 'two  spaces\nand a line' → two spaces and a line" in shown


def test_import_counts_by_the_same_rules(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "words.jsonl"
    manifest.rename(source)
    command = ["data", "import", str(tmp_path), "--table", str(source), "--out"]
    counts = _json(capsys, *command, str(tmp_path / "a.jsonl"))["form"]
    assert counts == {
        "placeholder": 1, "silence_label": 1, "possible_label": 1, "speaker_prefix": 1,
        "possible_speaker": 1, "markup": 3, "parentheses": 1, "cleaned_text": 2,
    }  # fmt: skip
    assert run([*command, str(tmp_path / "b.jsonl")]) == 0
    assert "3 with markup" in capsys.readouterr().err
    assert read_manifest(tmp_path / "b.jsonl").remarks == ()


def test_a_split_joins_labels_of_diarizers_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "all.jsonl", []
    for day in ("mon", "tue", "wed", "thu"):
        (tmp_path / f"{day}.wav").touch()
        for number, label in enumerate(("SPEAKER_00", "SPEAKER_01")):
            record = {"id": f"{day}{number}", "audio": f"{day}.wav", "text": "hello",
                      "speaker": label, "start": number, "end": number + 1}  # fmt: skip
            lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    command = ["data", "split", str(path), "--dev", "0.25", "--test", "0.25", "--out"]
    assert run([*command, str(tmp_path / "one")]) == 0
    assert "start anew in each" in capsys.readouterr().err
    speakers = {item.speaker for item in read_manifest(tmp_path / "one" / "dev.jsonl").utterances}
    assert all(speaker and speaker.endswith(("/SPEAKER_00", "/SPEAKER_01")) for speaker in speakers)
    two = [*command, str(tmp_path / "two"), "--global-speakers"]
    assert run([*two, "--by", "speaker"]) == 2
    assert run(two) == 0
    path.write_text("".join(lines[:5] + lines[7:]), encoding="utf-8")
    capsys.readouterr()
    assert run([*command, str(tmp_path / "three")]) == 2
    error = capsys.readouterr().err
    assert "--local-speakers" in error and "--global-speakers" in error
    assert run([*command, str(tmp_path / "three"), "--local-speakers"]) == 0
