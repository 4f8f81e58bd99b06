"""`data split`: split a manifest into train, dev and test manifests that share no speaker."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, holds_out
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import new_scratch
from moonshine_tune.corpus.manifest import Utterance, read_manifest, seconds_of, write_manifest
from moonshine_tune.corpus.splits import Leaks, Splits, find_leaks, split_by_speaker

_SPLITS = ("train", "dev", "test")
_ALIASES = {"validation": "dev", "valid": "dev", "val": "dev", "eval": "test"}


@dataclass(frozen=True)
class SplitRequest:
    """What to split, and how.

    Attributes:
        dev, test: shares of the total; 0 leaves the split out.
        disjoint_texts: also keep each text in one split.
        by_field: split by the manifest's own `split` field instead of by shares.
        local_speakers: whether numbered labels of speakers name another person in each recording;
            None decides by how they are spread over the recordings.
        force: replace existing split manifests in `out`.
    """

    manifest: Path
    out: Path
    dev: float = 0.1
    test: float = 0.1
    seed: int = 0
    disjoint_texts: bool = False
    by_field: bool = False
    force: bool = False
    local_speakers: bool | None = None


@dataclass(frozen=True)
class SideSummary:
    """One written split. `speakers` counts the named ones."""

    name: str
    manifest: Path
    utterances: int
    seconds: float
    speakers: int


@dataclass(frozen=True)
class SplitResult:
    """The splits that are not empty, what is still in two of them, and remarks."""

    total: int
    kept: int
    sides: tuple[SideSummary, ...]
    leaks: Leaks
    remarks: tuple[str, ...]


@holds_out(lambda request, progress: request.out)
def split_data(request: SplitRequest, progress: Progress) -> SplitResult:
    """Write `train.jsonl`, `dev.jsonl` and `test.jsonl` into the out folder, all or none.

    Raises:
        RequestError: impossible shares, nothing left for train, or existing files.
        ProblemsError: the manifest has invalid lines.
    """
    if not request.by_field and request.dev == 0 and request.test == 0:
        raise RequestError(
            "the shares of dev and test are both 0", hint="give a share, such as --dev 0.1"
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
            local_speakers=request.local_speakers,
        )
    named = {
        name: tuple(replace(utterance, split=name) for utterance in getattr(splits, name))
        for name in _SPLITS
        if getattr(splits, name)
    }
    if "train" not in named or len(named) < 2:
        remarks = "; ".join(splits.remarks) or "all utterances are in one split"
        raise RequestError(
            f"this manifest cannot be split: {remarks}",
            where=request.manifest,
            hint="record more speakers, or name them: every split needs a speaker. If their labels "
            "start anew in each recording: --local-speakers",
        )
    _write_all(request, named)
    return SplitResult(
        total=len(manifest),
        kept=sum(len(utterances) for utterances in named.values()),
        sides=tuple(_summary(name, request.out, named[name]) for name in named),
        leaks=find_leaks(named),
        remarks=splits.remarks,
    )


def _check_out(request: SplitRequest) -> None:
    """Refuse to overwrite the manifest itself, or earlier splits without `force`."""
    targets = [_target(request.out, name) for name in _SPLITS]
    if request.manifest.resolve() in [target.resolve() for target in targets]:
        raise RequestError(
            "the split would overwrite the manifest that it is made from",
            where=request.manifest,
            hint="choose another folder with --out",
        )
    present = [target for target in targets if target.exists()]
    if present and not request.force:
        raise RequestError(
            f"splits exist already: {', '.join(target.name for target in present)}",
            where=request.out,
            hint="choose another folder with --out, or replace them with --force",
        )


def _target(out: Path, name: str) -> Path:
    return out / f"{name}.jsonl"


def _split_by_field(utterances: Sequence[Utterance], manifest: Path) -> Splits:
    """Splits as the manifest names them; names other than train, dev and test are an error."""
    splits: dict[str, list[Utterance]] = {name: [] for name in _SPLITS}
    wrong: Counter[str] = Counter()
    for utterance in utterances:
        value = utterance.split or "(none)"
        name = _ALIASES.get(value.lower(), value.lower())
        if name in splits:
            splits[name].append(utterance)
        else:
            wrong[value] += 1
    if wrong:
        listed = ", ".join(f"{name} ({count})" for name, count in wrong.items())
        raise RequestError(
            f"the split field must be train, dev or test; it is also: {listed}",
            where=manifest,
            hint="fix the field, or split by speaker: leave out --by-field",
        )
    return Splits(tuple(splits["train"]), tuple(splits["dev"]), tuple(splits["test"]))


def _write_all(request: SplitRequest, splits: Mapping[str, Sequence[Utterance]]) -> None:
    """Write all splits, then replace all: old and new splits together would leak speakers."""
    out = request.out
    with disk_errors(out), ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        scratch: dict[str, Path] = {}
        for name, utterances in splits.items():
            target = _target(out, name)
            scratch[name] = stack.enter_context(new_scratch(target, is_folder=False))
            write_manifest(scratch[name], utterances)
        # Another program may have made them meanwhile.
        _check_out(request)
        for name, path in scratch.items():
            path.replace(_target(out, name))
        for name in _SPLITS:
            if name not in splits:
                _target(out, name).unlink(missing_ok=True)


def _summary(name: str, out: Path, utterances: Sequence[Utterance]) -> SideSummary:
    return SideSummary(
        name=name,
        manifest=_target(out, name),
        utterances=len(utterances),
        seconds=round(seconds_of(utterances), 2),
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker}),
    )
