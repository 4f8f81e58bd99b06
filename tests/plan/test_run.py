"""Plans with small random models: done once, continued after a kill, rerun where inputs changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.plan_kill import facts

from moonshine_tune.core.errors import MachineError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.plan import actions
from moonshine_tune.plan.run import plan_status, run_plan
from moonshine_tune.plan.schema import Plan, check_plan
from moonshine_tune.plan.state import PlanFolder
from moonshine_tune.plan.status import PlanResult
from moonshine_tune.report.page import write_report

pytestmark = pytest.mark.usefixtures("one_thread")

_QUIET = SilentProgress()


@pytest.fixture
def make_plan(saved_v1: Path, speech_folder: Path, tmp_path: Path) -> Callable[..., Plan]:
    """A plan of two training phases, with manifests that a test may change."""
    for name in ("train", "dev"):
        text = (speech_folder / f"{name}.jsonl").read_text()
        moved = text.replace('"audio": "', f'"audio": "{speech_folder}/')
        (tmp_path / f"{name}.jsonl").write_text(moved)
    (tmp_path / "test.jsonl").write_text((tmp_path / "dev.jsonl").read_text())
    (tmp_path / "big-test.jsonl").write_text((tmp_path / "train.jsonl").read_text())

    def make(**changes: Any) -> Plan:
        settings = {
            "train": {"steps": 4, "batch_size": 4, "learning_rate": 5e-3},
            "select": {"every_steps": 2},
            "device": {"name": "cpu"},
        }
        gates = {"holdout": "off"}
        phase = {"kind": "train", "model": str(saved_v1), "settings": settings, "gates": gates}
        content: dict[str, Any] = {
            "name": "small",
            "data": {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"},
            "phases": {"proof": phase, "pilot": {**phase, "needs": ["proof"]}},
        }
        for key, value in changes.items():
            section = content
            *parents, last = key.split("__")
            for parent in parents:
                section = section[parent]
            section[last] = value
        return check_plan(content, source="small", folder=tmp_path)

    return make


def _states(result: PlanResult) -> dict[str, str]:
    return {phase.name: phase.state for phase in result.phases}


def test_finished_steps_do_not_run_again(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = plan_status(make_plan(), out, _QUIET)
    assert _states(before) == {"proof": "to do", "pilot": "waiting"}
    assert not out.exists()
    first = run_plan(make_plan(), out, _QUIET)
    assert first.passed, first.phases
    assert first.exit_code == 0
    assert first.ran == (
        "proof/train", "proof/read back", "proof/score torch",
        "pilot/train", "pilot/read back", "pilot/score torch",
    )  # fmt: skip
    assert run_plan(make_plan(), out, _QUIET).ran == ()
    document = json.loads(json.dumps(first.to_record()))
    keys = {"gates", "domain", "canary", "seconds", "peak_memory_mb", "adapter", "run", "phases"}
    assert keys <= document.keys()
    assert document["domain"]["adapted"]["torch"].keys() == {"wer", "ci95", "utterances"}
    assert document["seconds"]["train"] > 0


def test_only_what_depends_on_a_change_runs_again(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_plan(make_plan(), out, _QUIET)
    # A bound is judged anew without any work.
    strict = make_plan(phases__proof__gates={"holdout": -1000, "hours": 1e-9})
    judged = run_plan(strict, out, _QUIET)
    assert judged.ran == ()
    assert _states(judged) == {"proof": "failed", "pilot": "done"}
    assert judged.exit_code == 1
    # Another test set is scored; nothing is trained again.
    other = make_plan(data__test="big-test.jsonl")
    proof = plan_status(other, out, _QUIET).phases[0]
    assert (proof.state, proof.why) == ("changed", "other data.test")
    assert run_plan(other, out, _QUIET).ran == ("proof/score torch", "pilot/score torch")
    # Settings of one phase concern that phase alone.
    settings = {"train": {"steps": 3, "batch_size": 4}, "select": {"every_steps": 3},
                "device": {"name": "cpu"}}  # fmt: skip
    changed = make_plan(data__test="big-test.jsonl", phases__pilot__settings=settings)
    assert all(step.startswith("pilot/") for step in run_plan(changed, out, _QUIET).ran)
    # A recording with another content is a change of the manifest that names it.
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    assert run_plan(changed, out, _QUIET).ran[0] == "proof/train"


def test_a_plan_that_is_killed_twice_resumes_and_ends_in_the_same_report(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in training, once in a later step of the next phase."""
    undisturbed = run_plan(make_plan(), tmp_path / "undisturbed" / "plan", _QUIET)
    out = tmp_path / "killed" / "plan"
    from moonshine_tune.training.trainer import Trainer

    log, seen = Trainer.log, []

    def log_and_die(self: Trainer, step: int, record: dict[str, Any]) -> None:
        log(self, step, record)
        if "loss" in record:
            seen.append(step)
        if len(seen) == 3 and "loss" in record:
            raise SystemExit("killed")

    monkeypatch.setattr(Trainer, "log", log_and_die)
    with pytest.raises(SystemExit):
        run_plan(make_plan(), out, _QUIET)
    state = plan_status(make_plan(), out, _QUIET).phases[0]
    assert (state.state, state.why, state.next) == ("interrupted", "in train", "resume train")
    score, scored = actions.score_torch, []

    def score_and_die(*words: Any) -> Any:
        scored.append(words)
        if len(scored) == 2:
            raise SystemExit("killed again")
        return score(*words)

    monkeypatch.setattr(actions, "score_torch", score_and_die)
    with pytest.raises(SystemExit, match="again"):
        run_plan(make_plan(), out, _QUIET)
    assert seen[3:5] == [3, 4]  # from the state of step 2 on
    state = plan_status(make_plan(), out, _QUIET).phases[1]
    assert (state.state, state.next) == ("interrupted", "run score torch")
    again = run_plan(make_plan(), out, _QUIET)
    assert again.passed
    assert again.ran == ("pilot/score torch",)
    assert _figures(again) == _figures(undisturbed)
    assert PlanFolder(out).read().record["proof"].steps["train"].starts == 2
    reported, expected = (_reported(path) for path in (out, tmp_path / "undisturbed" / "plan"))
    assert len(expected) > 100
    assert reported == expected


