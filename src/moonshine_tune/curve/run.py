"""`curve`: train on parts of what there is, and say what more recordings would gain."""

import gc
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import check_writable, holds_out
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.core.provenance import command_line, versions
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Manifest, read_manifest, write_manifest
from moonshine_tune.corpus.splits import split_utterances
from moonshine_tune.corpus.voices import voice_scope
from moonshine_tune.curve.outlook import PlannedTraining, with_outlook
from moonshine_tune.curve.subsets import check_sizes, default_sizes, write_subset
from moonshine_tune.data.replay_audio import with_replay_audio
from moonshine_tune.data.shared_clips import repeated_clips
from moonshine_tune.runs.recordings import check_recordings
from moonshine_tune.runs.records import CurveRecord, VoicesRecord
from moonshine_tune.runs.split_record import are_for_known_voices, voices_of
from moonshine_tune.runs.summary import ENDED

CURVE_FILE = "curve.json"


class CurveTraining(Protocol):
    """What trains: `training.run.train`, or anything that leaves such a run folder behind."""

    def __call__(
        self, resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
    ) -> Any: ...


@dataclass(frozen=True)
class CurveRequest:
    """What is asked of a curve. To continue one, the same request again.

    Attributes:
        settings: of `train`; without a dev manifest, a share of train is held out once, for all.
        sizes: numbers of clips to train on; none for an eighth, a quarter, half and all.
        seeds: trainings of each size.
        more: numbers of further recordings to predict; none for half, once and three times as many.
        budget: minutes after which no training begins.
    """

    out: Path
    settings: ResolvedSettings
    sizes: tuple[int, ...] = ()
    seeds: int = 3
    more: tuple[int, ...] = ()
    budget: float | None = None


@dataclass(frozen=True)
class CurveResult:
    """A curve.

    Attributes:
        stopped: `finished`, `time is up`, or `interrupted`; the same command continues.
        trained: trainings that there are now, of `planned`.
    """

    path: Path
    stopped: str
    trained: int
    planned: int
    record: CurveRecord

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        counts = {"stopped": self.stopped, "trained": self.trained, "planned": self.planned}
        return {"curve": str(self.path), **counts, **self.record.to_json()}


@holds_out(lambda request, progress, **options: request.out)
def learning_curve(
    request: CurveRequest, progress: Progress, *, train: CurveTraining | None = None
) -> CurveResult:
    """Train on nested parts of the training manifest; each training is a run folder in `out/runs`.

    Args:
        train: what trains; None for `training.run.train`.

    Raises:
        RequestError: wrong input, or another curve in the folder.
        NegativeAnswerError: the base model makes no error on dev.
    """
    _check(request)
    start_time = time.monotonic()
    # Once for all trainings.
    resolved, replay = with_replay_audio(request.settings, progress)
    progress.say(replay.remark)
    request = replace(request, settings=resolved)
    data, folder = _data(request), request.out
    sizes = check_sizes(request.sizes or default_sizes(len(data.train)), len(data.train))
    record = _first_record(request, data, sizes)
    jobs = [PlannedTraining(size, seed) for seed in range(request.seeds) for size in sizes]
    dev = read_manifest(data.dev, check_files=False)
    sound = {"train": data.train.utterances, "dev": dev.utterances}
    for job in jobs:
        # A point of other sound than the rest would bend the curve.
        check_recordings(job.run(folder), sound, SilentProgress())
    stopped = "finished"
    with progress.stage("trainings", len(jobs)) as stage:
        for job in jobs:
            if not _is_done(folder, job):
                if _is_over(request.budget, start_time, folder, jobs, job):
                    stopped = "time is up"
                    break
                if not _train(request, data, job, train):
                    stopped = "interrupted"
                    break
                run = job.run(folder).read_record()
                progress.say(
                    f"{job.size} recordings, seed {job.seed}: WER {run.result.best.dev_wer:.2f}"
                )
            stage.advance(1, job.name)
    done = [job for job in jobs if _is_done(folder, job)]
    record = with_outlook(record, folder, done, data.dev)
    record.write(folder / CURVE_FILE)
    return CurveResult(folder, stopped, len(done), len(jobs), record)


def _check(request: CurveRequest) -> None:
    if request.seeds < 1:
        raise RequestError(f"--seeds {request.seeds}: at least 1", hint="3 show the spread")
    if request.budget is not None and not request.budget > 0:
        raise RequestError(f"--budget {request.budget:g}: more than 0 minutes")
    if any(number < 1 for number in request.more):
        raise RequestError("--more: at least 1 recording", hint="for example: --more 40")
    if request.settings.settings.data.train is None:
        raise RequestError(
            "no training manifest", hint="name it: moonshine-tune curve --train train.jsonl"
        )
    check_writable(request.out, is_folder=True)
    names = {item.name for item in request.out.iterdir()} if request.out.is_dir() else set()
    # Parts alone are of a curve that ended before its record was written.
    is_new = CURVE_FILE not in names
    if is_new and any(not name.startswith(".") for name in names - {"subsets"}):
        raise RequestError(
            "the folder is not empty", where=request.out, hint="choose another --out"
        )


