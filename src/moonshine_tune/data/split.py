"""`data split`: split a manifest into train, dev and test, by speaker or for one voice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import disk_errors, holds_out, sha256_of
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.scratch import new_scratch
from moonshine_tune.corpus.manifest import (
    Manifest,
    Utterance,
    mixed_splits,
    read_manifest,
    seconds_of,
    write_manifest,
)
from moonshine_tune.corpus.splits import Leaks, Splits, find_leaks, split_utterances
from moonshine_tune.corpus.voices import tiny_set_remark, voice_scope
from moonshine_tune.runs.records import SplitRecord, VoicesRecord
from moonshine_tune.runs.split_record import SPLIT_FILE

_SPLITS = ("train", "dev", "test")
_ALIASES = {"validation": "dev", "valid": "dev", "val": "dev", "eval": "test"}


@dataclass(frozen=True)
class SplitRequest:
    """What to split, and how.

    Attributes:
        dev, test: shares of the total; 0 leaves the split out.
        disjoint_texts: also keep each text in one split.
        by: what is kept in one split: `speaker`, `session`, `text`, or `auto`.
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
    by: str = "auto"


@dataclass(frozen=True)
class SideSummary:
    """One written split. `speakers` counts the named ones.

    Attributes:
        voices: of dev and test, whose voices a score on them is for; None for new ones.
    """

    name: str
    manifest: Path
    utterances: int
    seconds: float
    speakers: int
    voices: VoicesRecord | None = None


@dataclass(frozen=True)
class SplitResult:
    """The splits that are not empty, what is still in two of them, and remarks.

    Attributes:
        by: what no two splits share, as `Splits.by` has it; `field` for the manifest's own split.
        record: the file with all of this, beside the manifests.
    """

    total: int
    kept: int
    sides: tuple[SideSummary, ...]
    leaks: Leaks
    remarks: tuple[str, ...]
    by: str
    record: Path


@holds_out(lambda request, progress: request.out)
def split_data(request: SplitRequest, progress: Progress) -> SplitResult:
    """Write `train.jsonl`, `dev.jsonl`, `test.jsonl` and `split.json` into the out folder.

    Raises:
        RequestError: impossible shares, nothing left for train, or existing files.
        ProblemsError: the manifest has invalid lines.
    """
    if not request.by_field and request.dev == 0 and request.test == 0:
        raise RequestError(
            "the shares of dev and test are both 0", hint="give a share, such as --dev 0.1"
        )
    if request.by_field and request.by != "auto":
        raise RequestError(
            "--by and --by-field are two ways to split", hint="leave one of them out"
        )
    _check_out(request)
    manifest = read_manifest(request.manifest, require_text=False)
    own = mixed_splits(manifest.utterances) if request.by_field else None
    for remark in manifest.remarks:
        if remark != own:
            progress.say(remark)
    if request.by_field:
        splits = _split_by_field(manifest.utterances, request.manifest)
    else:
        splits = split_utterances(
            manifest.utterances,
            by=request.by,
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
        raise _cannot_be_split(request, splits)
    sides = tuple(_summary(name, request.out, named, splits.by) for name in named)
    held_out = ((name, named[name]) for name in _SPLITS[1:] if name in named)
    tiny = [text for item in held_out if (text := tiny_set_remark(*item))]
    result = SplitResult(
        total=len(manifest),
        kept=sum(len(utterances) for utterances in named.values()),
        sides=sides,
        leaks=find_leaks(named),
        remarks=(*splits.remarks, *tiny),
        by=splits.by,
        record=request.out / SPLIT_FILE,
    )
    _write_all(request, named, _record_content(request, manifest, result))
    return result


def _cannot_be_split(request: SplitRequest, splits: Splits) -> RequestError:
    """Why there are no two sides, and what to do."""
    remarks = "; ".join(splits.remarks) or "all utterances are in one split"
    hints = {
        "speaker": "split for the voices that there are with --by auto; or record more speakers, "
        "or name them. If their labels start anew in each recording: --local-speakers",
        "session": "there is one session: leave out --by session",
        "text": "there is one text: leave out --by text",
        "field": "name two splits in the field, or leave out --by-field",
    }
    return RequestError(
        f"this manifest cannot be split: {remarks}",
        where=request.manifest,
        hint=hints.get(splits.by, "record more: each split needs a clip"),
    )


def _record_content(
    request: SplitRequest, manifest: Manifest, result: SplitResult
) -> dict[str, Any]:
    """The record, but for the checksums of the manifests, which are not written yet."""
    sides = {
        side.name: {"utterances": side.utterances, "seconds": side.seconds,
                    "speakers": side.speakers}
        | ({"voices": side.voices} if side.voices else {})
        for side in result.sides
    }  # fmt: skip
    by_shares = {"seed": request.seed, "shares": {"dev": request.dev, "test": request.test}}
    return {
        "schema_version": 1,
        "by": result.by,
        **({} if request.by_field else by_shares),
        "manifest_sha256": manifest.sha256,
        "sides": sides,
        "remarks": list(result.remarks),
    }


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
    return Splits(tuple(splits["train"]), tuple(splits["dev"]), tuple(splits["test"]), by="field")


def _write_all(
    request: SplitRequest, splits: Mapping[str, Sequence[Utterance]], content: dict[str, Any]
) -> None:
    """Write all splits, then replace all: old and new splits together would leak speakers.

    The record comes last. It has the checksums of the manifests, so that it never speaks of others.
    """
    out = request.out
    with disk_errors(out), ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        scratch: dict[str, Path] = {}
        for name, utterances in splits.items():
            target = _target(out, name)
            scratch[name] = stack.enter_context(new_scratch(target, is_folder=False))
            write_manifest(scratch[name], utterances)
            content["sides"][name]["sha256"] = sha256_of(scratch[name])
        # Another program may have made them meanwhile.
        _check_out(request)
        for name, path in scratch.items():
            path.replace(_target(out, name))
        for name in _SPLITS:
            if name not in splits:
                _target(out, name).unlink(missing_ok=True)
        SplitRecord.model_validate(content).write(out / SPLIT_FILE)


def _summary(
    name: str, out: Path, splits: Mapping[str, Sequence[Utterance]], by: str
) -> SideSummary:
    utterances = splits[name]
    scope = None if name == "train" else voice_scope(splits["train"], utterances, by=by)
    return SideSummary(
        name=name,
        manifest=_target(out, name),
        utterances=len(utterances),
        seconds=round(seconds_of(utterances), 2),
        speakers=len({utterance.speaker for utterance in utterances if utterance.speaker}),
        voices=VoicesRecord.of(scope),
    )
