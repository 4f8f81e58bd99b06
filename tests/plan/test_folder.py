"""The folder of a plan: phases stay inside it, and what a dead process left is not running."""

from pathlib import Path

import pytest

from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.locks import one_writer
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.plan.run import plan_status
from moonshine_tune.plan.schema import check_plan, read_plan
from moonshine_tune.plan.state import PlanFolder
from moonshine_tune.runs.records import PhaseRecord, PlanRecord, StepRecord


def _plan(folder: Path, *names: str) -> str:
    phases = "".join(f"  {name}: {{kind: doctor}}\n" for name in names)
    (folder / "a.jsonl").write_text('{"audio": "a.wav", "text": "one"}\n')
    path = folder / "plan.yaml"
    data = "data: {train: a.jsonl, test: a.jsonl}"
    path.write_text(f"name: x\n{data}\nphases:\n{phases}", encoding="utf-8")
    return str(path)


def test_a_phase_cannot_leave_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("precious")
    plan = _plan(tmp_path, "fine", '"../../victim"')
    assert run(["plan", "run", plan, "--out", str(tmp_path / "out" / "plan")]) == 2
    assert f"{plan}:5: the name of phase '../../victim' has '/'" in capsys.readouterr().err
    assert (tmp_path / "victim" / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (('""',), ":4: the name of phase '' is empty"),
        (('".."',), "dot"),
        (("/tmp/x",), "has '/'"),
        (('"a\\tb"',), "has '\\t'"),
        (("x" * 81,), "80 bytes"),
        (("nul",), "reserved"),
        (("Train", "train"), ":5: phases 'Train' and 'train' are one folder"),
    ],
)
def test_names_that_cannot_be_folders(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        read_plan(_plan(tmp_path, *names))
    assert problem in str(caught.value)


def test_names_of_other_scripts_and_numbers_are_fine(tmp_path: Path) -> None:
    assert read_plan(_plan(tmp_path, "größe", "试验", "1")).order == ("größe", "试验", "1")


def test_a_plan_that_is_not_a_file_is_checked_too(tmp_path: Path) -> None:
    _plan(tmp_path)
    data = {"train": "a.jsonl", "test": "a.jsonl"}
    content = {"name": "x", "data": data, "phases": {"a/b": {"kind": "doctor"}}}
    with pytest.raises(ProblemsError, match="has '/'"):
        check_plan(content, source="p", folder=tmp_path)


def test_no_step_of_a_dead_plan_is_running(tmp_path: Path) -> None:
    plan, folder = read_plan(_plan(tmp_path, "a")), PlanFolder(tmp_path / "out")
    step = StepRecord(state="running")
    PlanRecord(record={"a": PhaseRecord(steps={"doctor": step})}).write(folder.record_path)
    (phase,) = plan_status(plan, folder.path, SilentProgress()).phases
    assert phase.state != "running"
    assert [item["state"] for item in phase.steps] == ["interrupted"]
    with one_writer(folder.path):
        (phase,) = plan_status(plan, folder.path, SilentProgress()).phases
        assert (phase.state, phase.steps[0]["state"]) == ("running", "running")
