"""The page of an audit: findings with players, distributions, words, how texts are written."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from moonshine_tune import __version__
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, scan_manifest
from moonshine_tune.report.clips import EmbeddedClip, EmbeddedClips
from moonshine_tune.report.figures import HEIGHT, WIDTH, nice_ticks, tick_label
from moonshine_tune.report.page import fingerprint_of, page_asset, page_environment
from moonshine_tune.report.tables import Cell, Column, Table, number_cell, short, text_cell

if TYPE_CHECKING:
    from moonshine_tune.data.checks.audit import Audit, Distribution
    from moonshine_tune.data.checks.base import Finding

_CLIP_BUDGET = 4_400_000
# Of each finding; the JSON beside the page has all.
_PLAYED, _LISTED = 8, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34
_CONVENTIONS = (("capitals", "all in capitals"), ("lower", "no capital letter"),
                ("punctuation", "punctuation"), ("digits", "figures"),
                ("number_words", "spelled numbers"))  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One utterance of a finding, with its player."""

    id: str
    detail: str
    said: str
    heard: str
    clip: EmbeddedClip


@dataclass(frozen=True)
class Part:
    """One finding on the page: some with players, the ids of the rest."""

    found: "Finding"
    examples: tuple[Example, ...]
    others: tuple[str, ...]
    num_hidden: int


def write_audit_page(audit: "Audit", target: Path, progress: Progress) -> int:
    """Write the page; returns how many recordings can be played in it."""
    scan = scan_manifest(audit.manifest, require_text=False, check_files=False)
    by_id = {item.id: item for item in scan.utterances}
    heard = (
        {one.id: one.text for one in audit.transcription.transcripts} if audit.transcription else {}
    )
    box = EmbeddedClips(_CLIP_BUDGET)
    with progress.stage("writing the page", len(audit.findings)) as stage:
        parts = []
        for found in audit.findings:
            parts.append(_part(found, by_id, heard, box))
            stage.advance()
    script = page_asset("report.js")
    page = page_environment().get_template("audit.html").render(
        name=short(audit.manifest.name, 80),
        audit=audit,
        counts={kind: sum(one.severity == kind for one in audit.findings)
                for kind in ("error", "warning", "note")},
        parts=parts,
        drawings=[(one, histogram(one)) for one in audit.distributions],
        writing=_writing(audit),
        hard=_hard_words(audit),
        unseen=_unseen_words(audit),
        style=Markup(page_asset("report.css")),  # the package's own file
        script=Markup(script),  # the package's own file
        script_hash=fingerprint_of(script),
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        version=__version__,
    )  # fmt: skip
    write_bytes_atomic(target, page.encode("utf-8", "replace"))
    return box.embedded


def _part(
    found: "Finding", by_id: dict[str, Utterance], heard: dict[str, str], box: EmbeddedClips
) -> Part:
    examples = []
    for name, detail in list(zip(found.ids, found.details, strict=True))[:_PLAYED]:
        own = name.partition(":")[2] if found.manifest is None else name
        utterance = by_id.get(own)
        said = (utterance.text or "") if utterance else ""
        examples.append(
            Example(name, detail, short(said), short(heard.get(own, "")), box.embed(utterance))
        )
    rest = found.ids[_PLAYED:]
    return Part(found, tuple(examples), rest[:_LISTED], max(len(rest) - _LISTED, 0))


def histogram(one: "Distribution") -> Markup:
    """Bars of one measure as an `<svg>` element; numbers only, so nothing needs escaping."""
    ticks = nice_ticks(0.0, float(max(one.counts)))
    top, bottom = ticks[-1], HEIGHT - _BOTTOM
    width = (WIDTH - _LEFT - _RIGHT) / len(one.counts)
    label = (
        f"{one.name}: median {one.quantiles[3]:.4g} {one.unit}, "
        f"from {one.quantiles[0]:.4g} to {one.quantiles[-1]:.4g}"
    )
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value in ticks:
        y = bottom - value / top * (bottom - _TOP)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y:.1f}" dy="0.32em" text-anchor="end">'
            f"{tick_label(value)}</text>"
        )
    for place, count in enumerate(one.counts):
        height = count / top * (bottom - _TOP)
        parts.append(
            f'<rect class="pillar" x="{_LEFT + place * width + 0.5:.1f}" '
            f'y="{bottom - height:.1f}" width="{max(width - 1, 0.5):.1f}" height="{height:.1f}"/>'
        )
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        edge = one.edges[round(share * (len(one.edges) - 1))]
        x = _LEFT + share * (WIDTH - _LEFT - _RIGHT)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">'
            f"{tick_label(edge)}</text>"
        )
    return Markup("".join([*parts, "</svg>"]))  # the label is escaped, the rest are numbers


def _writing(audit: "Audit") -> Table:
    columns = [Column("written"), Column("transcripts", "number")]
    theirs = audit.transcription.conventions if audit.transcription else None
    if theirs:
        columns.append(Column("base model", "number"))
    rows = []
    for name, words in _CONVENTIONS:
        cells = [text_cell(words), _share(getattr(audit.conventions, name))]
        rows.append((*cells, *([_share(getattr(theirs, name))] if theirs else [])))
    return Table("How texts are written", tuple(columns), tuple(rows))


def _hard_words(audit: "Audit") -> Table | None:
    if not audit.vocabulary or not audit.vocabulary.hard_words:
        return None
    columns = (Column("word"), Column("pieces", "number"), Column("times", "number"))
    rows = tuple(
        (text_cell(word, "word"), number_cell(pieces, 0), number_cell(count, 0))
        for word, pieces, count in audit.vocabulary.hard_words
    )
    return Table("Words of the most pieces", columns, rows)


def _unseen_words(audit: "Audit") -> Table | None:
    if not audit.vocabulary or not audit.vocabulary.unseen:
        return None
    columns = (Column("word"), Column("times", "number"))
    rows = tuple(
        (text_cell(word, "word"), number_cell(count, 0)) for word, count in audit.vocabulary.unseen
    )
    return Table("Words that the other sides do not have", columns, rows)


def _share(value: float) -> Cell:
    return Cell(f"{value:.0%}", sort=value)
