"""What holds for every command line: native Windows, and the list of settings."""

import json
import os
import subprocess
import sys

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.config.settings import setting_rows


def test_native_windows_is_refused_with_the_way_through_wsl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert run(["models", "list", "--json"]) == 3
    shown = capsys.readouterr()
    assert "WSL" in shown.err and "hint: run: wsl --install" in shown.err
    assert json.loads(shown.out)["error"]["exit_code"] == 3


def test_the_refusal_needs_no_module_that_windows_lacks() -> None:
    code = (
        "import sys\n"
        "for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "from moonshine_tune.cli.app import run\n"
        "sys.platform = 'win32'\n"
        "sys.exit(run(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "WSL" in done.stderr) == (3, True), done.stderr


def test_settings_lists_defaults_and_meanings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings"]) == 0
    shown = capsys.readouterr().out
    assert [name for name, *_ in setting_rows() if f"{name}  [default: " not in shown] == []
    assert run(["settings", "adapter", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert listed["adapter.rank"]["default"] == 8
    assert all(name.startswith("adapter.") for name in listed)
    assert run(["settings", "retain.strengths"]) == 0
    assert capsys.readouterr().out.startswith("retain.strengths  [default: [1, 0.8, 0.6]]\n")


def test_an_unknown_setting_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings", "adapter.rnk"]) == 2
    assert "did you mean 'adapter.rank'?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["settings"], ["train", "--help"]])
def test_a_reader_that_is_gone_is_no_answer_of_no(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "moonshine_tune", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
