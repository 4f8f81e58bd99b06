"""What the command line answers to hostile input: no traceback, no escape sequence."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moonshine_tune.cli import app as app_module
from moonshine_tune.cli.app import run
from moonshine_tune.core.text import printable

_CONTROL = "\x1b[31m\x07\x9b2J\x00\u202e"


def _is_plain(text: str) -> bool:
    return printable(text) == text


@pytest.mark.parametrize(
    "line",
    [
        '{"audio": "a.wav", "text": 5, "id": "\\u001b[2J"}',
        '{"audio": "\\u001b]0;title\\u0007.wav", "text": "a"}',
        '{"audio": "a.wav", "text": "a", "duration": "\\u009b31m"}',
        '{"audio": "a.wav", "text": "\\ud800"}',
        '{"audio": "\\udce9.wav", "text": "a"}',
        '{"audio": "a.wav", "text": "a", "duration": ' + "9" * 401 + "}",
        '{"audio": "a.wav", "text": "a", "snr": Infinity}',
        '{"audio": "a.wav", "text": "' + "a" * 10_000_000 + '"}',
        "[" * 100_000,
    ],
    ids=range(9),
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_line_of_a_manifest(
    line: str, as_json: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_text(line + "\n", encoding="utf-8")
    for words in (["check", "train.jsonl"], ["split", "train.jsonl", "--out", "parts"]):
        paths = [str(tmp_path / w) if "." in w or w == "parts" else w for w in words]
        assert run(["data", *paths, *as_json]) in (1, 2)
        shown = capfd.readouterr()
        assert _is_plain(shown.err) and _is_plain(shown.out)
        assert "unexpected" not in shown.err and "Traceback" not in shown.err
        assert len(shown.err) < 5_000
        if as_json:
            json.loads(shown.out.splitlines()[-1])


def test_escapes_of_arguments_and_of_names(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "\x1b[31mred\nerror: forged"
    name.mkdir()
    for words in (
        [f"--{_CONTROL[:5]}"], [_CONTROL[:5]], ["data", "check", str(name)],
        ["data", "check", "\udce9.jsonl", "--json"], ["report", str(name), "--json"],
        ["settings", "\x1b[31m"],
    ):  # fmt: skip
        assert run(words) == 2, words
        shown = capfd.readouterr()
        assert _is_plain(shown.err) and _is_plain(shown.out), words
        assert "Traceback" not in shown.err and "unexpected" not in shown.err


def test_names_that_a_terminal_cannot_show_do_not_end_in_a_traceback(tmp_path: Path) -> None:
    """In a terminal of ASCII, and with half of a character in a name."""
    code = "import sys; from moonshine_tune.cli.app import run; sys.exit(run(sys.argv[1:]))"
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path), "LC_ALL": "C"}
    for flag in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "data", "check", b"caf\xe9-\xc3\xa9.jsonl", *flag],
            capture_output=True, check=False, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
    assert "no such manifest" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError("Cannot allocate memory"), 3, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, "memory ran out"),
        (OSError(27, "File too large", "a.bin"), 3, "may not become as large"),
        (OSError(36, "File name too long", "aaa"), 2, "cannot be opened (File name too long)"),
        (IsADirectoryError(21, "Is a directory", "a"), 2, "a: cannot be opened"),
        (KeyError("a fault of ours"), 2, "unexpected KeyError"),
    ],
)
def test_errors_of_libraries(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_command: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "_check_outputs", fail)
    assert run(["models", "list", "--json"]) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert json.loads(shown.out)["error"]["exit_code"] == code


def test_a_trace_has_no_secret_and_no_escape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_command: object) -> None:
        raise ValueError("postgresql://me:S3CRETpw@host/db \x1b[31m token=S3CRETpw")

    monkeypatch.setattr(app_module, "_check_outputs", fail)
    assert run(["models", "list", "--debug", "--json"]) == 2
    shown = capsys.readouterr()
    assert "Traceback" in shown.err and "postgresql://me:***@host/db" in shown.err
    assert "S3CRETpw" not in shown.err + shown.out and _is_plain(shown.err)


def test_little_address_space_is_exit_code_3(tmp_path: Path) -> None:
    """Importing torch fails there, in many ways."""
    done = subprocess.run(
        [sys.executable, "-m", "moonshine_tune", "evaluate", "--manifest", "a.jsonl", "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        preexec_fn=_limit(resource.RLIMIT_AS, 300_000_000),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 3


def test_a_limit_of_file_sizes_is_exit_code_3(tmp_path: Path) -> None:
    lines = [f'{{"audio": "{n}.wav", "text": "a", "speaker": "{n}"}}\n' for n in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    for number in range(400):
        (tmp_path / f"{number}.wav").touch()
    done = subprocess.run(
        [sys.executable, "-m", "moonshine_tune", "data", "split", "a.jsonl", "--out", "parts"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=_limit(resource.RLIMIT_FSIZE, 1_000),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "may not become as large" in done.stderr


def test_a_limit_of_file_sizes_leaves_no_cut_off_module(tmp_path: Path) -> None:
    """Python writes a part of a compiled module, and cannot read it ever after."""
    code = "import sys, moonshine_tune; assert sys.dont_write_bytecode"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONPYCACHEPREFIX": str(tmp_path)},
        preexec_fn=_limit(resource.RLIMIT_FSIZE, 100_000),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_end_of_a_file_is_no_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_given: object, **_named: object) -> None:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr("moonshine_tune.cli.models.show", fail)
    assert run(["models", "list"]) == 2
    assert "Compressed file ended" in capsys.readouterr().err


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.mark.parametrize("place", ["/dev/null/out", "/proc/out", "file/out"])
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--manifest", "gone.jsonl"],
        ["train", "--train", "gone.jsonl"],
        ["export", "--run", "gone"],
        ["package", "--run", "gone", "--runtime-dir", "gone"],
        ["data", "split", "gone.jsonl"],
        ["ablate", "run", "--train", "gone.jsonl"],
        ["merge", "--run", "gone"],
        ["combine", "gone", "gone"],
        ["demo"],
    ],
)
def test_a_place_that_cannot_be_written_is_reported_before_the_work(
    words: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if place.startswith("/") and not Path(place).parent.exists():
        pytest.skip(f"no {Path(place).parent} here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run([*words, "--out", place]) == 2
    shown = capsys.readouterr().err
    assert "gone" not in shown and "--out" in shown
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file"]


def test_an_output_behind_a_link_to_itself_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.wav").write_bytes(b"")
    out = tmp_path / "loop" / "train.jsonl"
    assert run(["data", "import", str(tmp_path), "--out", str(out), "--no-text"]) == 2
    assert "unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--manifest", "dev.jsonl"],
        ["export", "--run", "run"],
        ["data", "split", "dev.jsonl"],
        ["data", "audit", "dev.jsonl"],
        ["data", "synth", "--sentences", "lines.txt"],
        ["curve", "--train", "dev.jsonl"],
        ["demo"],
    ],
)
def test_a_file_where_a_folder_is_to_be_is_refused_before_the_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of an hour were lost, because the folder could not be made at the end."""
    (tmp_path / "taken").write_text("mine")
    assert run([*words, "--out", str(tmp_path / "taken")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_where_a_file_is_to_be_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "aliases", "terms.txt", "--out", str(tmp_path)]
    assert run(words) == 2
    assert "is a directory" in capsys.readouterr().err


def test_a_working_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        code = run(["data", "check", "train.jsonl"])
    finally:
        os.chdir(tmp_path)
    assert code == 2
    assert "unexpected" not in capsys.readouterr().err
