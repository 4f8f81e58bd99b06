"""docs/shipping.md: its commands are ones that the program takes, its Python code runs."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import typer

from moonshine_tune.audio.io import load_audio, write_audio
from moonshine_tune.cli.app import app
from moonshine_tune.registry.wheel import WheelAssets

pytestmark = pytest.mark.real_model

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_GUIDE = (_DOCS / "shipping.md").read_text(encoding="utf-8")
_COMMANDS = re.findall(r"^moonshine-tune (.+)$", _GUIDE, flags=re.MULTILINE)
(_CODE,) = re.findall(r"```python\n(.+?)```", _GUIDE, flags=re.DOTALL)


def test_the_guide_shows_every_step() -> None:
    first_words = {command.split()[0] for command in _COMMANDS}
    assert first_words >= {"export", "evaluate", "benchmark", "package", "verify", "push", "merge"}


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_of_the_guide_is_one_that_the_program_takes(command: str) -> None:
    """Parsed by the program's own parser, to the end, without being run."""
    words = shlex.split(command)
    found: click.Command = typer.main.get_command(app)
    context = click.Context(found)
    while isinstance(found, click.Group):
        name = words.pop(0)
        inner = found.get_command(context, name)
        assert inner is not None, name
        found = inner
    found.make_context(found.name, words)


def test_the_code_of_the_guide_transcribes(
    wheel_assets: WheelAssets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(wheel_assets.runtime_dir, tmp_path / "my-model" / "runtime")
    write_audio(tmp_path / "clip.wav", load_audio(wheel_assets.beckett))
    monkeypatch.chdir(tmp_path)
    exec(compile(_CODE, "docs/shipping.md", "exec"), {})
    assert capsys.readouterr().out.strip().startswith("Ever tried, ever failed")


def test_links_of_the_guide_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", _GUIDE):
        assert (_DOCS / target).is_file(), target
