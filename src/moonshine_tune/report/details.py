"""What was heard, utterance by utterance: cards with sound, confused words, speakers, lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.report.alignment import (
    MAX_TOKENS,
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
from moonshine_tune.report.reading import ReportInput, mapping
from moonshine_tune.report.tables import (
    Cell,
    Column,
    Table,
    change_cell,
    number_cell,
    rate_of,
    set_title,
    short,
    text_cell,
)

_MAX_CONFUSIONS = 12
_MISTAKES = {
    "substituted": "Words heard as others",
    "deleted": "Words missed",
    "inserted": "Words added",
}
_MAX_SPEAKERS = 200
_MAX_SETS = 6
# Cards of each kind. A canary only has to show what was damaged.
_MANY, _FEW = 6, 3


@dataclass(frozen=True)
class TranscriptRow:
    """One system's transcript of a card. `num_hidden` words are cut off at the end."""

    model: str
    errors: int
    wer: float
    tokens: tuple[Token, ...]
    num_hidden: int


@dataclass(frozen=True)
class Card:
    """One utterance. `tags` say why it is shown: worst, improved, damaged."""

    id: str
    speaker: str
    said: str
    tags: tuple[str, ...]
    heard: tuple[TranscriptRow, ...]
    clip: EmbeddedClip


@dataclass(frozen=True)
class SetDetails:
    """One set of utterances. `tags` are those that its cards have, in order."""

    name: str
    backend: str
    normalizer: str
    num_utterances: int
    compared: bool
    cards: tuple[Card, ...]
    tags: tuple[str, ...]
    confusions: tuple[Table, ...]
    speakers: Table | None
    lengths: Table | None


@dataclass(frozen=True)
class _TranscriptSource:
    """One set as it was read, before anything is made of it."""

    name: str
    backend: str
    normalizer: str
    fingerprints: tuple[str, ...]
    pairs: tuple[ScoredPair, ...]


def details_of(
    report_input: ReportInput, recordings: Recordings, box: EmbeddedClips, progress: Progress
) -> tuple[tuple[SetDetails, ...], tuple[str, ...]]:
    """All sets with their details, and a sentence for each thing that could not be had.

    Args:
        box: takes the sound; the first sets come first until it is full.
    """
    found: list[SetDetails] = []
    missing: list[str] = []
    sources = _sources(report_input)
    if len(sources) > _MAX_SETS:
        names = ", ".join(short(source.name, 40) for source in sources[_MAX_SETS:][:10])
        missing.append(f"what was heard is shown of {_MAX_SETS} sets only, not of {names}")
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
            cards = []
            for pair in source.pairs:
                if pair.after.id in chosen:
                    clip = box.embed(by_id.get(pair.after.id))
                    cards.append(_card(pair, chosen[pair.after.id], normalizer, clip))
                    stage.advance()
        found.append(_set_details(source, normalizer, cards, list(chosen)))
    return tuple(found), tuple(missing)


def _sources(report_input: ReportInput) -> list[_TranscriptSource]:
    """The sets to look into: of a set heard by two back ends, the runtime, which users hear."""
    found = []
    run = report_input.run
    if report_input.kind in ("run", "ablation") and run is not None and run.dev:
        fingerprints = mapping(run.record.get("data"))
        known = tuple(str(fingerprints[name]) for name in ("dev", "train") if name in fingerprints)
        normalizer = str(run.record.get("normalizer") or "")
        found.append(
            _TranscriptSource("dev", "torch", normalizer, known, _unique(pair_up((), run.dev)))
        )
    named = [part for part in report_input.evaluations if part.model]
    for name in sorted({part.set_name for part in named}, key=lambda n: (n != "domain", n)):
        parts = [part for part in named if part.set_name == name and part.scored]
        backend = "runtime" if any(p.backend == "runtime" for p in parts) else "torch"
        sides = {part.model: part.scored for part in parts if part.backend == backend}
        if not sides:
            continue
        pairs = pair_up(sides.get("base", ()), sides.get("adapted") or sides["base"])
        if "adapted" not in sides:
            pairs = tuple(ScoredPair(pair.after, None) for pair in pairs)
        results = [part.result for part in parts]
        found.append(
            _TranscriptSource(
                name,
                backend,
                next((str(r["normalizer"]) for r in results if r.get("normalizer")), ""),
                tuple({str(r["manifest_sha256"]) for r in results if r.get("manifest_sha256")}),
                _unique(pairs),
            )
        )
    for part in (part for part in report_input.evaluations if not part.model and part.scored):
        result = part.result
        found.append(
            _TranscriptSource(
                part.set_name,
                str(result.get("backend", "")),
                str(result.get("normalizer") or ""),
                (str(result.get("manifest_sha256", "")),),
                _unique(pair_up((), part.scored)),
            )
        )
    return found


def _unique(pairs: Sequence[ScoredPair]) -> tuple[ScoredPair, ...]:
    """One of each id: a torn file may hold a line twice."""
    return tuple({pair.after.id: pair for pair in pairs}.values())