def _reported(folder: Path) -> list[str]:
    """The facts of the report, without the name of the folder above it."""
    report = write_report(folder, None, _QUIET).report
    return [line.replace(str(folder), "PLAN") for line in facts(report)]


def _figures(result: PlanResult) -> list[tuple[str, str, str]]:
    return [
        (gate.name, gate.verdict, gate.figure) for phase in result.phases for gate in phase.gates
    ]


def test_nothing_larger_starts_before_the_proof_has_passed(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    strict = make_plan(phases__proof__gates={"holdout": -1000})
    result = run_plan(strict, out, _QUIET)
    assert _states(result) == {"proof": "failed", "pilot": "waiting"}
    assert result.exit_code == 1
    assert "pilot/train" not in result.ran
    forced = run_plan(strict, out, _QUIET, force=True)
    assert "pilot/train" in forced.ran
    pilot = forced.phases[1]
    assert pilot.state == "done"
    assert pilot.forced[0].startswith("proof is failed")
    assert not forced.passed
    kept = json.loads((out / "plan.json").read_text())["record"]["pilot"]["forced"]
    assert kept == list(pilot.forced)


def test_a_step_that_is_interrupted_or_fails_says_why_and_is_tried_again(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    read_back = actions.read_back

    def interrupt(*words: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "read_back", interrupt)
    stopped = run_plan(make_plan(), out, _QUIET)
    assert (stopped.stopped, stopped.exit_code) == (True, 130)
    recorded = json.loads((out / "plan.json").read_text())["phases"][0]
    assert (recorded["state"], recorded["why"]) == ("interrupted", "in read back")

    def full(*words: Any) -> Any:
        raise MachineError("the disk is full", hint="free some space")

    monkeypatch.setattr(actions, "read_back", full)
    result = run_plan(make_plan(), out, _QUIET)
    assert result.exit_code == 3
    proof = result.phases[0]
    assert (proof.state, proof.next) == ("failed", "try again")
    assert proof.why == "the disk is full; hint: free some space"
    monkeypatch.setattr(actions, "read_back", read_back)
    fixed = run_plan(make_plan(), out, _QUIET)
    assert fixed.passed
    assert "proof/train" not in fixed.ran


def test_a_lost_result_is_made_again(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_plan(make_plan(), out, _QUIET)
    (out / "phases" / "pilot" / "run" / "adapter" / "adapter_model.safetensors").unlink()
    pilot = plan_status(make_plan(), out, _QUIET).phases[1]
    assert (pilot.state, pilot.why) == ("changed", "what train made is missing or changed")
    assert run_plan(make_plan(), out, _QUIET).ran[0] == "pilot/train"
