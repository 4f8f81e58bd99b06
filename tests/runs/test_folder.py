"""The run folder: made, opened, written to, resumed."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.runs.folder import SCHEMA_VERSION, RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "ein Lauf")


def test_a_new_folder_is_made_with_its_parents(run: RunFolder) -> None:
    assert run.path.is_dir()
    assert list(run.path.iterdir()) == []


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run").path == tmp_path / "run"


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(RequestError, match="not empty") as caught:
        RunFolder.create(tmp_path / "run")
    assert caught.value.where == str(tmp_path / "run")
    assert "--resume" in (caught.value.hint or "")


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RequestError):
        RunFolder.create(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file"


def test_only_a_folder_with_its_record_can_be_opened(tmp_path: Path, run: RunFolder) -> None:
    for path in (tmp_path / "nowhere", run.path):
        with pytest.raises(RequestError, match=r"run\.json is missing") as caught:
            RunFolder.open(path)
        assert caught.value.hint
    run.write_record(status="running")
    assert RunFolder.open(run.path).read_record().status == "running"


def test_the_record_says_how_it_came_to_be(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/bin/x", "train", "--out", f"{Path.home()}/runs/a"]
    monkeypatch.setattr(sys, "argv", words)
    run.write_record(seed=3, base={"name": "tiny"})
    record = run.read_record()
    assert record.schema_version == SCHEMA_VERSION
    assert (record.seed, record.base.to_json()) == (3, {"name": "tiny"})
    # The home folder names a person: it is not in there.
    assert record.command == ["moonshine-tune", "train", "--out", "~/runs/a"]
    assert record.created.endswith("+00:00")
    assert record.versions["moonshine-tune"]
    assert {"torch", "transformers", "peft", "python"} <= set(record.versions)
    assert set(record.platform) == {"system", "release", "arch"}
    assert record.git is None or set(record.git) == {"commit", "dirty"}


def test_an_update_keeps_the_rest(run: RunFolder) -> None:
    run.write_record(status="running", seed=3)
    run.update_record(status="finished", result={"steps": 12})
    record = run.read_record()
    assert (record.status, record.seed) == ("finished", 3)
    assert record.result.to_json() == {"steps": 12}


@pytest.mark.parametrize("content", ["{", "", "\x00"])
def test_a_damaged_record_is_named(run: RunFolder, content: str) -> None:
    run.record_path.write_text(content)
    with pytest.raises(RequestError, match="cannot be read") as caught:
        run.read_record()
    assert caught.value.where == str(run.record_path)


# --- metrics


def test_metrics_come_back_in_order(run: RunFolder) -> None:
    assert run.read_metrics() == []
    records: list[dict[str, Any]] = [{"step": 1, "loss": 2.5}, {"step": 2, "word": "é"}]
    for record in records:
        run.append_metrics(record)
    assert run.read_metrics() == records
    assert len(run.metrics_path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_line_that_was_cut_off_is_left_out(run: RunFolder) -> None:
    run.append_metrics({"step": 1, "loss": 2.5})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert [record["step"] for record in run.read_metrics()] == [1]


def test_what_a_resumed_run_writes_again_is_cut(run: RunFolder) -> None:
    for step in (0, 1, 2, 2, 3, 4):
        run.append_metrics({"step": step, "loss": float(step)})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 5, "lo')
    run.cut_metrics(2)
    run.append_metrics({"step": 3, "loss": 9.0})
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 2, 3]
    assert lines[-1]["loss"] == 9.0


def test_a_cut_on_a_full_disk_keeps_the_log(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of hours may not be lost to a resume that fails."""
    for step in range(5):
        run.append_metrics({"step": step})
    before = run.metrics_path.read_bytes()

    def full(*_given: object, **_named: object) -> int:
        run.metrics_path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_beside(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # Both ways of writing are made to fail; only one that writes beside the log keeps it.
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(os, "fsync", full_beside)
    with pytest.raises(MachineError, match="disk is full"):
        run.cut_metrics(2)
    assert run.metrics_path.read_bytes() == before


def test_a_full_disk_names_the_file(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object, **_named: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MachineError, match="disk is full") as caught:
        run.append_metrics({"step": 1})
    assert caught.value.where == str(run.metrics_path)
