"""Transcripts by utterance: cards with sound, confused words, speakers, lengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.metrics.alignment import Token, align
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.report.alignment import (
    Confusion,
    Group,
    ScoredPair,
    by_length,
    by_speaker,
    choose,
    confusions,
    pair_up,
    score_sides_alike,
)
from moonshine_tune.report.cells import set_title, short
from moonshine_tune.report.clips import EmbeddedClip, EmbeddedClips, Recordings
from moonshine_tune.report.reading import EvaluationPart, ReportInput

_MAX_CONFUSIONS, _MAX_SPEAKERS, _MAX_SETS = 12, 200, 6
# Cards of each kind. A canary only has to show what was damaged.
_MANY, _FEW = 6, 3


@dataclass(frozen=True)
class Card:
    """One utterance.

    Attributes:
        tags: why it is shown: worst, improved, damaged.
        transcripts: of each system its name, its word errors, and its words against the reference.
    """

    utterance: ScoredUtterance
    tags: tuple[str, ...]
    transcripts: tuple[tuple[str, int, tuple[Token, ...]], ...]
    clip: EmbeddedClip


@dataclass(frozen=True)
class Groups:
    """Some of `total` groups of utterances, and the highest WER among them."""

    name: str
    shown: tuple[Group, ...]
    total: int
    highest: float


@dataclass(frozen=True)
class TranscriptSet:
    """One set of utterances.

    Attributes:
        tags: those that its cards have, in order.
        compared: whether there is a base to compare with.
        confusions: the most frequent mistakes of each kind, and how many there are.
    """

    name: str
    backend: str
    normalizer: str
    num_utterances: int
    cards: tuple[Card, ...]
    tags: tuple[str, ...]
    compared: bool
    confusions: Mapping[str, tuple[tuple[Confusion, ...], int]]
    speakers: Groups | None
    lengths: Groups | None


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
        by_id: Mapping[str, Utterance] = {}
        if box.is_wanted:
            by_id = _recordings(report_input, source, recordings, tuple(chosen))
        if box.is_wanted and chosen and not by_id:
            missing.append(
                f"{source.name}: no manifest with these recordings was found, so there are no "
                "players; name it with --manifest"
            )
        with progress.stage(f"{source.name}: utterances", len(chosen)) as stage:
            cards: dict[str, Card] = {}
            for pair in source.pairs:
                name = pair.after.id
                if name in chosen:
                    cards[name] = _card(
                        pair,
                        chosen[name],
                        normalizer,
                        box.embed(by_id.get(name), pair.after.recording),
                    )
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
        sides = {part.model: part for part in parts if part.backend == backend}
        if len(sides) == 2:
            alike = score_sides_alike(sides["base"], sides["adapted"])
            before = alike.before if alike else ()
            yield _source(name, backend, parts, pair_up(before, sides["adapted"].scored))
        else:
            for part in sides.values():
                yield _source(name, backend, parts, pair_up((), part.scored))
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
    names = ("base", "adapted") if pair.before else ("hypothesis",)
    scored = [pair.before, pair.after] if pair.before else [pair.after]
    transcripts = tuple(
        (name, item.words.errors, align(item.reference, item.hypothesis, normalizer))
        for name, item in zip(names, scored, strict=True)
    )
    return Card(pair.after, tags, transcripts, clip)


def _transcript_set(
    source: _Source, normalizer: Normalizer, cards: Sequence[Card]
) -> TranscriptSet:
    there = {tag for card in cards for tag in card.tags}
    mistakes = confusions(source.pairs, normalizer, _MAX_CONFUSIONS)
    return TranscriptSet(
        name=set_title(source.name),
        backend=source.backend,
        normalizer=normalizer.name,
        num_utterances=len(source.pairs),
        cards=tuple(cards),
        tags=tuple(tag for tag in ("damaged", "worst", "improved") if tag in there),
        compared=any(pair.before for pair in source.pairs),
        confusions={kind: top for kind, top in mistakes.items() if top[0]},
        speakers=_groups("Speaker", by_speaker(source.pairs)),
        lengths=_groups("Length", by_length(source.pairs)),
    )


def _groups(name: str, groups: Sequence[Group]) -> Groups | None:
    """None where there is nothing to compare."""
    if len(groups) < 2:
        return None
    shown = groups
    if len(groups) > _MAX_SPEAKERS:
        shown = sorted(groups, key=lambda group: -group.after.errors)[:_MAX_SPEAKERS]
    rates = (c.rate for group in shown for c in (group.before, group.after) if c is not None)
    # Where nothing is wrong, the line of the figure still needs an end.
    highest = max([1.0, *rates])
    return Groups(name, tuple(shown), len(groups), highest)
