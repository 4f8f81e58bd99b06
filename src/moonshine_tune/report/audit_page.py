"""The page of an audit: findings with players, distributions, words, how texts are written."""

from pathlib import Path

from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import scan_manifest
from moonshine_tune.data.checks.audit import Audit, Distribution
from moonshine_tune.report.cells import short
from moonshine_tune.report.clips import EmbeddedClips
from moonshine_tune.report.environment import render_page
from moonshine_tune.report.figures import histogram

_CLIP_BUDGET = 4_400_000
# Of each finding; the JSON beside the page has all.
_PLAYED, _LISTED = 8, 200


def write_audit_page(audit: Audit, target: Path, progress: Progress) -> int:
    """Write the page; returns how many recordings can be played in it."""
    scan = scan_manifest(audit.manifest, require_text=False, check_files=False)
    by_id = {item.id: item for item in scan.utterances}
    transcripts = audit.transcription.transcripts if audit.transcription else ()
    hypotheses = {item.id: item.text for item in transcripts}
    box = EmbeddedClips(_CLIP_BUDGET)
    with progress.stage("writing the page", len(audit.findings)) as stage:
        parts = []
        for finding in audit.findings:
            examples = []
            for name, detail in list(zip(finding.ids, finding.details, strict=True))[:_PLAYED]:
                own = name.partition(":")[2] if finding.manifest is None else name
                utterance = by_id.get(own)
                texts = utterance.text if utterance else "", hypotheses.get(own, "")
                examples.append((name, detail, *texts, box.embed(utterance)))
            rest = finding.ids[_PLAYED:]
            parts.append((finding, examples, rest[:_LISTED], len(rest[_LISTED:])))
            stage.advance()
    page = render_page(
        "audit.html",
        name=short(audit.manifest.name, 80),
        kind="Audit",
        audit=audit,
        counts={
            kind: sum(finding.severity == kind for finding in audit.findings)
            for kind in ("error", "warning", "note")
        },
        parts=parts,
        drawings=[(measure, _histogram(measure)) for measure in audit.distributions],
    )
    write_bytes_atomic(target, page)
    return box.embedded


def _histogram(measure: Distribution) -> str:
    low, median, high = (measure.quantiles[index] for index in (0, 3, -1))
    return histogram(
        f"{measure.name}: median {median:.4g} {measure.unit}, from {low:.4g} to {high:.4g}",
        measure.edges,
        measure.counts,
    )
