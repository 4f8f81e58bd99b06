"""A signal at any moment leaves a command's output complete or absent, and exit code 130."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.other_process import other_process

from moonshine_tune.cli.app import run
from moonshine_tune.core import files
from moonshine_tune.corpus import manifest
from moonshine_tune.importers import convert
from moonshine_tune.importers import run as importing
from moonshine_tune.registry import manage

pytestmark = pytest.mark.usefixtures("signal_handlers")

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.1, 8_000), 16_000)
        (folder / f"{number}.txt").write_text("one two")
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _signals_in(owner: Any, name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal when a function is called, before it works."""
    work: Callable[..., Any] = getattr(owner, name)

    def signaled(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(number)
        return work(*args, **kwargs)

    monkeypatch.setattr(owner, name, signaled)


@pytest.mark.parametrize("number", ALL)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(importing, "probe"), (convert, "thread_pool"), (manifest, "_to_record"),
     (files, "move_into_place")],
)  # fmt: skip
def test_an_interrupted_import_leaves_nothing(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    owner: Any,
    name: str,
) -> None:
    out = tmp_path / "out"
    words = ["data", "import", str(corpus), "--out", str(out / "train.jsonl")]
    with monkeypatch.context() as patch:
        _signals_in(owner, name, number, patch)
        assert run(words) == 130
    assert not out.exists()
    assert run(words) == 0
    assert _names(out) == ["train.jsonl"]


def test_an_interrupted_conversion_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "clips"
    words = ["data", "import", str(corpus), "--out", str(tmp_path / "train.jsonl"),
             "--audio-out", str(clips)]  # fmt: skip
    with monkeypatch.context() as patch:
        _signals_in(importing, "write_manifest", signal.SIGTERM, patch)
        assert run(words) == 130
    before = {path: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert len(before) == 3
    (clips / ".0.flac.partial-12345678").write_bytes(b"of a killed process")
    assert run(words) == 0
    assert {path: path.stat().st_mtime_ns for path in clips.iterdir()} == before


def test_two_imports_into_one_manifest_are_one_import_and_a_refusal(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.jsonl"
    with other_process(f"with one_writer(Path({str(out)!r})):\n    wait()\n") as process:
        assert run(["data", "import", str(corpus), "--out", str(out), "--force"]) == 2
        assert f"another process (pid {process.pid}) writes this file" in capsys.readouterr().err
    assert run(["data", "import", str(corpus), "--out", str(out)]) == 0
    assert _names(tmp_path) == ["corpus", "train.jsonl"]


def test_a_manifest_that_another_program_makes_meanwhile_is_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "train.jsonl"
    work = importing.write_manifest

    def late(path: Path, *args: Any, **kwargs: Any) -> None:
        path.write_text("mine")
        work(path, *args, **kwargs)

    monkeypatch.setattr(importing, "write_manifest", late)
    assert run(["data", "import", str(corpus), "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert run(["data", "import", str(corpus), "--out", str(out), "--force"]) == 0
    assert out.read_text() != "mine"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "synth", "--grammar", "general", "--count", "2", "--out"],
        ["data", "split", "x.jsonl", "--out"],
        ["data", "fix", "audit", "--apply", "--out"],
        ["data", "audit", "x.jsonl", "--no-model", "--out"],
        ["data", "keyterms", "x.jsonl", "--out"],
        ["export", "--run", "run", "--out"],
        ["merge", "--run", "run", "--out"],
        ["combine", "run", "other", "--out"],
        ["package", "--run", "run", "--runtime-dir", "rt", "--out"],
        ["evaluate", "--model", "tiny", "--manifest", "x.jsonl", "--out"],
        ["benchmark", "--runtime-dir", "rt", "--manifest", "x.jsonl", "--out"],
        ["demo", "--out"],
        ["plan", "run", "demo", "--out"],
        ["models", "fetch", "tiny", "--offline", "--out"],
        ["train", "--train", "x.jsonl", "--out"],
        ["train", "--resume", "--out"],
    ],
    ids=" ".join,
)
def test_every_writing_command_refuses_the_output_of_a_live_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """At once: before it looks for its inputs, none of which exist."""
    out = tmp_path / "out"
    if words[-2] == "--resume":
        out.mkdir()
        (out / "run.json").write_text('{"settings": {}, "job": "train"}')
    before = _names(tmp_path)
    with other_process(f"with one_writer(Path({str(out)!r})):\n    wait()\n") as process:
        assert run([*words, str(out)]) == 2
        assert f"another process (pid {process.pid})" in capsys.readouterr().err
        process.communicate("\n", timeout=20)
    assert _names(tmp_path) == before


def test_an_interrupted_command_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _signals_in(manage, "list_models", signal.SIGINT, monkeypatch)
    assert run(["models", "list"]) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "interrupted\n")


def test_an_interruption_while_the_program_loads_is_no_fault() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'moonshine_tune.cli.app':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from moonshine_tune.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
