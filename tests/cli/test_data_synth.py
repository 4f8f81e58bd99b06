"""`data synth` through the real entry point."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.corpus.manifest import read_manifest

pytest.importorskip("espeakng_loader", reason="the package espeakng-loader is missing")


def test_help_has_an_example_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from moonshine_tune.cli.app import run; "
        "code = run(['data', 'synth', '--help']); "
        "sys.exit(code or 10 * bool({'torch', 'numpy', 'soundfile'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "moonshine-tune data synth --grammar atc" in " ".join(done.stdout.split())


def test_train_and_test_share_no_sentence_and_no_voice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = []
    for name, more in (("train", ["--count", "8"]), ("test", ["--skip", "8", "--count", "6"])):
        out = tmp_path / "with space" / name
        words = ["data", "synth", "--grammar", "atc", "--voice-set", name, "--seed", "2"]
        assert run([*words, *more, "--out", str(out), "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    train, test = (read_manifest(Path(document["manifest"])).utterances for document in documents)
    assert (documents[0]["utterances"], documents[1]["utterances"]) == (8, 6)
    assert not {item.text for item in train} & {item.text for item in test}
    assert not {item.speaker for item in train} & {item.speaker for item in test}


def test_own_sentences_and_voices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("The first sentence.\nThe second sentence.\n", encoding="utf-8")
    words = ["data", "synth", "--sentences", str(sentences), "--voices", "en-us, en-gb+f3"]
    more = ["--voices-per-sentence", "2", "--rate", "160", "--format", "flac"]
    assert run([*words, *more, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "4 utterances of 2 sentences" in captured.out
    utterances = read_manifest(tmp_path / "out" / "manifest.jsonl").utterances
    assert {item.extra["rate_wpm"] for item in utterances} == {160}
    assert {item.speaker for item in utterances} == {"en-us", "en-gb+f3"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grammar", "atc", "--count", "2", "--voices", "en-us+f99"], "no voice is called"),
        (["--grammar", "atc", "--count", "2", "--voice-set", "valid"], "no voice set"),
        (["--grammar", "atc", "--count", "2", "--rate", "fast"], "--rate fast"),
        (["--grammar", "atc", "--count", "2", "--rate", "10-20"], "rate_wpm from 10 to 20"),
        (["--grammar", "atc"], "unlimited"),
        ([], "either from a file or from a grammar"),
        (["--sentences", "missing.txt"], "no such file"),
    ],
)
def test_wrong_requests_exit_with_2_and_a_hint_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["data", "synth", *words, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "hint: " in captured.err
    assert captured.out == "" and list(tmp_path.iterdir()) == []


def test_templates_and_terms_by_a_program_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "speak.py"
    program.write_text(
        "import sys, wave\n"
        "with wave.open(sys.argv[2], 'wb') as file:\n"
        "    file.setparams((1, 2, 16000, 0, 'NONE', ''))\n"
        "    file.writeframes(bytes(open(sys.argv[1], 'rb').read() * 200)[:9000])\n"
    )
    templates, terms = tmp_path / "templates.txt", tmp_path / "terms.txt"
    templates.write_text("contact {city} {tower|}\n", encoding="utf-8")
    terms.write_text("Zurich\tzoo rick\n", encoding="utf-8")
    words = ["data", "synth", "--templates", str(templates), "--list", "city=Zurich,Oslo"]
    words += ["--terms", str(terms), "--per-term", "2", "--engine", "command", "--no-check"]
    words += ["--engine-command", f"{sys.executable} -S {program} {{text_file}} {{out}}"]
    assert run([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["utterances"], document["left_out"]) == (6, 0)
    utterances = read_manifest(Path(document["manifest"])).utterances
    assert {item.speaker for item in utterances} == {"command:default"}
    assert all(item.is_synthetic and item.extra["engine"] == "command" for item in utterances)
    spoken = {item.text: item.extra.get("spoken") for item in utterances}
    assert spoken["contact Zurich"] == "contact zoo rick" and spoken["contact Oslo"] is None
    assert sum("zoo rick" in (text or "") for text in spoken.values()) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "synth", "--grammar", "general", "--engine", "espeek"], "did you mean 'espeak'"),
        (
            ["data", "synth", "--templates", "t.txt", "--list", "city"],
            "not a name and its items",
        ),
        (["data", "synth", "--grammar", "general", "--engine", "command"], "belong together"),
        (["train", "--train", "x.jsonl", "--engine", "flite"], "name them with --texts"),
        (["train", "--texts", "missing.txt"], "no such file of sentences"),
        (["train", "--terms", "missing.txt"], "no such file of key terms"),
    ],
)
def test_requests_for_speech_that_cannot_be_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run([*words, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []
