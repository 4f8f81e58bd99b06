"""`data audit --no-model` and `data fix` through the real entry point."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest

# Text of each line, and the text after all edits; None drops the line.
_TEXTS = {
    "plain": ("Turn left.", "Turn left."),
    "markup": ("turn left [door slams] and right", "turn left and right"),
    "both": ("[NOISE] TURN LEFT", "Turn left"),
    "shout": ("TURN LEFT HEADING A", "Turn left heading A"),
    "only markup": ("[door slams]", None),
    "repeated": ("go and then and then and then", "go and then and then and then"),
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """One line per text, a copy of one, a silent one and one with a wrong duration."""
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for name, (text, _) in _TEXTS.items():
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, 24_000), 16_000)
        records.append({"id": name, "audio": f"{name}.wav", "text": text, "speaker": name})
    soundfile.write(tmp_path / "silent.wav", np.zeros(24_000), 16_000)
    records += [
        {**records[0], "id": "copy"},
        {"id": "silent", "audio": "silent.wav", "text": "nothing"},
        {"id": "long", "audio": "markup.wav", "text": "turn left and right", "duration": 9.0,
         "start": 0.0, "end": 1.0},
    ]  # fmt: skip
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def _audit(manifest: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    out = manifest.parent / "audit"
    assert run(["data", "audit", str(manifest), "--no-model", "--out", str(out), *more]) == 1
    capsys.readouterr()
    record: dict[str, Any] = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    return record


def _fix(manifest: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    audit, out = manifest.parent / "audit", manifest.parent / "fixed.jsonl"
    command = ["data", "fix", str(audit), "--out", str(out), "--apply", "--force", *more]
    assert run([*command, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def test_fixes_edit_texts_and_drop_the_rest_with_counts(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = _audit(manifest, capsys)
    assert record["vocabulary"] is None and record["listening"] is None
    result = _fix(manifest, capsys)
    fixed = {
        item.id: item.text for item in read_manifest(manifest.parent / "fixed.jsonl").utterances
    }
    expected = {name: text for name, (_, text) in _TEXTS.items() if text is not None}
    assert fixed == {**expected, "long": "turn left and right"}
    assert result["dropped"] == {"empty_text": 1, "duplicate_audio": 1, "silent": 1}
    assert result["kept"] + sum(result["dropped"].values()) == result["lines"] == 9
    assert result["mended"] == {"strip_markup": 2, "sentence_case": 2}


def test_also_and_skip_change_what_is_fixed(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _audit(manifest, capsys)
    result = _fix(manifest, capsys, "--also", "repeated_words", "--skip", "silent")
    assert result["dropped"] == {"empty_text": 1, "duplicate_audio": 1, "repeated_words": 1}
    audit = str(manifest.parent / "audit")
    assert run(["data", "fix", audit, "--also", "louder"]) == 2
    assert "repeated_words" in capsys.readouterr().err
    assert run(["data", "fix", audit, "--out", str(manifest), "--apply", "--force"]) == 2
    manifest.write_text(manifest.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert run(["data", "fix", audit]) == 2
    assert "changed since the audit" in capsys.readouterr().err


def test_only_lines_of_the_audited_manifest_are_dropped_for_leakage(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other split has a line with the same id as a line that leaks nothing."""
    test_manifest = manifest.parent / "test.jsonl"
    lines = [{"id": "shout", "audio": "plain.wav", "text": "other", "speaker": "plain"}]
    test_manifest.write_text("".join(json.dumps(line) for line in lines), encoding="utf-8")
    record = _audit(manifest, capsys, "--against", str(test_manifest))
    leaked = {fix["id"] for fix in record["fixes"] if fix["kind"].startswith("leaked")}
    assert leaked == {"plain", "copy"}
