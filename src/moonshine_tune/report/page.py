"""One self-contained page for the folder of any command: a run, a benchmark, a plan.

It loads nothing: styles, script, drawings and sound are in the file, and its content security
policy forbids the browser any request. Texts from the folder are escaped by the template engine.
"""

from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import holds_out, write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.report.cells import clean, short
from moonshine_tune.report.clips import EmbeddedClips, Recordings
from moonshine_tune.report.contrasts import contrasts, leading
from moonshine_tune.report.curves import Curves, curve_of_recordings, learning_curves
from moonshine_tune.report.environment import render_page
from moonshine_tune.report.extra_metrics import metric_rows
from moonshine_tune.report.figures import interval_strip
from moonshine_tune.report.gates import gates_of
from moonshine_tune.report.origins import origins_of
from moonshine_tune.report.reading import ReportInput, read_report_input
from moonshine_tune.report.side_by_side import systems_of
from moonshine_tune.report.speed import latency_by_length
from moonshine_tune.report.transcripts import transcript_sets
from moonshine_tune.report.trials import trials_of
from moonshine_tune.runs.records import EvaluationRecord, RunRecord

REPORT_FILE = "report.html"
# Mail servers and chat tools take this much; everything but the sound stays far below 1.5 MB.
MAX_BYTES = 6_000_000
_CLIP_BUDGET = 4_400_000
_MAX_KEY_TERMS = 6
_KINDS = {
    "plan": "Plan", "demo": "Demonstration", "run": "Training run", "ablation": "Ablation",
    "curve": "Learning curve", "benchmark": "Benchmark", "evaluation": "Evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    Attributes:
        kind: `plan`, `demo`, `run`, `ablation`, `curve`, `benchmark` or `evaluation`.
        num_clips: recordings that can be played in it.
        missing: one sentence for each part that the folder lacks.
    """

    report: Path
    kind: str
    num_bytes: int
    num_clips: int
    missing: tuple[str, ...]


@holds_out(lambda path, out, *_, **options: out or (path / REPORT_FILE if path.is_dir() else None))
def write_report(
    path: Path,
    out: Path | None,
    progress: Progress,
    *,
    manifest: Path | None = None,
    with_audio: bool = False,
) -> ReportResult:
    """Write the report of a folder.

    Args:
        path: folder of any command; parts of it may be missing.
        out: the file; without it, `report.html` in the folder.
        manifest: where the recordings are named, if the report cannot find it by itself; asks for
            sound, too.
        with_audio: embed recordings of the utterances that are shown.

    Raises:
        RequestError: no such folder, nothing known in it, a wrong manifest, or an `out` that
            cannot be written.
    """
    target = path / REPORT_FILE if out is None else out
    if target.is_dir():
        raise RequestError(
            "a folder, not a file", where=target, hint=f"--out {quoted(target / REPORT_FILE)}"
        )
    report_input, recordings = read_report_input(path), Recordings(path, manifest)
    is_wanted = with_audio or manifest is not None
    box = EmbeddedClips(_CLIP_BUDGET, is_wanted=is_wanted)
    content, missing = _render(report_input, recordings, box, progress)
    if len(content) > MAX_BYTES:
        # Many long transcripts: the sound gives way to the words.
        box = EmbeddedClips(box.used - (len(content) - MAX_BYTES), is_wanted=is_wanted)
        content, missing = _render(report_input, recordings, box, progress)
    write_bytes_atomic(target, content)
    return ReportResult(target, report_input.kind, len(content), box.embedded, missing)


def _render(
    report_input: ReportInput, recordings: Recordings, box: EmbeddedClips, progress: Progress
) -> tuple[bytes, tuple[str, ...]]:
    summary, run, speed = report_input.summary, report_input.run, report_input.benchmark
    record = run.record if run else RunRecord()
    scored = report_input.evaluations[0].result if report_input.kind == "evaluation" else None
    sets, not_shown = transcript_sets(report_input, recordings, box, progress)
    rows = contrasts(report_input)
    rates = [rate for row in rows for rate in (row.before, row.after) if rate]
    missing = (*report_input.missing, *not_shown)
    seconds = clean(summary.seconds.get("total"))
    terms = [
        (part, listed)
        for part in report_input.evaluations
        for listed in (part.result.keyterms, part.result.aliases)
    ]
    content = render_page(
        "page.html",
        name=short(summary.name or report_input.path.resolve().name, 80),
        kind=_KINDS[report_input.kind],
        command=report_input.kind,
        lead=_lead(record, scored, summary.created),
        missing=missing[:60],
        num_missing=len(missing),
        scored=scored,
        seconds=clean(record.result.seconds) if seconds is None else seconds,
        memory=clean(summary.peak_memory_mb) or clean(record.result.peak_memory_mb),
        leading=leading(rows),
        contrasts=rows,
        highest=max((max(rate.value, rate.high) for rate in rates), default=0.0),
        metrics=metric_rows(report_input),
        systems=systems_of(report_input),
        gates=gates_of(report_input),
        learning=_learning(report_input),
        phases=summary.phases,
        trials=trials_of(report_input),
        key_terms=[pair for pair in terms if pair[1] and pair[1].arms][:_MAX_KEY_TERMS],
        speed=speed,
        lengths=speed and latency_by_length(speed),
        interval_strip=interval_strip,
        transcripts=sets,
        origins=origins_of(report_input),
    )
    return content, missing


def _learning(report_input: ReportInput) -> list[tuple[str, Curves]]:
    """The curves of each run that there is; those of a plan with the name of their phase."""
    if report_input.curve is not None:
        drawn_curve = curve_of_recordings(report_input.curve)
        return [("", drawn_curve)] if drawn_curve.charts else []
    runs = [("", report_input.run)] if report_input.run else []
    if report_input.others and report_input.run:
        runs = [(report_input.run.path.parent.name, report_input.run), *report_input.others]
    drawn = [(short(name, 60), learning_curves(run)) for name, run in runs]
    return [(name, curves) for name, curves in drawn if curves.charts or curves.strengths]


def _lead(record: RunRecord, scored: EvaluationRecord | None, created: str) -> str:
    """Under the title: what was adapted, on what, when it was made."""
    scored = scored or EvaluationRecord()
    model, device = record.base.name or scored.model, record.device.get("name") or scored.backend
    parts = [
        f"model {model}" if model else "",
        f"adapter {scored.adapter}" if scored.adapter else "",
        f"on {device}" if device else "",
        (created or record.created)[:10],
    ]
    return " · ".join(short(part, 80) for part in parts if part)