def _recordings(
    report_input: ReportInput,
    source: _TranscriptSource,
    recordings: Recordings,
    ids: tuple[str, ...],
) -> Mapping[str, Utterance]:
    named: list[Path] = []
    told = mapping(mapping(report_input.demo.get("plan")).get("manifests"))
    named += [Path(path) for path in told.values() if isinstance(path, str)]
    if report_input.run is not None and report_input.kind in ("run", "ablation"):
        data = mapping(mapping(report_input.run.record.get("settings")).get("data"))
        named = [Path(path) for key in ("dev", "train") if isinstance(path := data.get(key), str)]
    for fingerprint in source.fingerprints:
        found = recordings.find(fingerprint, ids, named)
        if found:
            return found
    return recordings.find("", ids)


def _card(
    pair: ScoredPair, tags: tuple[str, ...], normalizer: Normalizer, clip: EmbeddedClip
) -> Card:
    heard = [_heard("base", pair.before, normalizer)] if pair.before else []
    heard.append(_heard("adapted" if pair.before else "heard", pair.after, normalizer))
    return Card(
        id=short(pair.after.id, 120),
        speaker=short(pair.after.speaker or "", 80),
        said=short(pair.after.reference, 1500),
        tags=tags,
        heard=tuple(heard),
        clip=clip,
    )


def _heard(model: str, item: ScoredUtterance, normalizer: Normalizer) -> TranscriptRow:
    tokens = tuple(
        Token(token.kind, short(token.said, 60), short(token.heard, 60))
        for token in align(item.reference, item.hypothesis, normalizer)
    )
    hidden = max(len(tokens) - MAX_TOKENS, 0)
    return TranscriptRow(model, item.words.errors, item.words.rate, tokens[:MAX_TOKENS], hidden)


def _set_details(
    source: _TranscriptSource, normalizer: Normalizer, cards: list[Card], order: list[str]
) -> SetDetails:
    places = {identifier: place for place, identifier in enumerate(order)}
    ordered = sorted(cards, key=lambda card: places.get(card.id, len(places)))
    there = {tag for card in cards for tag in card.tags}
    compared = any(pair.before for pair in source.pairs)
    return SetDetails(
        name=set_title(source.name),
        backend=source.backend,
        normalizer=normalizer.name,
        num_utterances=len(source.pairs),
        compared=compared,
        cards=tuple(ordered),
        tags=tuple(tag for tag in ("damaged", "worst", "improved") if tag in there),
        confusions=_confusion_tables(source.pairs, normalizer, compared),
        speakers=_group_table("Speaker", by_speaker(source.pairs), compared),
        lengths=_group_table("Length", by_length(source.pairs), compared),
    )


def _confusion_tables(
    pairs: Sequence[ScoredPair], normalizer: Normalizer, compared: bool
) -> tuple[Table, ...]:
    """A table for each kind of mistake that was made."""
    found = []
    for kind, (mistakes, total) in confusions(pairs, normalizer, _MAX_CONFUSIONS).items():
        if not mistakes:
            continue
        columns = [] if kind == "inserted" else [Column("Said")]
        columns += [] if kind == "deleted" else [Column("TranscriptRow")]
        columns += [Column("Base", "number")] if compared else []
        columns += [Column("Adapted" if compared else "Times", "number")]
        rows = []
        for item in mistakes:
            row = [] if kind == "inserted" else [text_cell(short(item.said, 60), "word")]
            row += [] if kind == "deleted" else [text_cell(short(item.heard, 60), "word")]
            row += [number_cell(item.before, 0)] if compared else []
            rows.append((*row, number_cell(item.after, 0)))
        note = f"The first {len(mistakes)} of {total:,}." if total > len(mistakes) else ""
        found.append(Table(_MISTAKES[kind], tuple(columns), tuple(rows), note))
    return tuple(found)


def _group_table(name: str, groups: Sequence[Group], compared: bool) -> Table | None:
    if len(groups) < 2:
        return None
    shown = groups
    if len(groups) > _MAX_SPEAKERS:
        shown = sorted(groups, key=lambda group: -group.after.errors)[:_MAX_SPEAKERS]
    rates = [c.rate for group in shown for c in (group.before, group.after) if c is not None]
    columns = [Column(name), Column("Utterances", "number"), Column("Words", "number aside")]
    columns += [Column("Base", "number")] if compared else []
    columns += [Column("Adapted" if compared else "WER", "number")]
    columns += [Column("Change", "number")] if compared else []
    columns += [Column(f"0 to {max(rates):.0f} %", "figure")]
    rows = tuple(
        _group_row(group, place, compared, max(rates)) for place, group in enumerate(shown)
    )
    note = "WER in percent."
    if len(shown) < len(groups):
        note += f" The {len(shown)} with the most errors of {len(groups):,}."
    return Table(f"By {name.lower()}", tuple(columns), rows, note)


def _group_row(group: Group, place: int, compared: bool, highest: float) -> tuple[Cell, ...]:
    before, after = rate_of(group.before), group.after.rate
    row = [
        Cell(short(group.name, 80), sort=float(place)),
        number_cell(group.utterances, 0),
        number_cell(group.after.reference, 0),
    ]
    row += [number_cell(before, 1)] if compared else []
    row += [number_cell(after, 1)]
    row += [change_cell(None if before is None else after - before, digits=1)] if compared else []
    strip = interval_strip(
        None if before is None else Interval(before, before, before),
        Interval(after, after, after),
        highest,
    )
    return (*row, Cell("", figure=strip))
