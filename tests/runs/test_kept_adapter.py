"""Scores of a run are of its adapter: one that was edited or replaced by hand is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.runs.compare import compare_runs
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import adapter_checksums, altered_adapter, write_selection
from moonshine_tune.runs.manage import show_run
from moonshine_tune.runs.records import RunRecord, RunResultRecord, SelectionRecord


def _made(path: Path, weights: bytes, **config: Any) -> RunFolder:
    """A finished run, as far as its adapter and its records go."""
    run = RunFolder(path)
    run.adapter_dir.mkdir(parents=True)
    (run.adapter_dir / ADAPTER_WEIGHTS_FILE).write_bytes(weights)
    content = {"r": 8, "lora_alpha": 16, "base_model_name_or_path": "tiny"} | config
    (run.adapter_dir / ADAPTER_CONFIG_FILE).write_text(json.dumps(content))
    scores = SelectionRecord(step=4, dev_wer=12.5)
    write_selection(run.adapter_dir, scores)
    best = scores.model_copy(update={"sha256": adapter_checksums(run.adapter_dir)})
    RunRecord(
        status="finished",
        settings={"model": "tiny"},
        result=RunResultRecord(best=best),
    ).write(run.record_path)
    run.metrics_path.touch()
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return _made(tmp_path / "run", b"learned")


def test_the_adapter_of_a_run_is_its_own_wherever_it_is(run: RunFolder, tmp_path: Path) -> None:
    assert altered_adapter(run.adapter_dir) == ""
    shutil.copytree(run.path, tmp_path / "copy")
    shutil.copytree(run.adapter_dir, tmp_path / "alone")
    assert altered_adapter(tmp_path / "copy" / "adapter") == ""
    assert altered_adapter(tmp_path / "alone") == ""


def test_edited_matrices_and_another_scale_are_named(run: RunFolder) -> None:
    path = run.adapter_dir / ADAPTER_WEIGHTS_FILE
    path.write_bytes(b"averaged")
    assert altered_adapter(run.adapter_dir).startswith(f"{ADAPTER_WEIGHTS_FILE} changed after")
    assert altered_adapter(run.adapter_dir) in show_run(run.path).remarks
    other = _made(run.path.with_name("other"), b"of another run")
    compared = compare_runs([run.path, other.path], SilentProgress())
    assert f"run: {altered_adapter(run.adapter_dir)}" in compared.remarks
    path.write_bytes(b"learned")
    config = run.adapter_dir / ADAPTER_CONFIG_FILE
    config.write_text(config.read_text().replace("16", "32"))
    assert altered_adapter(run.adapter_dir).startswith(f"{ADAPTER_CONFIG_FILE} changed after")


def test_the_form_of_the_configuration_and_the_name_of_the_base_are_no_change(
    run: RunFolder,
) -> None:
    config = run.adapter_dir / ADAPTER_CONFIG_FILE
    content = json.loads(config.read_text()) | {"base_model_name_or_path": "UsefulSensors/tiny"}
    config.write_text(json.dumps(content, indent=4, sort_keys=True))
    assert altered_adapter(run.adapter_dir) == ""


def test_the_adapter_of_another_run_is_named_once_the_run_has_ended(
    run: RunFolder, tmp_path: Path
) -> None:
    other = _made(tmp_path / "other", b"of another run")
    shutil.rmtree(run.adapter_dir)
    shutil.copytree(other.adapter_dir, run.adapter_dir)
    assert "another one than that which the run chose" in altered_adapter(run.adapter_dir)
    # A run that goes on writes its adapter before its result.
    run.update_record(status="running")
    assert altered_adapter(run.adapter_dir) == ""


def test_adapters_without_a_record_are_not_judged(run: RunFolder) -> None:
    run.record_path.unlink()
    (run.adapter_dir / "selection.json").write_text('{"step": 4, "dev_wer": 12.5}')
    (run.adapter_dir / ADAPTER_WEIGHTS_FILE).write_bytes(b"of an earlier version")
    assert altered_adapter(run.adapter_dir) == ""
    (run.adapter_dir / "selection.json").unlink()
    assert altered_adapter(run.adapter_dir) == ""
    (run.adapter_dir / ADAPTER_WEIGHTS_FILE).unlink()
    assert altered_adapter(run.adapter_dir) == ""
