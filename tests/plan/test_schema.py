"""Plan files: all problems are reported together; gates follow from figures alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documentation import DOCS, blocks_of

from moonshine_tune.cli.app import run
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.plan.gates import gates_of
from moonshine_tune.plan.init import PlanAnswers, plan_text, write_plan
from moonshine_tune.plan.schema import KINDS, DataSection, check_plan, plan_names, read_plan
from moonshine_tune.plan.state import (
    Fingerprints,
    PlanFolder,
    changed_inputs,
)
from moonshine_tune.runs.records import PhaseRecord, PlanRecord, StepRecord

Answers = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"audio": "a.wav", "text": "one"}\n')
    return tmp_path


def _content(**phases: Any) -> dict[str, Any]:
    data = {"train": "train.jsonl", "test": "test.jsonl"}
    return {"name": "p", "data": data, "phases": phases or {"doctor": None}}


def _problems(content: dict[str, Any], folder: Path) -> str:
    with pytest.raises(ProblemsError) as raised:
        check_plan(content, source="plan.yaml", folder=folder)
    return str(raised.value)


def test_every_shipped_plan_can_be_read() -> None:
    assert "demo" in plan_names()
    for name in plan_names():
        assert read_plan(name).order


def test_phases_come_after_those_they_need(folder: Path) -> None:
    content = _content(
        ship={"source": "b"},
        b={"kind": "train", "needs": ["a"]},
        a={"kind": "train", "needs": ["doctor"]},
        doctor=None,
    )
    plan = check_plan(content, source="p", folder=folder)
    assert plan.order == ("doctor", "a", "b", "ship")
    assert plan.settings.needs("ship") == ("b",)


def test_an_unknown_phase_is_reported_with_the_nearest(folder: Path) -> None:
    problems = _problems(
        _content(proof={"kind": "train", "needs": ["docter"]}, doctor=None), folder
    )
    assert "phases.proof.needs: no phase is called 'docter'; did you mean 'doctor'?" in problems


def test_an_unknown_kind_is_reported_with_the_nearest(folder: Path) -> None:
    problems = _problems(_content(proof={"kind": "trian"}), folder)
    assert "phases.proof: no kind of phase is called 'trian'; did you mean 'train'?" in problems
    problems = _problems(_content(shp={"source": "doctor"}, doctor=None), folder)
    assert "no kind of phase is called 'shp'; did you mean 'ship'?" in problems


def test_a_cycle_is_reported_with_its_path(folder: Path) -> None:
    problems = _problems(
        _content(a={"kind": "train", "needs": ["b"]}, b={"kind": "train", "needs": ["a"]}), folder
    )
    assert "in a cycle: a → b → a" in problems


def test_all_missing_files_are_reported(folder: Path) -> None:
    content = _content()
    content["data"] |= {"train": "none.jsonl", "canary": "gone/c.jsonl"}
    problems = _problems(content, folder)
    assert "data.train: no such manifest: none.jsonl" in problems
    assert "data.canary: no such manifest: gone/c.jsonl" in problems


@pytest.mark.parametrize("figure", ["", "null", "~"])
def test_a_gate_without_a_number_is_refused(folder: Path, figure: str) -> None:
    phases = yaml.safe_load(
        f"ship:\n  source: a\n  gates:\n    p95_ms: {figure}\na: {{kind: train}}"
    )
    problems = _problems(_content(**phases), folder)
    assert "phases.ship.gates.p95_ms has no number" in problems


def test_a_gate_is_a_number_or_off(folder: Path) -> None:
    phases = yaml.safe_load("a: {kind: train, gates: {hours: soon, canary_points: off}}")
    problems = _problems(_content(**phases), folder)
    assert "phases.a.gates.hours = 'soon'" in problems
    assert "canary_points" not in problems


def test_all_problems_are_reported_together(folder: Path) -> None:
    content = _content(
        a={"kind": "train", "presset": "tiny", "gates": {"holdot": 0}},
        b={"kind": "ablate", "space": "nowhere", "settings": {"train": {"stepps": 3}}},
        c={"kind": "ship", "source": "doctor"},
        doctor=None,
    )
    content["dat"] = {}
    problems = _problems(content, folder)
    for piece in ("did you mean 'preset'", "did you mean 'holdout'", "did you mean 'data'"):
        assert piece in problems
    content = _content(
        b={"kind": "ablate", "space": "nowhere", "settings": {"train": {"stepps": 3}}},
        c={"kind": "ship", "source": "doctor"},
        doctor=None,
    )
    problems = _problems(content, folder)
    for piece in ("no such search space", "did you mean 'train.steps'", "trains no adapter"):
        assert piece in problems


def test_a_set_that_is_not_synthesized_is_reported(folder: Path) -> None:
    content = _content(speech={"kind": "synthesize"})
    content["data"]["train"] = "speech:trian"
    assert "did you mean 'train'" in _problems(content, folder)


@pytest.mark.parametrize("text", ["- 1", "{", "\xff"])
def test_a_file_that_is_no_plan_is_one_plain_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match=r"p\.yaml"):
        read_plan(str(tmp_path / "p.yaml"))
    with pytest.raises(RequestError, match="no such plan"):
        read_plan(str(tmp_path / "none.yaml"))


def test_the_guide_names_every_key(folder: Path) -> None:
    guide = DOCS / "guides" / "plan.md"
    models: list[Any] = [DataSection, *KINDS.values()]
    models += [type(kind.model_fields["gates"].default) for kind in KINDS.values()
               if "gates" in kind.model_fields]  # fmt: skip
    keys = {key for model in models for key in model.model_fields} - {"kind", "gates"}
    text = guide.read_text(encoding="utf-8")
    assert {key for key in keys if f"`{key}`" not in text} == set()
    (example,) = [block.text for block in blocks_of(guide) if block.language == "yaml"]
    (folder / "data").mkdir()
    for name in ("train", "dev", "test"):
        (folder / "data" / f"{name}.jsonl").touch()
    assert check_plan(yaml.safe_load(example), source="p", folder=folder).order


# --- gates


def _train_record(**figures: Any) -> PhaseRecord:
    train = {"stopped": "finished", "steps": 9, "skipped_steps": 0, "out_of_memory": 0,
             "first_loss": 2.0, "last_loss": 1.0, "train_seconds": 30.0} | figures  # fmt: skip
    change = {"before": 20.0, "after": 10.0, "difference": -10.0, "ci95": [-14.0, -6.0]}
    scores = {"domain": {"comparison": change}}
    steps = {"train": train, "read back": {"utterances": 3, "same": 3}, "score torch": scores}
    return PhaseRecord(steps={n: StepRecord(state="done", result=r) for n, r in steps.items()})


def _gates(folder: Path, record: PhaseRecord, **phase: Any) -> dict[str, str]:
    plan = check_plan(_content(a={"kind": "train", **phase}), source="p", folder=folder)
    return {gate.name: gate.verdict for gate in gates_of("a", plan.settings, record)}


def test_gates_follow_from_figures(folder: Path) -> None:
    gates = _gates(folder, _train_record(), gates={"hours": 1})
    assert set(gates.values()) == {"passed"}
    assert "training time" in gates
    bad = _train_record(last_loss=2.5, out_of_memory=4, stopped="finished")
    gates = _gates(folder, bad, gates={"hours": 0.001})
    failed = {name for name, verdict in gates.items() if verdict == "FAILED"}
    assert failed == {"training loss falls", "out of memory does not recur", "training time"}


def test_a_missing_figure_is_not_a_pass(folder: Path) -> None:
    record = _train_record()
    del record.steps["score torch"], record.steps["read back"]
    gates = _gates(folder, record)
    assert gates["holdout WER improves"] == gates["adapter reloads"] == "not measured"
    plan = check_plan(_content(a={"kind": "train"}), source="p", folder=folder)
    assert not all(gate.holds for gate in gates_of("a", plan.settings, record))


def test_an_interval_with_zero_in_it_is_no_improvement(folder: Path) -> None:
    record = _train_record()
    record.steps["score torch"].result["domain"]["comparison"]["ci95"] = [-14.0, 0.5]
    assert _gates(folder, record)["holdout WER improves"] == "FAILED"
    assert _gates(folder, record, gates={"holdout": 1})["holdout WER improves"] == "passed"


def test_accuracy_of_a_random_model_is_not_meaningful(folder: Path) -> None:
    gates = _gates(folder, _train_record(), model="stand-in")
    assert gates["holdout WER improves"] == "not meaningful"
    assert gates["training loss falls"] == "passed"
    plan = check_plan(_content(a={"kind": "train", "model": "stand-in"}), source="p", folder=folder)
    gate = gates_of("a", plan.settings, _train_record())[-1]
    assert gate.passed is None
    assert "random" in gate.note


def test_gates_of_a_plan_of_the_version_before_are_the_same() -> None:
    """`data/plan.json` is what `plan run demo` left behind, without fingerprints."""
    record = PlanRecord.read(Path(__file__).parent / "data" / "plan.json")
    settings = read_plan("demo").settings
    renamed = {"speech is there": "speech is synthesized",
               "other conditions are stood": "other conditions stay within bounds"}  # fmt: skip
    before = {(g.phase, renamed.get(g.name, g.name)): (g.passed, g.verdict) for g in record.gates}
    judged = [g for name, phase in record.record.items() for g in gates_of(name, settings, phase)]
    assert {(g.phase, g.name): (g.passed, g.verdict) for g in judged} == before
    figures = {(g.phase, g.name): g.figure for g in judged}
    assert figures["ship", "export agrees with torch"] == "2.03 % of 296 words differ"
    assert figures["ship", "package verifies"] == "30 files complete, sample: 3 of 3 the same"


# --- records, fingerprints, the lock


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = PlanFolder(tmp_path)
    step = StepRecord(state="running", inputs={"model": "x"}, starts=2)
    record = PlanRecord(created="2026-01-01", record={"a": PhaseRecord(steps={"train": step})})
    record.write(folder.record_path)
    assert folder.read() == record
    folder.record_path.write_text('{"created": 3')
    with pytest.raises(RequestError, match=r"plan\.json"):
        folder.read()


def test_fingerprints_follow_content_and_not_time(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"one")
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio": "a.wav", "text": "one"}\n')
    fingerprints = Fingerprints(tmp_path / "prints.json")
    first = fingerprints.manifest(manifest)
    fingerprints.save()
    os.utime(tmp_path / "a.wav", (1, 1))
    assert Fingerprints(tmp_path / "prints.json").manifest(manifest) == first
    (tmp_path / "a.wav").write_bytes(b"two")
    assert Fingerprints(tmp_path / "prints.json").manifest(manifest) != first
    manifest.write_text(manifest.read_text() + '{"audio": "b.wav", "text": "two"}\n')
    (tmp_path / "b.wav").write_bytes(b"one")
    first = Fingerprints(tmp_path / "prints.json").manifest(manifest)
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / f"{name}.wav").write_bytes(content)
    assert Fingerprints(tmp_path / "prints.json").manifest(manifest) != first
    assert fingerprints.manifest(tmp_path / "none.jsonl") == "missing"
    assert changed_inputs({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == ["b", "c"]


def test_the_second_run_reports_who_holds_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, pathlib\n"
        "from moonshine_tune.plan.state import PlanFolder\n"
        f"with PlanFolder(pathlib.Path({str(out)!r})).locked():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert run(["plan", "run", "demo", "--out", str(out), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert f"another process (pid {holder.pid}) " in error["message"]
    assert run(["plan", "status", "demo", "--out", str(out)]) == 0
    assert f"at work: process {holder.pid}" in capsys.readouterr().out
    holder.communicate("\n", timeout=20)
    assert PlanFolder(out).holder() is None


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    assert run(["plan", "run", "demo", "--out", str(tmp_path)]) == 2
    assert [item.name for item in tmp_path.iterdir()] == ["holiday.jpg"]


# --- init


def test_init_writes_a_plan_that_can_be_read(folder: Path) -> None:
    words = ["plan", "init", str(folder / "plan.yaml"), "--train", "train.jsonl", "--test",
             "test.jsonl", "--hours", "3", "--p95-ms", "250", "--no-ask"]  # fmt: skip
    assert run(words) == 0
    plan = read_plan(str(folder / "plan.yaml"))
    assert plan.order == ("doctor", "proof", "pilot", "ablation", "ship")
    settings = plan.settings.model_dump()
    assert settings["phases"]["pilot"]["gates"]["hours"] == 3
    assert settings["phases"]["ship"]["gates"]["p95_ms"] == 250
    assert settings["phases"]["pilot"]["preset"] == "medium-pilot"
    assert run(words) == 2  # there is one already


def test_init_reports_missing_manifests_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "init", str(tmp_path / "p.yaml"), "--no-ask"]) == 2
    assert "data.train: no such manifest" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_init_asks_for_what_no_flag_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter(["tiny", "", "test.jsonl", "", "", "5", "", "", ""])
    questions: list[str] = []

    def prompt(question: str, **named: Any) -> Any:
        questions.append(question)
        answer = next(answers)
        return named["type"](answer) if answer else named["default"]

    monkeypatch.setattr("typer.prompt", prompt)
    path = folder / "plan.yaml"
    assert run(["plan", "init", str(path), "--train", "train.jsonl", "--ask"]) == 0
    assert len(questions) == 9  # all but the training manifest
    assert read_plan(str(path)).settings.model_dump()["phases"]["pilot"]["gates"]["hours"] == 5


def test_quotes_in_names_stay_names(folder: Path) -> None:
    odd = 'a "b": c.jsonl'
    (folder / odd).write_text('{"audio": "a.wav", "text": "one"}\n')
    write_plan(folder / "p.yaml", PlanAnswers("tiny", odd, "test.jsonl"))
    assert read_plan(str(folder / "p.yaml")).settings.data.train == odd
    assert "#" in plan_text(PlanAnswers("tiny", odd, "test.jsonl"))
