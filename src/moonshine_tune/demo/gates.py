"""Gates that demonstrations and plans share: from the figures of a job, as JSON data.

Empty figures mean that nothing was measured yet: such a gate does not pass.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from moonshine_tune.runs.records import (
    FAILED,
    NOT_DECIDED,
    NOT_MEANINGFUL,
    NOT_MEASURED,
    PASSED,
    GateResult,
)

Figures = Mapping[str, Any]

_ROUNDING = 1e-9
_RANDOM = "the weights are random: accuracy means nothing"
_CHANGE = "{before:.2f} → {after:.2f}"


def gate(
    name: str,
    bound: str,
    figures: Figures,
    template: str,
    passed: object,
    *,
    is_random: bool = False,
) -> GateResult:
    """One gate.

    Args:
        figures: what was measured.
        template: the figure in words, filled from `figures`.
        is_random: it judges the accuracy of a model with random weights.
    """
    verdict = NOT_MEANINGFUL if is_random else PASSED if passed else FAILED
    return GateResult(
        name=name,
        passed=None if is_random or not figures else bool(passed),
        verdict=verdict if figures else NOT_MEASURED,
        figure=template.format_map(figures) if figures else "–",
        bound=bound,
        note=_RANDOM if is_random and figures else "",
    )


def at_most(
    name: str, limit: float | None, unit: str, value: float | None, *, digits: int = 0
) -> Iterator[GateResult]:
    """A gate on one number; none where the limit is None."""
    if limit is not None:
        figures = {} if value is None else {"value": value}
        figure = f"{{value:.{digits}f}} {unit}"
        passed = value is not None and value <= limit
        yield gate(name, f"{limit:g} {unit} at most", figures, figure, passed)


def training_gates(trained: Figures) -> Iterator[GateResult]:
    """A run completes and its loss falls."""
    bound, ended = "finished or early stop", trained.get("stopped") in ("finished", "early stop")
    figure = "{stopped}, {steps} steps, {skipped_steps} skipped"
    yield gate("training completes", bound, trained, figure, ended)
    bound, figure = "last tenth below first tenth", "{first_loss:.3f} → {last_loss:.3f}"
    falls = trained and trained["last_loss"] < trained["first_loss"]
    yield gate("training loss falls", bound, trained, figure, falls)


def reload_gate(check: Figures) -> GateResult:
    """The adapter on disk gives the transcripts that it gave in memory."""
    same = check and 0 < check["utterances"] == check["same"]
    bound, figure = "every transcript the same", "{same} of {utterances} transcripts the same"
    return gate("adapter reloads", bound, check, figure, same)


def improves(name: str, scores: Figures, points: float, is_random: bool = False) -> GateResult:
    """The interval of the change on the test set is below a bound, in points of WER."""
    change = scores.get("domain", {}).get("comparison", {})
    bound = "95 % interval of the change below " + (f"{points:+g} points" if points else "zero")
    figure = _CHANGE + ", {difference:+.2f} points [{ci95[0]:+.2f}, {ci95[1]:+.2f}]"
    improved = change and change["ci95"][1] < points
    return gate(name, bound, change, figure, improved, is_random=is_random)


def keeps(name: str, scores: Figures, points: float, is_random: bool = False) -> GateResult:
    """The canary loses no more points of WER than the bound."""
    change = scores.get("canary", {}).get("comparison", {})
    bound, figure = f"+{points:g} points at most", _CHANGE + " ({difference:+.2f})"
    kept = change and change["difference"] <= points + _ROUNDING
    return gate(name, bound, change, figure, kept, is_random=is_random)


def export_gates(exported: Figures, bound: float) -> Iterator[GateResult]:
    """The exported files load and agree with torch, within `bound` points of words.

    Files of which that is not decided may be shipped, and the gate says so.
    """
    parity = exported.get("parity", {})
    loads = exported and exported["changed"] > 0 and parity["clips"] > 0
    figure = "{changed} matrices in " + ", ".join(exported.get("changed_files", ()))
    yield gate("export loads", "the runtime transcribes with it", exported, figure, loads)
    figure = "{word_difference:.2f} % of {words} words differ"
    against = parity.get("against_base")
    if against:
        words = against["words"]
        figure += f", {words['difference']:+.2f} points beyond the base's own files"
    required = f"{bound:g} % at most" if not against else f"+{bound:g} points against the base's"
    if parity.get("first_difference"):
        figure = "{first_difference}"
    result = gate("export agrees with torch", required, parity, figure, parity.get("passed"))
    if parity.get("verdict") == NOT_DECIDED:
        note = parity.get("advice", "")
        result = result.model_copy(update={"passed": None, "verdict": NOT_DECIDED, "note": note})
    yield result
