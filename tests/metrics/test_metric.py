"""Extra metrics: found by their module, counted first and divided once, part of an evaluation."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moonshine_tune import metrics
from moonshine_tune.cli.evaluate import summary
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
from moonshine_tune.metrics.metric import Metric, extra_metrics
from moonshine_tune.metrics.wer import ScoredUtterance, score_utterance

_BASIC = normalizer_for("basic-1")
_MODULE = """
from moonshine_tune.metrics.metric import Metric

METRIC = Metric("{name}", "%", "higher", lambda reference, hypothesis: (reference == hypothesis, 1))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules count as modules of `moonshine_tune.metrics`."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    yield folder
    for path in folder.glob("*.py"):
        sys.modules.pop(f"moonshine_tune.metrics.{path.stem}", None)
        vars(metrics).pop(path.stem, None)


def _scored(*pairs: tuple[str, str]) -> list[ScoredUtterance]:
    return [score_utterance(str(i), *pair, _BASIC) for i, pair in enumerate(pairs)]


def test_counts_are_added_up_and_divided_once() -> None:
    lengths = Metric("length", "%", "lower", lambda r, h: (abs(len(r) - len(h)), len(r)))
    result = lengths.score(_scored(("a", "A!"), ("abcdefghi", "abcd")), _BASIC)
    # Normalized, the first pair is equal. The average of 0 % and 56 % would be 28 %.
    assert result.value == pytest.approx(100 * 5 / 10)
    assert result.ci95 is not None and result.ci95[0] <= 50.0 <= result.ci95[1]
    assert result.to_record()["unit"] == "%" and result.to_record()["better"] == "lower"


def test_nothing_to_count_gives_no_value() -> None:
    result = Metric("none", "", "lower", lambda r, h: (0, 0)).score(_scored(("a", "a")), _BASIC)
    assert result.to_record() == {
        "value": None, "ci95": None, "counted": 0, "out_of": 0, "unit": "", "better": "lower",
    }  # fmt: skip


def test_a_module_adds_its_metric_to_an_evaluation(
    added: Path, saved_v1: Path, speech_folder: Path, tmp_path: Path
) -> None:
    assert "exact" not in {metric.name for metric in extra_metrics()}
    (added / "exact.py").write_text(_MODULE.format(name="exact"))
    request = EvaluateRequest(speech_folder / "dev.jsonl", model=str(saved_v1), device="cpu")
    evaluate(request, tmp_path / "before", SilentProgress())
    compared = EvaluateRequest(
        speech_folder / "dev.jsonl", model=str(saved_v1), device="cpu", compare=tmp_path / "before"
    )
    result = evaluate(compared, tmp_path / "out", SilentProgress())
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["metrics"]["exact"] == {
        "value": 0.0, "ci95": [0.0, 0.0], "counted": 0, "out_of": 3, "unit": "%",
        "better": "higher", "base": 0.0,
    }  # fmt: skip
    assert record["comparison"]["difference"] == 0 and record["base"]["wer"] == record["wer"]
    assert any(line.startswith("exact (higher is better)") for line in summary(result).splitlines())


def test_two_metrics_of_one_name_are_an_error(added: Path) -> None:
    for module in ("first", "second"):
        (added / f"{module}.py").write_text(_MODULE.format(name="exact"))
    with pytest.raises(ValueError, match="two metrics are called 'exact'"):
        extra_metrics()
