"""`data import` through the real entry point, up to a manifest that `data check` passes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.cli.app import run
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips of 1.5 s at several rates, in a folder whose name is no plain one."""
    folder = tmp_path / "Aufnahmen, März"
    folder.mkdir()
    for number, rate in enumerate((8_000, 16_000, 44_100)):
        noise = np.random.default_rng(number).normal(0, 0.1, rate * 3 // 2)
        sf.write(folder / f"clip {number}.wav", noise, rate)
    return folder


def table(folder: Path, *lines: str) -> Path:
    path = folder / "words.csv"
    path.write_text("\n".join(("file,transcript,speaker", *lines)) + "\n", encoding="utf-8")
    return path


def answer(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    captured = capsys.readouterr()
    document: dict[str, Any] = json.loads(captured.out.splitlines()[-1])
    assert len(captured.out.splitlines()) == 1
    return document, captured.err


def test_import_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = table(folder, "clip 0.wav,Grüße an alle,anna", "clip 1.wav,Turn left now,ben")
    out = folder / "new" / "train.jsonl"
    assert run(["data", "import", str(folder), "--table", str(words), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "kept 2 of 2"
    assert f"next: moonshine-tune data check {quoted(out)}" in captured.out
    assert "1 recordings of the folder are in no row" in captured.err
    utterances = read_manifest(out).utterances
    assert [item.text for item in utterances] == ["Grüße an alle", "Turn left now"]
    assert [item.speaker for item in utterances] == ["anna", "ben"]
    assert run(["data", "check", str(out)]) == 0


def test_json_lists_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.wav").write_text("not audio")
    table(folder, "clip 0.wav,one,", "bad.wav,two,", "clip 1.wav,,")
    out = folder / "train.jsonl"
    assert run(["data", "import", str(folder), "--out", str(out), "--json"]) == 0
    document, messages = answer(capsys)
    assert (document["found"], document["kept"], document["unlisted"]) == (3, 1, 1)
    assert document["reasons"] == {"unreadable": 1, "without text": 1}
    assert [item["reason"] for item in document["dropped"]] == ["unreadable", "without text"]
    assert document["manifest"] == str(out)
    assert "kept 1 of 3: 1 unreadable, 1 without text" in messages


def test_a_missing_recording_is_refused_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = table(folder, "clip 0.wav,one,", "gone.wav,two,")
    out = folder / "train.jsonl"
    arguments = ["data", "import", str(folder), "--out", str(out), "--json"]
    assert run(arguments) == 2
    document, messages = answer(capsys)
    assert f"{words}:3: no such recording: gone.wav" in document["error"]["message"]
    assert "--skip-bad" in document["error"]["hint"]
    assert "Traceback" not in messages
    assert not out.exists()
    assert run([*arguments, "--skip-bad"]) == 0
    assert answer(capsys)[0]["reasons"] == {"missing": 1}


def test_columns_can_be_named(folder: Path) -> None:
    out, words = folder / "train.jsonl", folder / "t.csv"
    words.write_text("a,b,c\nclip 0.wav,hello,anna\n")
    named = ["--audio-column", "a", "--text-column", "b", "--speaker-column", "c"]
    command = ["data", "import", str(folder), "--out", str(out)]
    assert run(command) == 2
    assert run([*command, *named]) == 0
    (utterance,) = read_manifest(out).utterances
    assert (utterance.text, utterance.speaker) == ("hello", "anna")


def test_recordings_alone_and_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "replay.jsonl"
    command = ["data", "import", str(folder), "--out", str(out)]
    assert run(command) == 2
    assert "--no-text" in capsys.readouterr().err
    assert run([*command, "--no-text", "--language", "de"]) == 0
    assert len(read_manifest(out, require_text=False)) == 3
    capsys.readouterr()
    assert run([*command, "--no-text"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--no-text", "--force"]) == 0
    assert read_manifest(out, require_text=False).utterances[0].language is None


@pytest.mark.parametrize("command", ["import", "check", "split"])
def test_help_has_an_example_and_loads_nothing_heavy(command: str) -> None:
    script = (
        "import sys; from moonshine_tune.cli.app import run; "
        f"code = run(['data', '{command}', '--help']); "
        "print([name for name in ('numpy', 'soundfile', 'torch') if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert f"moonshine-tune data {command}" in " ".join(done.stdout.split())
