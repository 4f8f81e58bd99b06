"""The adapters that are combined, and the sets by which their strengths are chosen."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.corpus.voices import voice_scope
from moonshine_tune.data.shared_clips import repeated_clips
from moonshine_tune.models.adapter_sum import check_summable
from moonshine_tune.runs.folder import status_now
from moonshine_tune.runs.locations import locate
from moonshine_tune.runs.parent import Parent, read_origin
from moonshine_tune.runs.records import BETTER, VoicesRecord
from moonshine_tune.runs.summary import read_scored
from moonshine_tune.training.earlier import earlier_recordings, with_free_id

# Every further one doubles the strengths that are tried.
MAX_ADAPTERS = 4
_NAME_DEV = "name a development manifest for each adapter: --dev A.jsonl --dev B.jsonl"


@dataclass(frozen=True)
class Part:
    """An adapter that is combined with others.

    Attributes:
        name: what it is called in messages; no other part has the same.
    """

    name: str
    origin: Parent


@dataclass(frozen=True)
class DevSet:
    """Clips of one domain.

    Attributes:
        path: the manifest that they are from.
    """

    name: str
    path: Path
    utterances: tuple[Utterance, ...]


def read_parts(paths: Sequence[Path]) -> tuple[Part, ...]:
    """The adapters in some run or adapter folders, which have a sum.

    Raises:
        RequestError: too few or too many, one twice, one that is being trained or was trained from
            another, or adapters that cannot be summed.
    """
    if not 2 <= len(paths) <= MAX_ADAPTERS:
        raise RequestError(
            f"{len(paths)} adapters are named; 2 to {MAX_ADAPTERS} can be combined",
            hint="moonshine-tune combine runs/voice runs/words --out runs/both",
        )
    origins = [read_origin(path) for path in paths]
    names = _distinct([_name_of(item) for item in origins])
    parts = tuple(map(Part, names, origins))
    for part in parts:
        run = part.origin.run
        if run is not None and status_now(run.path, part.origin.record.status) == "running":
            raise RequestError(
                f"{part.name} is still being trained",
                where=run.path,
                hint="combine it when it has ended, or stop it with Ctrl-C: nothing is lost",
            )
    digests = {part.name: part.origin.adapter_sha256 for part in parts}
    for first, second in permutations(parts, 2):
        if digests[first.name] == digests[second.name]:
            raise RequestError(
                f"{first.origin.path} and {second.origin.path} are the same adapter",
                hint="name adapters that learned different things",
            )
        before = {item.adapter_sha256 for item in first.origin.record.lineage}
        if digests[second.name] in before:
            raise RequestError(
                f"{first.name} was made from {second.name}, and has what that one learned",
                where=first.origin.path,
                hint=f"use it alone, or combine it with another adapter than {second.name}",
            )
    check_summable([part.origin.adapter_dir for part in parts])
    return parts


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur twice with a number; no path, which records would publish."""
    counts, seen = Counter(names), Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if counts[name] == 1 else f"{name} {seen[name]}")
    return result


def _name_of(origin: Parent) -> str:
    folder = origin.path if origin.run is None else origin.run.path
    return folder.absolute().name or str(folder)


def dev_sets(
    parts: Sequence[Part], named: Sequence[Path], most: int
) -> tuple[tuple[DevSet, ...], list[str]]:
    """The dev sets, each with ids that no other has, and remarks.

    Args:
        named: manifests; without any, each part's own dev set.
        most: utterances of each set.

    Raises:
        RequestError: no set is known, or two share some of their clips.
    """
    given = [_named(path) for path in named] if named else list(map(_own_dev, parts))
    remarks: list[str] = []
    by_clips: dict[frozenset[Hashable], DevSet] = {}
    for item in given:
        first = by_clips.setdefault(frozenset(clip.span for clip in item.utterances), item)
        if first is not item:
            remarks.append(f"{item.name} has the clips of {first.name}: they are scored once")
    sets = list(by_clips.values())
    taken: set[str] = set()
    chosen = []
    for name, item in zip(_distinct([item.name for item in sets]), sets, strict=True):
        kept = evenly_chosen(item.utterances, most)
        if len(kept) < len(item.utterances):
            remarks.append(f"{name}: {len(kept)} of {len(item.utterances)} clips are scored")
        chosen.append(
            replace(item, name=name, utterances=tuple(with_free_id(u, taken) for u in kept))
        )
    pairs = combinations([item.utterances for item in chosen], 2)
    if shared := sum(len(repeated_clips(first, second)) for first, second in pairs):
        raise RequestError(
            f"{shared} clips are in several of the dev sets",
            where=chosen[-1].path,
            hint="name each set once: a clip that is scored twice counts twice",
        )
    return tuple(chosen), remarks


