"""One self-contained page for the folder of any command: a run, a benchmark, a plan.

It loads nothing: styles, script, drawings and sound are in the file, and its content security
policy forbids the browser any request. Texts from the folder are escaped by the template engine.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from moonshine_tune import __version__
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.report.clips import EmbeddedClips, Recordings
from moonshine_tune.report.contrasts import contrasts
from moonshine_tune.report.curves import Curves, learning_curves
from moonshine_tune.report.headline import gates_of, headline_table, tiles_of
from moonshine_tune.report.key_terms import key_terms_tables
from moonshine_tune.report.origins import origins_of
from moonshine_tune.report.phases import phase_table, trials_of
from moonshine_tune.report.reading import ReportInput, read_report_input
from moonshine_tune.report.speed import speed_tables
from moonshine_tune.report.tables import short
from moonshine_tune.report.transcripts import transcript_sets
from moonshine_tune.runs.records import EvaluationRecord, RunRecord

REPORT_FILE = "report.html"
# Mail servers and chat tools take this much; everything but the sound stays far below 1.5 MB.
MAX_BYTES = 6_000_000
_CLIP_BUDGET = 4_400_000
_KINDS = {
    "plan": "Plan", "demo": "Demonstration", "run": "Training run", "ablation": "Ablation",
    "benchmark": "Benchmark", "evaluation": "Evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class ReportResult:
    """A report that was written.

    Attributes:
        kind: `plan`, `demo`, `run`, `ablation`, `benchmark` or `evaluation`.
        num_clips: recordings that can be played in it.
        missing: one sentence for each part that the folder lacks.
    """

    report: Path
    kind: str
    num_bytes: int
    num_clips: int
    missing: tuple[str, ...]


def write_report(
    path: Path, out: Path | None, progress: Progress, *, manifest: Path | None = None
) -> ReportResult:
    """Write the report of a folder.

    Args:
        path: folder of any command; parts of it may be missing.
        out: the file; without it, `report.html` in the folder.
        manifest: where the recordings are named, if the report cannot find it by itself.

    Raises:
        RequestError: no such folder, nothing known in it, a wrong manifest, or an `out` that
            cannot be written.
    """
    target = path / REPORT_FILE if out is None else out
    if target.is_dir():
        raise RequestError(
            "a folder, not a file", where=target, hint=f"--out {target / REPORT_FILE}"
        )
    report_input, recordings = read_report_input(path), Recordings(path, manifest)
    box = EmbeddedClips(_CLIP_BUDGET)
    content, missing = _render(report_input, recordings, box, progress)
    if len(content) > MAX_BYTES:
        # Many long transcripts: the sound gives way to the words.
        box = EmbeddedClips(box.used - (len(content) - MAX_BYTES))
        content, missing = _render(report_input, recordings, box, progress)
    write_bytes_atomic(target, content)
    return ReportResult(target, report_input.kind, len(content), box.embedded, missing)


def _render(
    report_input: ReportInput, recordings: Recordings, box: EmbeddedClips, progress: Progress
) -> tuple[bytes, tuple[str, ...]]:
    sets, not_shown = transcript_sets(report_input, recordings, box, progress)
    rows, gates = contrasts(report_input), gates_of(report_input)
    missing = (*report_input.missing, *not_shown)
    content = render_page(
        "page.html",
        name=short(report_input.summary.name or report_input.path.resolve().name, 80),
        kind=_KINDS[report_input.kind],
        lead=_lead(report_input),
        missing=missing[:60],
        num_missing=len(missing),
        tiles=tiles_of(report_input, rows, gates),
        headline=headline_table(rows),
        gates=[(name, list(members)) for name, members in groupby(gates, lambda g: g.phase)],
        learning=_learning(report_input),
        phases=phase_table(report_input),
        trials=trials_of(report_input),
        key_terms=key_terms_tables(report_input),
        speed=speed_tables(report_input),
        transcripts=sets,
        origins=origins_of(report_input),
    )
    return content, missing


def _learning(report_input: ReportInput) -> list[tuple[str, Curves]]:
    """The curves of each run that there is; those of a plan with the name of their phase."""
    runs = [("", report_input.run)] if report_input.run else []
    if report_input.others and report_input.run:
        runs = [(report_input.run.path.parent.name, report_input.run), *report_input.others]
    drawn = [(short(name, 60), learning_curves(run)) for name, run in runs]
    return [(name, curves) for name, curves in drawn if curves.charts or curves.strengths]


def _lead(report_input: ReportInput) -> str:
    """Under the title: what was adapted, on what, when it was made."""
    record = report_input.run.record if report_input.run else RunRecord()
    scored = EvaluationRecord()
    if report_input.kind == "evaluation":
        scored = report_input.evaluations[0].result
    model, device = record.base.name or scored.model, record.device.get("name") or scored.backend
    parts = [
        f"model {model}" if model else "",
        f"adapter {scored.adapter}" if scored.adapter else "",
        f"on {device}" if device else "",
        (report_input.summary.created or record.created)[:10],
    ]
    return " · ".join(short(part, 80) for part in parts if part)


def render_page(template: str, **content: Any) -> bytes:
    """A page of a template, with the style, the script and its fingerprint."""
    environment = Environment(
        loader=PackageLoader("moonshine_tune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, "short": short}
    style, script = _asset("report.css"), _asset("report.js")
    # The hash under which the content security policy lets this one script run, and no other.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    page = environment.get_template(template).render(
        **content,
        style=Markup(style),  # the package's own file
        script=Markup(script),  # the package's own file
        script_hash=f"sha256-{digest}",
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        version=__version__,
    )
    # Half of a character, which JSON can hold and UTF-8 cannot, becomes a question mark.
    return page.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return (files("moonshine_tune.report") / "assets" / name).read_text(encoding="utf-8")


def _breakable(text: str) -> Markup:
    """Names and paths with places where a narrow screen may break them."""
    escaped = str(escape(text))
    for mark in "./_":
        escaped = escaped.replace(mark, f"{mark}<wbr>")
    return Markup(escaped)  # escaped above
