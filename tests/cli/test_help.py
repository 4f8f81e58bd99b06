"""The help and the errors of the command line, as a newcomer reads them."""

import json
import os
import subprocess
import sys

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.cli.help import _SECTIONS
from moonshine_tune.cli.reference import walk_commands


@pytest.mark.parametrize("arguments", [[], ["data"], ["models"], ["ablate"], ["plan"], ["runs"]])
def test_a_list_of_commands_has_complete_summaries(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "..." not in shown.replace("COMMAND [ARGS]...", "")
    assert "<str>" not in shown


def test_the_sections_name_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for members in _SECTIONS.values() for name in members]
    assert len(names) == len(set(names))
    assert set(names) <= {name.partition(" ")[0] for name, _ in walk_commands()}
    run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [
        name for name in names if sum(line.startswith(f"  {name} ") for line in lines) != 1
    ] == []
    assert [f"{title}:" for title in _SECTIONS if f"{title}:" not in lines] == []


def test_examples_stand_on_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for name, command in walk_commands():
        assert run([*name.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for example in command.epilog.partition(": ")[2].split(" ; "):
            typed = example.rpartition(": ")[2]
            assert typed.startswith("moonshine-tune "), name
            assert any(line.strip().partition("  # ")[0] == typed for line in lines), (name, typed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing option '--out'"),
        (["train", "--tarin", "a.jsonl", "--out", "a"], "No such option: --tarin"),
        (["data", "split"], "Missing argument 'manifest'"),
    ],
)
def test_a_wrong_call_shows_an_example_and_is_a_document_too(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "\n  moonshine-tune " in shown.err
    assert shown.out == ""
    assert run([*arguments, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert message in error["message"] and error["exit_code"] == 2
    assert error["hint"].endswith(" --help")


def test_the_short_option_asks_for_help_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "split", "-h"]) == 0
    assert "Split a manifest" in capsys.readouterr().out


def test_an_unknown_command_gets_no_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trian"]) == 2
    shown = capsys.readouterr().err
    assert "Did you mean 'train'?" in shown and "Example" not in shown


def test_a_shell_completes_commands_and_options() -> None:
    code = (
        "import sys; sys.argv[0] = 'moonshine-tune'; "
        "from moonshine_tune.cli.app import run; sys.exit(run([]))"
    )
    commands, options = ["train", "transcribe", "try"], ["--dev", "--device"]
    for typed, expected in (("tr", commands), ("train --dev", options)):
        words = f"moonshine-tune {typed}"
        asked = {
            "_MOONSHINE_TUNE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | asked,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == expected, done.stderr
