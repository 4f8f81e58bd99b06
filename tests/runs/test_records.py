"""The records of the version before are read, and written again as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.runs.records import (
    AblationRecord,
    Artifact,
    AuditRecord,
    BaseModelRecord,
    BenchmarkRecord,
    DemoRecord,
    EvaluationRecord,
    ExportRecord,
    GateResult,
    PackageRecord,
    PhaseRecord,
    PlanRecord,
    Record,
    RunRecord,
    SelectionRecord,
    StepRecord,
    SynthesisRecord,
    TrialRecord,
)

_DATA = Path(__file__).parent / "data"
_FILES: dict[str, type[Artifact]] = {
    "ablation.json": AblationRecord,
    "audit.json": AuditRecord,
    "base_model.json": BaseModelRecord,
    "benchmark.json": BenchmarkRecord,
    "demo.json": DemoRecord,
    "export.json": ExportRecord,
    "package.json": PackageRecord,
    "plan.json": PlanRecord,
    "result.json": EvaluationRecord,
    "run.json": RunRecord,
    "selection.json": SelectionRecord,
    "synthesis.json": SynthesisRecord,
}


def test_every_file_is_tried() -> None:
    assert {path.name for path in _DATA.iterdir()} == {*_FILES, "trials.json"}


@pytest.mark.parametrize(("name", "model"), _FILES.items())
def test_a_file_of_the_version_before_is_read_and_written_again(
    name: str, model: type[Artifact], tmp_path: Path
) -> None:
    model.read(_DATA / name).write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (_DATA / name).read_bytes()


@pytest.mark.parametrize(("name", "model"), _FILES.items())
def test_no_key_of_the_version_before_is_unknown(name: str, model: type[Artifact]) -> None:
    assert model.read(_DATA / name).model_extra == {}


def test_trials_are_read_and_written_again() -> None:
    content = json.loads((_DATA / "trials.json").read_text(encoding="utf-8"))
    trials = [TrialRecord.model_validate(item) for item in content]
    assert json.dumps([trial.to_json() for trial in trials]) == json.dumps(content)
    assert trials[0].figures.dev_wer == 38.1188


def test_values_have_names_and_types() -> None:
    run, plan = RunRecord.read(_DATA / "run.json"), PlanRecord.read(_DATA / "plan.json")
    bench = BenchmarkRecord.read(_DATA / "benchmark.json")
    assert (run.result.best.step, run.base.name, run.device["name"]) == (200, "tiny", "cpu")
    assert plan.gates[-1] == plan.phases[-1].gates[-1]
    assert plan.record["proof"].steps["train"].state == "done"
    assert bench.other is not None
    assert bench.ratios is not None
    assert bench.ratios["median"].ci95 == (0.7621, 0.9684)
    assert bench.other.by_length[1].latency_ms["p95"] == 784.52


@pytest.mark.parametrize(("name", "model"), _FILES.items())
def test_keys_may_be_absent_and_unknown(name: str, model: type[Artifact], tmp_path: Path) -> None:
    path = tmp_path / name
    for content in ({}, {"added_later": {"a": [1, None]}}, {"schema_version": 7}):
        path.write_text(json.dumps(content), encoding="utf-8")
        assert model.read(path).to_json() == content


def _written(tmp_path: Path, **changes: Any) -> Path:
    content = json.loads((_DATA / "run.json").read_text(encoding="utf-8"))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "7"}, 'seed should be a valid integer, not "7"'),
        ({"seed": True}, "seed should be a valid integer, not true"),
        ({"settings": []}, "settings should be a valid dictionary, not []"),
        ({"result": {"best": {"dev_wer": "x"}}}, "result.best.dev_wer should be a valid number"),
        ({"result": {"canary_held": 1}}, "result.canary_held should be a valid boolean"),
        ({"created": 3, "status": 4}, "created should be a valid string, not 3, and 1 more"),
    ],
)
def test_a_wrong_type_is_one_plain_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = _written(tmp_path, **changes)
    with pytest.raises(RequestError) as caught:
        RunRecord.read(path)
    assert message in caught.value.message
    assert caught.value.where == str(path)
    assert caught.value.hint == "make it again with: moonshine-tune train"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"seed": NaN}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=r"cannot be read|not a JSON object") as caught:
        RunRecord.read(path, hint="restore it")
    assert (caught.value.where, caught.value.hint) == (str(path), "restore it")


def test_what_is_right_in_a_damaged_record_is_salvaged() -> None:
    record, problems = EvaluationRecord.salvage(
        {
            "wer": "x", "cer": 3, "ci95": [1, "b"], "by_speaker": {"ann": 1.5, "bob": None},
            "keyterms": {"terms": 2, "arms": [3, {"arm": "a", "wer": []}, {"change": 1}]},
            "later": [1],
        }
    )  # fmt: skip
    assert record.to_json() == {
        "cer": 3, "by_speaker": {"ann": 1.5}, "keyterms": {"terms": 2, "arms": [{"arm": "a"}, {}]},
        "later": [1],
    }  # fmt: skip
    assert "keyterms.arms.1.wer should be a valid number, not []" in problems
    assert any(problem.startswith("ci95: ") for problem in problems)


@pytest.mark.parametrize("content", [None, [], 3, "x", [[1]], {}])
def test_what_is_no_object_gives_an_empty_record(content: Any) -> None:
    record, problems = RunRecord.salvage(content)
    assert record == RunRecord()
    assert bool(problems) == (content != {})


def test_numbers_stay_as_they_were_given() -> None:
    given = {"wer": 3, "ci95": (0, 7.50)}
    written = json.dumps(EvaluationRecord.model_validate(given).to_json())
    assert written == '{"wer": 3, "ci95": [0, 7.5]}'
    assert json.dumps(SelectionRecord(dev_wer=float("nan")).to_json()) == '{"dev_wer": NaN}'


def test_the_state_of_a_plan_changes_and_is_written_in_full() -> None:
    phase = PhaseRecord()
    phase.steps["train"] = StepRecord(state="running")
    phase.steps["train"].state = "done"
    assert phase.to_json() == {
        "steps": {
            "train": {
                "state": "done", "inputs": {}, "output": "", "result": {}, "seconds": 0.0,
                "starts": 1, "error": "", "hint": "", "exit_code": 0,
            }
        },
        "forced": [],
    }  # fmt: skip
    assert PlanRecord(record={"proof": phase}).to_json()["record"]["proof"] == phase.to_json()


@pytest.mark.parametrize(
    ("gate", "word", "holds"),
    [
        ({"passed": True}, "passed", True),
        ({"passed": False}, "FAILED", False),
        ({"passed": None}, "open", False),
        ({"passed": None, "verdict": "not meaningful"}, "not meaningful", True),
        ({"passed": None, "verdict": "not measured"}, "not measured", False),
    ],
)
def test_a_gate_says_its_verdict(gate: dict[str, Any], word: str, holds: bool) -> None:
    result = GateResult.model_validate(gate)
    assert (result.word, result.holds) == (word, holds)


def _models(root: type[Record]) -> set[type[Record]]:
    return {root, *(model for child in root.__subclasses__() for model in _models(child))}


def test_every_record_says_what_it_is() -> None:
    public = {model for model in _models(Record) if not model.__name__.startswith("_")}
    assert len(public) > 20
    assert all(model.__doc__ for model in public)
