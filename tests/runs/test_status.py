"""A run is running while a process works in its folder, and only then."""

from pathlib import Path

import pytest
from tests.other_process import other_process

from moonshine_tune.cli.app import run
from moonshine_tune.core.locks import one_writer
from moonshine_tune.report.gates import gates_of
from moonshine_tune.report.reading import read_report_input
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.manage import clean_leftovers, clean_runs
from moonshine_tune.runs.summary import read_run


def _run(path: Path, status: str = "running") -> Path:
    folder = RunFolder.create(path)
    folder.write_record(settings={"model": "tiny"}, data={"dev": "same"}, status=status)
    folder.append_metrics({"step": 0, "dev_wer": 60.0})
    return path


@pytest.mark.parametrize(
    ("recorded", "alone"),
    [("running", "stopped"), ("interrupted", "interrupted"), ("failed", "failed")],
)
def test_the_lock_says_whether_a_run_is_running(tmp_path: Path, recorded: str, alone: str) -> None:
    path = _run(tmp_path / "a", recorded)
    assert read_run(path).status == alone
    with one_writer(path):
        # Also one that is resumed.
        assert read_run(path).status == "running"
        assert read_run(path).live
    assert read_run(path).status == alone


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    path = _run(tmp_path / "a", "finished")
    with one_writer(path):
        assert read_run(path).status == "finished"


def test_the_report_of_a_dead_run_says_so(tmp_path: Path) -> None:
    path = _run(tmp_path / "a")
    (gate, *_) = gates_of(read_report_input(path))
    assert (gate.passed, gate.figure) == (False, "stopped")
    with one_writer(path):
        (gate, *_) = gates_of(read_report_input(path))
        assert (gate.passed, gate.figure) == (None, "running")


def test_clean_keeps_a_live_run_and_removes_a_killed_one(tmp_path: Path) -> None:
    live, killed = _run(tmp_path / "live"), _run(tmp_path / "killed")
    unknown = _run(tmp_path / "unknown")
    held = "with one_writer(Path({!r})):\n    wait()\n"
    with other_process(held.format(str(killed))) as process:
        process.kill()
        process.wait()
    with other_process(held.format(str(live))):
        cleaned = {item.run.path: item for item in clean_runs(tmp_path, keep=1, dry_run=False)}
    assert cleaned[live].keep
    # Of an earlier version, or on a machine whose locks are not visible here.
    assert cleaned[unknown].keep
    assert cleaned[killed].removed
    assert (live.exists(), unknown.exists(), killed.exists()) == (True, True, False)


def test_clean_removes_what_killed_processes_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _run(tmp_path / "runs" / "a", "finished")
    left = [path / ".state.partial-12345678", path / "eval" / ".dev.jsonl.partial-12345678",
            tmp_path / "runs" / ".b.partial-12345678"]  # fmt: skip
    for item in left:
        item.mkdir(parents=True)
    code = f"with complete_folder(Path({str(tmp_path / 'runs' / 'c')!r})):\n    wait()\n"
    with other_process(code):
        assert run(["runs", "clean", str(tmp_path / "runs"), "--keep", "1", "--dry-run"]) == 0
        assert all(item.exists() for item in left)
        assert run(["runs", "clean", str(tmp_path / "runs"), "--keep", "1"]) == 0
        assert f"left by a dead process: {left[0]}" in capsys.readouterr().err
        assert not any(item.exists() for item in left)
        assert list((tmp_path / "runs").glob(".c.partial-*"))
    assert len(clean_leftovers(tmp_path, dry_run=False)) == 2