@dataclass(frozen=True)
class _Data:
    """The clips to train on, where dev is, and settings that follow."""

    train: Manifest
    dev: Path
    layer: Mapping[str, Any]
    voices: VoicesRecord | None


def _data(request: CurveRequest) -> _Data:
    """The manifests; a dev set that is held out from train is written, once for all trainings."""
    settings = request.settings.settings
    manifest = read_manifest(settings.data.train or Path())
    # What a split has looked after need not be looked for again in its parts.
    layer = {"data.shared_speakers": True}
    if settings.data.dev is not None:
        dev = read_manifest(settings.data.dev)
        is_known = are_for_known_voices([manifest, dev])
        return _Data(manifest, dev.path, layer if is_known else {}, voices_of(manifest, dev))
    parts = split_utterances(
        manifest.utterances, dev=settings.data.dev_share, test=0.0, seed=settings.train.seed
    )
    if not parts.dev or not parts.train:
        raise RequestError(
            f"{len(manifest)} utterances cannot be split into train and dev",
            where=manifest.path,
            hint="name a development manifest with: --dev dev.jsonl",
        )
    copies = {item.id for item in repeated_clips(parts.dev, parts.train)}
    train = tuple(item for item in parts.train if item.id not in copies)
    path = request.out / "subsets" / "dev.jsonl"
    check_sizes(request.sizes or default_sizes(len(train)), len(train))
    if not path.is_file():
        write_manifest(path, parts.dev)
    voices = VoicesRecord.of(voice_scope(train, parts.dev, by=parts.by))
    return _Data(replace(manifest, utterances=train), path, layer, voices)


def _first_record(request: CurveRequest, data: _Data, sizes: Sequence[int]) -> CurveRecord:
    """The record of a new curve, or that of the same one before."""
    path = request.out / CURVE_FILE
    settings = request.settings.settings.model_dump(mode="json")
    manifests = {
        name: read_manifest(value, require_text=False, check_files=False).sha256
        for name in ("train", "dev", "canary", "replay")
        if (value := getattr(request.settings.settings.data, name)) is not None
    }
    content = {"settings": settings, "data": manifests, "sizes": list(sizes)}
    if path.exists():
        before = CurveRecord.read(path).to_json()
        changed = [name for name, value in content.items() if before.get(name) != value]
        if changed:
            raise RequestError(
                f"another curve is here: its {' and '.join(changed)} differ",
                where=request.out,
                hint="choose another --out, or repeat the command that made it: "
                f"{' '.join(map(quoted, before.get('command', [])))}",
            )
    count = len(data.train)
    more = request.more or tuple(sorted({max(count // 2, 1), count, 3 * count}))
    record = CurveRecord.model_validate({
        "schema_version": 1,
        "kind": "curve",
        "command": command_line(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
        "sources": request.settings.sources,
        "recordings": count,
        "seeds": request.seeds,
        "more": list(more),
        **({"voices": data.voices} if data.voices else {}),
        "versions": versions(),
    })  # fmt: skip
    record.write(path)
    return record


def _is_done(folder: Path, job: PlannedTraining) -> bool:
    run = job.run(folder)
    return run.record_path.is_file() and run.read_record().status in ENDED


def _is_over(
    budget: float | None,
    start_time: float,
    folder: Path,
    jobs: Sequence[PlannedTraining],
    job: PlannedTraining,
) -> bool:
    """Whether a training would not end in time, by those that ended."""
    if budget is None:
        return False
    known = [
        (item.size, item.run(folder).read_record().result.seconds or 0.0)
        for item in jobs
        if _is_done(folder, item)
    ]
    expected = max((seconds for size, seconds in known if size <= job.size), default=0.0)
    return time.monotonic() - start_time + expected > 60 * budget


def _train(
    request: CurveRequest, data: _Data, job: PlannedTraining, train: CurveTraining | None
) -> bool:
    """Train on a subset, or go on with it; False if it was interrupted."""
    folder = request.out
    subset = write_subset(
        folder / "subsets" / f"{job.name}.jsonl", data.train.utterances, job.size, job.seed
    )
    settings = request.settings.settings
    own: dict[str, Any] = {
        "data.train": str(subset.absolute()),
        "data.dev": str(data.dev.absolute()),
        "train.seed": settings.train.seed + job.seed,
        **data.layer,
    }
    if settings.device.state_storage == "auto":
        # The clips of a subset are in the next one: their states are read again from the disk.
        own["device.state_storage"] = "disk"
    resolved = resolve_settings([("curve", settings.model_dump(mode="json")), (job.name, own)])
    sources = {**request.settings.sources, **dict.fromkeys(own, "curve")}
    run = job.run(folder)
    is_resumable = run.record_path.is_file() and run.state_dir.is_dir()
    if train is None:
        # Here, so that reading a curve loads no torch.
        from moonshine_tune.training.run import train as real_train

        train = real_train
    if run.path.exists() and not is_resumable:
        # It was killed before it had saved anything.
        shutil.rmtree(run.path)
    train(replace(resolved, sources=sources), run.path, SilentProgress(), resume=is_resumable)
    # The model of this training goes before the next one is loaded.
    gc.collect()
    return _is_done(folder, job)
