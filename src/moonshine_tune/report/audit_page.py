"""The page of an audit: findings with players, distributions, words, how texts are written."""

from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, scan_manifest
from moonshine_tune.data.checks.audit import Audit, Distribution
from moonshine_tune.data.checks.base import Finding
from moonshine_tune.report.clips import EmbeddedClip, EmbeddedClips
from moonshine_tune.report.figures import histogram
from moonshine_tune.report.page import render_page
from moonshine_tune.report.tables import Cell, Column, Table, number_cell, short, text_cell

_CLIP_BUDGET = 4_400_000
# Of each finding; the JSON beside the page has all.
_PLAYED, _LISTED = 8, 200
_CONVENTIONS = (("capitals", "all in capitals"), ("lower", "no capital letter"),
                ("punctuation", "punctuation"), ("digits", "figures"),
                ("number_words", "spelled numbers"))  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One utterance of a finding, with its player. `hypothesis` is the base model's."""

    id: str
    detail: str
    reference: str
    hypothesis: str
    clip: EmbeddedClip


@dataclass(frozen=True)
class FindingPart:
    """One finding on the page: some utterances with players, the ids of the rest."""

    finding: Finding
    examples: tuple[Example, ...]
    others: tuple[str, ...]
    num_hidden: int


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
            parts.append(_part(finding, by_id, hypotheses, box))
            stage.advance()
    vocabulary = audit.vocabulary
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
        writing=_writing(audit),
        hard=_words("Words of the most pieces", vocabulary.hard_words if vocabulary else ()),
        unseen=_words(
            "Words that the other sides do not have", vocabulary.unseen if vocabulary else ()
        ),
    )
    write_bytes_atomic(target, page)
    return box.embedded


def _part(
    finding: Finding, by_id: dict[str, Utterance], hypotheses: dict[str, str], box: EmbeddedClips
) -> FindingPart:
    examples = []
    for name, detail in list(zip(finding.ids, finding.details, strict=True))[:_PLAYED]:
        own = name.partition(":")[2] if finding.manifest is None else name
        utterance = by_id.get(own)
        reference = (utterance.text or "") if utterance else ""
        hypothesis = short(hypotheses.get(own, ""))
        examples.append(Example(name, detail, short(reference), hypothesis, box.embed(utterance)))
    rest = finding.ids[_PLAYED:]
    return FindingPart(finding, tuple(examples), rest[:_LISTED], max(len(rest) - _LISTED, 0))


def _histogram(measure: Distribution) -> str:
    low, median, high = (measure.quantiles[index] for index in (0, 3, -1))
    return histogram(
        f"{measure.name}: median {median:.4g} {measure.unit}, from {low:.4g} to {high:.4g}",
        measure.edges,
        measure.counts,
    )


def _writing(audit: Audit) -> Table:
    columns = [Column("written"), Column("transcripts", "number")]
    sides = [audit.conventions]
    if audit.transcription:
        columns.append(Column("base model", "number"))
        sides.append(audit.transcription.conventions)
    rows = tuple(
        (text_cell(words), *(_share(getattr(side, name)) for side in sides))
        for name, words in _CONVENTIONS
    )
    return Table("How texts are written", tuple(columns), rows)


def _words(caption: str, words: tuple[tuple[str, *tuple[int, ...]], ...]) -> Table | None:
    """Words with how often they come, and with their number of pieces where it is given."""
    if not words:
        return None
    names = ("pieces", "times")[-len(words[0]) + 1 :]
    columns = (Column("word"), *(Column(name, "number") for name in names))
    rows = tuple(
        (text_cell(word, "word"), *(number_cell(count, 0) for count in counts))
        for word, *counts in words
    )
    return Table(caption, columns, rows)


def _share(value: float) -> Cell:
    return Cell(f"{value:.0%}", sort=value)
