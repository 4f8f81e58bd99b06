"""Transcripts by utterance: cards with sound, confused words, speakers, lengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.report.alignment import (
    Confusion,
    Group,
    ScoredPair,
    Token,
    align,
    by_length,
    by_speaker,
    choose,
    confusions,
    pair_up,
)
from moonshine_tune.report.clips import EmbeddedClip, EmbeddedClips, Recordings
from moonshine_tune.report.figures import Interval, interval_strip
from moonshine_tune.report.reading import EvaluationPart, ReportInput
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    number_cell,
    set_title,
    short,
    text_cell,
)

_MISTAKES = {
    "substituted": "Substituted words",
    "deleted": "Missing words",
    "inserted": "Added words",
}
_MAX_CONFUSIONS, _MAX_SPEAKERS, _MAX_SETS = 12, 200, 6
# Longer transcripts are loops of the decoder: their beginning shows it, all of it fills the page.
_MAX_TOKENS = 160
# Cards of each kind. A canary only has to show what was damaged.
_MANY, _FEW = 6, 3


@dataclass(frozen=True)
class TranscriptRow:
    """One system's transcript on a card. `num_hidden` words are cut off at the end."""

    model: str
    errors: int
    tokens: tuple[Token, ...]
    num_hidden: int


@dataclass(frozen=True)
class Card:
    """One utterance. `tags` say why it is shown: worst, improved, damaged."""

    id: str
    speaker: str
    reference: str
    tags: tuple[str, ...]
    transcripts: tuple[TranscriptRow, ...]
    clip: EmbeddedClip


@dataclass(frozen=True)
class TranscriptSet:
    """One set of utterances. `tags` are those that its cards have, in order."""

    name: str
    backend: str
    normalizer: str
    num_utterances: int
    cards: tuple[Card, ...]
    tags: tuple[str, ...]
    confusions: tuple[Table, ...]
    speakers: Table | None
    lengths: Table | None


@dataclass(frozen=True)
class _Source:
    """One set as it was read. `fingerprints` are those of manifests that may hold it."""

    name: str
    backend: str
    normalizer: str
    fingerprints: tuple[str, ...]
    pairs: tuple[ScoredPair, ...]


def transcript_sets(
    report_input: ReportInput, recordings: Recordings, box: EmbeddedClips, progress: Progress
) -> tuple[tuple[TranscriptSet, ...], tuple[str, ...]]:
    """All sets, and a sentence for each thing that could not be shown.

    Args:
        box: takes the sound; the first sets come first until it is full.
    """
    sets: list[TranscriptSet] = []
    missing: list[str] = []
    sources = list(_sources(report_input))
    if len(sources) > _MAX_SETS:
        names = ", ".join(short(source.name, 40) for source in sources[_MAX_SETS:][:10])
        missing.append(f"transcripts are shown of {_MAX_SETS} sets only, not of {names}")
    for source in sources[:_MAX_SETS]:
        try:
            normalizer = normalizer_for(source.normalizer or None)
        except RequestError:
            missing.append(f"{source.name}: its normalizer {short(source.normalizer, 40)!r} is "
                           "not known to this version, english-1 is used")  # fmt: skip
            normalizer = normalizer_for("english-1")
        chosen = choose(source.pairs, _FEW if source.name == "canary" else _MANY)
        by_id = _recordings(report_input, source, recordings, tuple(chosen))
        if chosen and not by_id:
            missing.append(
                f"{source.name}: no manifest with these recordings was found, so there are no "
                "players; name it with --manifest"
            )
        with progress.stage(f"{source.name}: utterances", len(chosen)) as stage:
            cards: dict[str, Card] = {}
            for pair in source.pairs:
                name = pair.after.id
                if name in chosen:
                    cards[name] = _card(pair, chosen[name], normalizer, box.embed(by_id.get(name)))
                    stage.advance()
        sets.append(_transcript_set(source, normalizer, [cards[name] for name in chosen]))
    return tuple(sets), tuple(missing)


def _sources(report_input: ReportInput) -> Iterator[_Source]:
    """The sets to look into: of a set scored by two back ends, the runtime, which users get."""
    run = report_input.run_alone
    if run is not None and run.dev:
        data = run.record.data
        known = tuple(digest for name in ("dev", "train") if (digest := data.get(name)))
        yield _Source("dev", "torch", run.record.normalizer or "", known, pair_up((), run.dev))
    named = [part for part in report_input.evaluations if part.model]
    for name in sorted({part.set_name for part in named}, key=lambda n: (n != "domain", n)):
        parts = [part for part in named if part.set_name == name and part.scored]
        backend = "runtime" if any(part.backend == "runtime" for part in parts) else "torch"
        sides = {part.model: part.scored for part in parts if part.backend == backend}
        if sides:
            before, after = sides.get("base", ()), sides.get("adapted", ())
            pairs = pair_up(before, after) if after else pair_up((), before)
            yield _source(name, backend, parts, pairs)
    for part in report_input.evaluations:
        if not part.model and part.scored:
            yield _source(part.set_name, part.result.backend, [part], pair_up((), part.scored))


