"""Reports of plans, ablations and benchmarks: what is there is shown, what is damaged is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.locks import one_writer, work_together
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.metrics.wer import score_utterance, summarize
from moonshine_tune.report.page import MAX_BYTES, write_report
from moonshine_tune.report.reading import read_report_input
from moonshine_tune.runs.summary import SEARCH_LOCK

EVIL = '<img src=x onerror="alert(1)">'
_SPELLED = normalizer_for("spelled-1")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _run(path: Path) -> None:
    _write(path / "run.json", {"settings": {"model": "tiny"}, "status": "finished"})
    lines: list[dict[str, Any]] = [{"step": 0, "dev_wer": 50.0}]
    lines += [{"step": step, "loss": 2 / step, "step_seconds": 1} for step in range(1, 9)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _search(path: Path) -> None:
    trials: list[dict[str, Any]] = [
        {"number": number, "state": "finished", "params": {"adapter.rank": rank},
         "figures": {"dev_wer": wer, "canary_loss": loss, "canary_held": loss < 2}}
        for number, rank, wer, loss in ((1, 8, 30.0, 0.5), (2, 16, 20.0, 1.0), (3, 64, 10.0, 9.0))
    ]  # fmt: skip
    trials.append({"number": 4, "state": "failed", "params": {"adapter.rank": 4}, "figures": {}})
    _write(path / "ablation.json", {"kind": "ablation", "command": ["moonshine-tune", "ablate"]})
    _write(path / "trials.json", trials)
    _run(path / "trials" / "0002")


def _side(factor: float) -> dict[str, Any]:
    return {
        "latency_ms": {"median": 100 * factor, "p95": 200 * factor, "max": 250 * factor},
        "load_ms": {"median": 50.0},
        "rtf": 0.1,
        "memory_mb": {"peak": 210.0},
        "total_bytes": 43_000_000,
        "wer": {"wer": 12.0},
        "by_length": [
            {"from_s": 2, "to_s": 5, "clips": 4,
             "latency_ms": {"median": 90 * factor, "p95": 150 * factor}},
        ],
    }  # fmt: skip


def _benchmark(path: Path) -> None:
    ratios = {"median": {"ratio": 0.9, "ci95": [0.8, 1.1]}}
    rest = {"clips": 4, "rounds": 3, "machine": {"chip": EVIL}, "ratios": ratios}
    _write(path / "benchmark.json", {**_side(0.9), **rest, "other": _side(1.0)})


def _evaluation(path: Path, hypothesis: str) -> None:
    scored = [score_utterance("u0", "one two three", hypothesis, _SPELLED, speaker=EVIL)]
    score = summarize(scored)
    result = {
        "wer": score.wer,
        "ci95": list(score.ci95),
        "utterances": 1,
        "normalizer": "spelled-1",
    }
    _write(path / "result.json", result)
    (path / "hypotheses.jsonl").write_text(json.dumps(scored[0].to_record()) + "\n")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan of which the proof is done, the pilot says nothing and the export failed."""
    path = tmp_path / "plan"
    kinds = {"proof": "train", "pilot": "train", "ablation": "ablate", "ship": "ship"}
    phases: dict[str, Any] = {name: {"kind": kind} for name, kind in kinds.items()}
    phases["ship"]["source"] = "proof"
    states = [
        ("proof", "done", "", "passed", "30.00 → 10.00"),
        ("pilot", "done", "", "not meaningful", "120.00 → 130.00"),
        ("ablation", "done", "", "passed", "3 of 4 finished"),
        ("ship", "failed", f"parity: 40 % {EVIL}", "FAILED", "40 %"),
    ]
    gates = [
        {"phase": name, "name": f"{name} holds", "verdict": verdict, "figure": figure,
         "passed": {"passed": True, "FAILED": False}.get(verdict), "bound": "10",
         "note": "the weights are random" if verdict == "not meaningful" else ""}
        for name, _, _, verdict, figure in states
    ]  # fmt: skip
    _write(
        path / "plan.json",
        {
            "kind": "plan", "name": f"Plan {EVIL}", "gates": gates, "peak_memory_mb": 900,
            "plan": {"source": "demo", "settings": {"phases": phases}},
            "phases": [
                {"name": name, "kind": kinds[name], "state": state, "why": why, "seconds": 9.0,
                 "steps": [{"name": "train"}], "forced": ["proof is failed"] * (name == "pilot"),
                 "gates": [gate for gate in gates if gate["phase"] == name]}
                for name, state, why, *_ in states
            ],
            "record": {"ablation": {"steps": {"choose": {"result": {"reasons": ["rank pays"]}}}}},
        },
    )  # fmt: skip
    _run(path / "phases" / "proof" / "run")
    _run(path / "phases" / "pilot" / "run")
    _search(path / "phases" / "ablation" / "search")
    for model, text in (("base", "won too three"), ("adapted", "one two three")):
        _evaluation(path / "phases" / "proof" / "eval" / f"domain-{model}-torch", text)
    _benchmark(path / "phases" / "ship" / "benchmark")
    return path


def _page(path: Path) -> tuple[str, tuple[str, ...], str]:
    result = write_report(path, None, SilentProgress())
    assert result.num_bytes <= MAX_BYTES <= 6_000_000
    return result.kind, result.missing, result.report.read_text(encoding="utf-8")