def _named(path: Path) -> DevSet:
    manifest = read_manifest(path)
    return DevSet(manifest.title, path, manifest.utterances)


def _own_dev(part: Part) -> DevSet:
    """The clips that a run was scored on: of its dev manifest, or held out of its training."""
    run, record = part.origin.run, part.origin.record
    if run is None:
        raise RequestError(
            f"{part.name} is an adapter without its run: its dev set is not known",
            where=part.origin.path,
            hint=_NAME_DEV,
        )
    key = "data.dev" if record.settings.get("data", {}).get("dev") else "data.train"
    path = locate(run.path, record, [key]).present.get(key)
    if path is None or not run.dev_hypotheses_path.is_file():
        raise RequestError(
            f"the dev set of {part.name} is not there any more", where=run.path, hint=_NAME_DEV
        )
    scored = {item.id for item in read_scored(run.dev_hypotheses_path)}
    manifest = read_manifest(path)
    utterances = tuple(item for item in manifest.utterances if item.id in scored)
    if not utterances:
        raise RequestError(
            f"none of the clips that {part.name} was scored on is in {path}",
            where=run.path,
            hint=_NAME_DEV,
        )
    return DevSet(f"dev of {part.name}", path, utterances)


def check_unlearned(parts: Sequence[Part], sets: Sequence[DevSet]) -> VoicesRecord | None:
    """Refuse dev clips that an adapter was trained on; whose voices the others are for.

    Raises:
        RequestError: names the set and the adapter.
    """
    trained: list[Utterance] = []
    for part in parts:
        recordings, _ = earlier_recordings(part.origin)
        trained += recordings
        for dev in sets:
            if known := repeated_clips(recordings, dev.utterances):
                raise RequestError(
                    f"{part.name} was trained on {len(known)} of the {len(dev.utterances)} clips, "
                    f"such as {known[0].id}: its WER on them says nothing",
                    where=dev.path,
                    hint="name clips that none of the adapters has learned: --dev FILE",
                )
    return VoicesRecord.of(voice_scope(trained, [u for dev in sets for u in dev.utterances]))


def canary_of(parts: Sequence[Part], named: Path | None) -> Manifest | None:
    """The general speech that bounds the choice: as named, or that of the runs; None without any.

    Raises:
        RequestError: the runs have different ones.
    """
    if named is not None:
        return read_manifest(named, require_text=False)
    paths: dict[str, Path] = {}
    for part in parts:
        if part.origin.run is not None:
            run = locate(part.origin.run.path, part.origin.record, ["data.canary"])
            paths |= {sha256_of(path): path for path in run.present.values()}
    if len(paths) > 1:
        listed = " or ".join(f"--canary {quoted(path)}" for path in paths.values())
        raise RequestError("the runs have different canaries", hint=f"name one: {listed}")
    return next((read_manifest(path, require_text=False) for path in paths.values()), None)


def remarks_on(parts: Sequence[Part]) -> list[str]:
    """What speaks against a part, and earlier adapters that several were trained from."""
    verdicts = {part.name: part.origin.record.result.judged for part in parts}
    remarks = [
        f"{name} is recorded as: {verdict}"
        for name, verdict in verdicts.items()
        if verdict not in ("", BETTER)
    ]
    origins = Counter(
        digest
        for part in parts
        for digest in {item.adapter_sha256 for item in part.origin.record.lineage}
    )
    return remarks + [
        f"several of them were trained from adapter {digest[:12]}: what it learned counts with the "
        "sum of their strengths"
        for digest, count in origins.items()
        if count > 1
    ]