def _source(
    name: str, backend: str, parts: Sequence[EvaluationPart], pairs: tuple[ScoredPair, ...]
) -> _Source:
    results = [part.result for part in parts]
    normalizer = next((result.normalizer for result in results if result.normalizer), "")
    digests = {result.manifest_sha256 for result in results if result.manifest_sha256}
    return _Source(name, backend, normalizer, tuple(digests), pairs)


def _recordings(
    report_input: ReportInput, source: _Source, recordings: Recordings, ids: tuple[str, ...]
) -> Mapping[str, Utterance]:
    manifests: list[object] = list(report_input.summary.plan.manifests.values())
    if report_input.run_alone is not None:
        manifests += [report_input.run_alone.setting(f"data.{name}") for name in ("dev", "train")]
    paths = [Path(path) for path in manifests if isinstance(path, str)]
    for fingerprint in source.fingerprints:
        utterances = recordings.find(fingerprint, ids, paths)
        if utterances:
            return utterances
    return recordings.find("", ids)


def _card(
    pair: ScoredPair, tags: tuple[str, ...], normalizer: Normalizer, clip: EmbeddedClip
) -> Card:
    rows = [_row("base", pair.before, normalizer)] if pair.before else []
    rows.append(_row("adapted" if pair.before else "hypothesis", pair.after, normalizer))
    return Card(
        id=short(pair.after.id, 120),
        speaker=short(pair.after.speaker or "", 80),
        reference=short(pair.after.reference, 1500),
        tags=tags,
        transcripts=tuple(rows),
        clip=clip,
    )


def _row(model: str, item: ScoredUtterance, normalizer: Normalizer) -> TranscriptRow:
    tokens = align(item.reference, item.hypothesis, normalizer)
    shown = tuple(
        Token(token.kind, short(token.reference, 60), short(token.hypothesis, 60))
        for token in tokens[:_MAX_TOKENS]
    )
    return TranscriptRow(model, item.words.errors, shown, len(tokens) - len(shown))


def _transcript_set(
    source: _Source, normalizer: Normalizer, cards: Sequence[Card]
) -> TranscriptSet:
    there = {tag for card in cards for tag in card.tags}
    compared = any(pair.before for pair in source.pairs)
    return TranscriptSet(
        name=set_title(source.name),
        backend=source.backend,
        normalizer=normalizer.name,
        num_utterances=len(source.pairs),
        cards=tuple(cards),
        tags=tuple(tag for tag in ("damaged", "worst", "improved") if tag in there),
        confusions=tuple(
            _confusion_table(kind, mistakes, total, compared)
            for kind, (mistakes, total) in confusions(
                source.pairs, normalizer, _MAX_CONFUSIONS
            ).items()
            if mistakes
        ),
        speakers=_group_table("Speaker", by_speaker(source.pairs), compared),
        lengths=_group_table("Length", by_length(source.pairs), compared),
    )


def _confusion_table(kind: str, mistakes: Sequence[Confusion], total: int, compared: bool) -> Table:
    """The most frequent mistakes of one kind: added words have no reference."""
    columns = [] if kind == "inserted" else [Column("Reference")]
    columns += [] if kind == "deleted" else [Column("Hypothesis")]
    columns += [Column("Base", "number")] if compared else []
    columns += [Column("Adapted" if compared else "Times", "number")]
    rows = []
    for item in mistakes:
        row = [] if kind == "inserted" else [text_cell(short(item.reference, 60), "word")]
        row += [] if kind == "deleted" else [text_cell(short(item.hypothesis, 60), "word")]
        row += [number_cell(item.before, 0)] if compared else []
        rows.append((*row, number_cell(item.after, 0)))
    note = f"The first {len(mistakes)} of {total:,}." if total > len(mistakes) else ""
    return Table(_MISTAKES[kind], tuple(columns), tuple(rows), note)


def _group_table(name: str, groups: Sequence[Group], compared: bool) -> Table | None:
    if len(groups) < 2:
        return None
    shown = groups
    if len(groups) > _MAX_SPEAKERS:
        shown = sorted(groups, key=lambda group: -group.after.errors)[:_MAX_SPEAKERS]
    highest = max(c.rate for group in shown for c in (group.before, group.after) if c is not None)
    columns = [Column(name), Column("Utterances", "number"), Column("Words", "number aside")]
    columns += [Column("Base", "number")] if compared else []
    columns += [Column("Adapted" if compared else "WER", "number")]
    columns += [Column("Change", "number")] if compared else []
    columns += [Column(f"0 to {highest:.0f} %", "figure")]
    rows = tuple(_group_row(index, group, compared, highest) for index, group in enumerate(shown))
    note = "WER in percent."
    if len(shown) < len(groups):
        note += f" The {len(shown)} with the most errors of {len(groups):,}."
    return Table(f"By {name.lower()}", tuple(columns), rows, note)


def _group_row(index: int, group: Group, compared: bool, highest: float) -> tuple[Cell, ...]:
    before, after = group.before.rate if group.before else None, group.after.rate
    change = None if before is None else after - before
    row = [
        Cell(short(group.name, 80), sort=float(index)),
        number_cell(group.utterances, 0),
        number_cell(group.after.reference, 0),
    ]
    row += [number_cell(before, 1)] if compared else []
    row += [number_cell(after, 1)]
    row += [change_cell(change, digits=1)] if compared else []
    strip = interval_strip(None if before is None else Interval(before), Interval(after), highest)
    return (*row, Cell("", figure=strip))
