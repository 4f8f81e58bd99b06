"""`data split`: one manifest into train, dev and test manifests that share no speaker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, read_manifest, seconds_of, write_manifest
from moonshine_tune.corpus.splits import Leaks, Splits, find_leaks, split_by_speaker

SIDES = ("train", "dev", "test")


@dataclass(frozen=True)
class SplitRequest:
    """What to split, and how.

    Attributes:
        dev, test: shares of the whole; 0 leaves a side out.
        disjoint_texts: also keep each text on one side.
        by_field: cut by the manifest's own `split` field instead of by shares.
        force: replace split manifests that are in `out` already.
    """

    manifest: Path
    out: Path
    dev: float = 0.1
    test: float = 0.1
    seed: int = 0
    disjoint_texts: bool = False
    by_field: bool = False
    force: bool = False


@dataclass(frozen=True)
class SideSummary:
    """One side as it was written. `speakers` counts those that are named."""

    name: str
    manifest: Path
    utterances: int
    seconds: float
    speakers: int


@dataclass(frozen=True)
class SplitResult:
    """The sides that are not empty, what still lies on two of them, and remarks."""

    total: int
    kept: int
    sides: tuple[SideSummary, ...]
    leaks: Leaks
    remarks: tuple[str, ...]


def split_data(request: SplitRequest, progress: Progress) -> SplitResult:
    """Write `train.jsonl`, `dev.jsonl` and `test.jsonl` into the out folder, all or none.

    Raises:
        RequestError: impossible shares, nothing left for train, or files that are there already.
        ProblemsError: the manifest has bad lines.
    """
    if not request.by_field and request.dev == 0 and request.test == 0:
        raise RequestError(
            "shares of 0 for dev and test split nothing off",
            hint="give a share, such as --dev 0.1",
        )
    _check_out(request)
    manifest = read_manifest(request.manifest, require_text=False)
    for remark in manifest.remarks:
        progress.say(remark)
    if request.by_field:
        splits = _split_by_field(manifest.utterances, request.manifest)
    else:
        splits = split_by_speaker(
            manifest.utterances,
            dev=request.dev,
            test=request.test,
            seed=request.seed,
            disjoint_texts=request.disjoint_texts,
        )
    sides = {name: getattr(splits, name) for name in SIDES if getattr(splits, name)}
    if "train" not in sides or len(sides) < 2:
        remarks = "; ".join(splits.remarks) or "every utterance falls to one side"
        raise RequestError(
            f"this manifest cannot be split: {remarks}",
            where=request.manifest,
            hint="record more speakers, or name them: a split by speaker needs one for each side",
        )
    sides = {
        name: tuple(replace(utterance, split=name) for utterance in utterances)
        for name, utterances in sides.items()
    }
    _write_all(request.out, sides)
    return SplitResult(
        total=len(manifest),
        kept=sum(len(utterances) for utterances in sides.values()),
        sides=tuple(_summary(name, request.out, sides[name]) for name in sides),
        leaks=find_leaks(sides),
        remarks=splits.remarks,
    )


def _check_out(request: SplitRequest) -> None:
    """Refuse to write over the manifest itself, or over earlier splits without `force`."""
    targets = [_target(request.out, name) for name in SIDES]
    if request.manifest.resolve() in [target.resolve() for target in targets]:
        raise RequestError(
            "the split would overwrite the manifest that it is made from",
            where=request.manifest,
            hint="choose another folder with --out",
        )
    present = [target for target in targets if target.exists()]
    if present and not request.force:
        raise RequestError(
            f"there are splits already: {', '.join(target.name for target in present)}",
            where=request.out,
            hint="choose another folder with --out, or replace them with --force",
        )


def _target(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl"


def _split_by_field(utterances: Sequence[Utterance], manifest: Path) -> Splits:
    """Sides as the manifest names them; other names than train, dev and test are an error."""
    aliases = {"validation": "dev", "valid": "dev", "val": "dev", "eval": "test"}
    sides: dict[str, list[Utterance]] = {name: [] for name in SIDES}
    wrong: dict[str, int] = {}
    for utterance in utterances:
        given = utterance.split or "(none)"
        name = aliases.get(given.lower(), given.lower())
        if name in sides:
            sides[name].append(utterance)
        else:
            wrong[given] = wrong.get(given, 0) + 1
    if wrong:
        listed = ", ".join(f"{name} ({count})" for name, count in wrong.items())
        raise RequestError(
            f"the split field must say train, dev or test; it also says: {listed}",
            where=manifest,
            hint="mend the field, or split by speaker: leave out --by-field",
        )
    return Splits(tuple(sides["train"]), tuple(sides["dev"]), tuple(sides["test"]))


def _write_all(out: Path, sides: Mapping[str, Sequence[Utterance]]) -> None:
    """Put all sides in place at the end: old and new sides together would leak speakers."""
    scratch = {name: out / f".{name}.jsonl.new" for name in sides}
    try:
        for name, utterances in sides.items():
            write_manifest(scratch[name], utterances)
        with disk_errors(out):
            for name, path in scratch.items():
                path.replace(_target(out, name))
            for name in SIDES:
                if name not in sides:
                    _target(out, name).unlink(missing_ok=True)
    finally:
        for path in scratch.values():
            path.unlink(missing_ok=True)


def _summary(name: str, out: Path, utterances: Sequence[Utterance]) -> SideSummary:
    return SideSummary(
        name=name,
        manifest=_target(out, name),
        utterances=len(utterances),
        seconds=round(seconds_of(utterances), 2),
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker}),
    )