def test_a_plan_shows_phases_gates_trials_speed_and_every_run(plan: Path) -> None:
    kind, _, page = _page(plan)
    assert kind == "plan"
    for piece in ("1 not meaningful", "the weights are random", "started although proof is failed",
                  "rank pays", "0.80 to 1.10", "2 to 5 s", "What each trial gains"):  # fmt: skip
        assert piece in page, piece
    assert page.count('class="run-name"') == 2


def test_what_names_and_reasons_hold_stays_text(plan: Path) -> None:
    _, _, page = _page(plan)
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=") >= 3


def test_the_best_trial_is_one_that_holds_the_canary(tmp_path: Path) -> None:
    _search(tmp_path / "search")
    kind, missing, page = _page(tmp_path / "search")
    assert (kind, [line for line in missing if "trials" not in line]) == ("ablation", [])
    best = page.index("the best")
    row = page[page.rindex("<tr", 0, best) : page.index("</tr>", best)]
    assert "20.00" in row
    assert page.count("</title></circle>") == 3  # the failed one has no figures and no point


def test_a_benchmark_alone(tmp_path: Path) -> None:
    _benchmark(tmp_path / "b")
    kind, missing, page = _page(tmp_path / "b")
    assert (kind, missing) == ("benchmark", ())
    assert "latency, median" in page
    assert EVIL not in page


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        ("plan.json", "plan.json"),
        ("phases/proof/run/run.json", "phases/proof/run/run.json"),
        ("phases/ablation/search/trials.json", "trials.json"),
        ("phases/ship/benchmark/benchmark.json", "benchmark.json"),
        ("phases/pilot/run/run.json", "phases/pilot/run/run.json"),
        ("phases/proof/eval/domain-base-torch/hypotheses.jsonl", "hypotheses.jsonl"),
    ],
)
def test_a_damaged_plan_shows_the_rest_and_names_what_is_missing(
    plan: Path, damaged: str, named: str
) -> None:
    file = plan / damaged
    file.write_text(file.read_text()[: file.stat().st_size // 2])
    kind, missing, page = _page(plan)
    assert kind == "plan"
    assert any(named in line for line in missing), missing
    assert "This folder is not complete" in page
    assert 'id="learning"' in page


_RECORDS = Path(__file__).parents[1] / "runs" / "data"
# Where a plan has the records of the version before.
_PLACES = {
    "plan.json": "plan.json",
    "run.json": "phases/proof/run/run.json",
    "selection.json": "phases/proof/run/adapter/selection.json",
    "ablation.json": "phases/ablation/search/ablation.json",
    "trials.json": "phases/ablation/search/trials.json",
    "result.json": "phases/proof/eval/domain-adapted-torch/result.json",
    "benchmark.json": "phases/ship/benchmark/benchmark.json",
}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A plan with the records of the version before."""
    for name, path in _PLACES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_RECORDS / name, tmp_path / path)
    return tmp_path


def test_records_of_the_version_before_are_shown(earlier: Path) -> None:
    kind, missing, page = _page(earlier)
    assert kind == "plan"
    assert all("is not there" in line for line in missing), missing
    for piece in ("Air traffic, at demonstration size", "0.76 to 0.97", "2 to 5 s", "2.52",
                  "the weights are random", "414,720 parameters", "rank=8 alpha=16"):  # fmt: skip
        assert piece in page, piece
    assert "74.75 → 6.93" in _page(earlier / "phases" / "proof" / "run")[2]


def _replaced(content: Any, value: Any) -> Any:
    """The same keys, and `value` instead of every number, text and truth."""
    if isinstance(content, dict):
        return {key: _replaced(item, value) for key, item in content.items()}
    if isinstance(content, list):
        return [_replaced(item, value) for item in content]
    return value


@pytest.mark.parametrize("value", [None, "x", 1e999, -1, 10**400, True, [], {}, [[0]], {"a": 1}])
def test_odd_values_everywhere_do_not_stop_it(earlier: Path, value: Any) -> None:
    for path in _PLACES.values():
        content = json.loads((earlier / path).read_text(encoding="utf-8"))
        _write(earlier / path, _replaced(content, value))
    _, missing, _ = _page(earlier)
    # A number of more digits than any reader takes spoils its file.
    assert any(" should be " in line or "a number of" in line for line in missing), missing


def test_a_value_of_a_wrong_type_is_named_and_the_rest_is_shown(earlier: Path) -> None:
    run = earlier / _PLACES["run.json"]
    content = json.loads(run.read_text(encoding="utf-8"))
    content["result"]["best"]["canary_wer"] = "34"
    _write(run, content)
    _, missing, page = _page(earlier)
    name = f"{_PLACES['run.json']}: result.best.canary_wer should be a valid number"
    assert any(line.startswith(name) for line in missing)
    assert "414,720 parameters" in page


def test_what_a_dead_process_left_running_is_not_running(tmp_path: Path) -> None:
    phases = [{"name": "first", "kind": "train", "state": "running"}]
    _write(tmp_path / "plan.json", {"kind": "plan", "phases": phases, "plan": {}})
    _search(tmp_path / "phases" / "first" / "search")
    trials = tmp_path / "phases" / "first" / "search" / "trials.json"
    running = [{"number": 5, "state": "running", "params": {}, "figures": {}}]
    _write(trials, json.loads(trials.read_text()) + running)

    def states() -> tuple[str | None, str | None]:
        content = read_report_input(tmp_path)
        assert content.search is not None
        return content.summary.phases[0].state, content.search.trials[-1].state

    assert states() == ("interrupted", "stopped")
    with one_writer(tmp_path), work_together(trials.parent / SEARCH_LOCK):
        assert states() == ("running", "running")
