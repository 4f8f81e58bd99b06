"""Several trainings with other clips held out each, and the mean of their adapters.

A held-out dev set is not learned from, which with few speakers is a quarter of the recordings. Here
each further training holds out others, so the mean of the adapters has learned from all clips, and
what only one of them changed weighs less. Each dev WER belongs to the adapter of its own fold: no
clip of dev is new to the mean.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import complete_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance, write_manifest
from moonshine_tune.corpus.splits import split_utterances
from moonshine_tune.data.shared_clips import repeated_clips
from moonshine_tune.inference.dataset import read_training_data
from moonshine_tune.models.adapter_sum import WeightedAdapter, save_sum
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.kept_adapter import write_selection
from moonshine_tune.runs.records import BETTER, FoldRecord
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.train_dev_split import train_and_dev

TrainFold = Callable[[ResolvedSettings, Path], TrainResult]


@dataclass(frozen=True)
class _Fold:
    train: Sequence[Utterance]
    dev: Sequence[Utterance]


def check_folds(settings: RunSettings) -> None:
    """Refuse, before anything is trained, clips that cannot be held out in so many ways.

    Raises:
        RequestError: names how many ways there are.
    """
    if settings.train.folds > 1:
        _folds_of(settings)


def train_folds(first: TrainResult, progress: Progress, train_fold: TrainFold) -> TrainResult:
    """Train the other folds of a run that has ended, and put the mean of all into its adapter.

    Args:
        first: the result of the run itself, which is the first fold.
        train_fold: trains with these settings in this folder, or goes on with what is there.

    Returns:
        The result of the run with the folds. Its scores are those of the first fold.
    """
    run = RunFolder(first.run)
    parent = run.path / "folds"
    # As they are in force: a resumed run may have other paths.
    resolved = resolve_settings([("run.json", run.read_record().settings)])
    settings = resolved.settings
    folds = _folds_of(settings)
    run.update_record(status="running")
    _keep_first(run, parent)
    results = [(parent / "1", first)]
    for number, fold in enumerate(folds, start=2):
        progress.say(
            f"fold {number} of {settings.train.folds}: {len(fold.dev)} other clips are held out"
        )
        folder = parent / str(number)
        manifests = {name: parent / f"{number}-{name}.jsonl" for name in ("train", "dev")}
        for name, path in manifests.items():
            if not path.is_file():
                write_manifest(path, getattr(fold, name))
        result = train_fold(_settings_of_fold(resolved, manifests, number), folder)
        if result.stopped == "interrupted":
            run.update_record(status="interrupted")
            return first.model_copy(update={"stopped": "interrupted"})
        results.append((folder, result))
    return _with_mean(run, first, results, progress)


def _keep_first(run: RunFolder, parent: Path) -> None:
    """A copy of the run's own adapter, which the mean replaces."""
    parent.mkdir(exist_ok=True)
    with complete_folder(parent / "1", replace=True) as scratch:
        shutil.copytree(run.adapter_dir, scratch / "adapter")


def _folds_of(settings: RunSettings) -> list[_Fold]:
    parts = train_and_dev(settings, read_training_data(settings.data))
    return list(_folds(parts.train, parts.dev, settings.train.folds, settings.train.seed))


def _folds(
    train: Sequence[Utterance], dev: Sequence[Utterance], count: int, seed: int
) -> Iterator[_Fold]:
    """The folds after the first; no clip is held out twice."""
    everything = [*train, *dev]
    # Of clips like those of dev: synthetic ones are not held out where real ones are.
    is_synthetic = all(item.is_synthetic for item in dev)
    rest = [item for item in train if item.is_synthetic is is_synthetic]
    num_held_out = len(dev)
    for number in range(2, count + 1):
        parts = split_utterances(
            rest, dev=min(num_held_out / max(len(rest), 1), 0.5), test=0.0, seed=seed + number
        )
        if not parts.dev or not parts.train:
            raise RequestError(
                f"{len(everything)} clips cannot be held out in {count} ways",
                hint=f"name fewer folds: --set train.folds={number - 1}",
            )
        held_out = {item.id for item in parts.dev}
        others = [item for item in everything if item.id not in held_out]
        copies = {item.id for item in repeated_clips(parts.dev, others)}
        yield _Fold([item for item in others if item.id not in copies], parts.dev)
        rest = [item for item in rest if item.id not in held_out]


def _settings_of_fold(
    resolved: ResolvedSettings, manifests: dict[str, Path], number: int
) -> ResolvedSettings:
    settings = resolved.settings
    # The synthetic clips are in the manifest of the fold.
    update = {**manifests, "synthetic": None, "shared_speakers": True}
    data = settings.data.model_copy(update=update)
    train = settings.train.model_copy(update={"folds": 1, "seed": settings.train.seed + number - 1})
    return replace(resolved, settings=settings.model_copy(update={"data": data, "train": train}))


def _with_mean(
    run: RunFolder, first: TrainResult, results: list[tuple[Path, TrainResult]], progress: Progress
) -> TrainResult:
    """Write the mean of the adapters that may be used; the record says which those are."""
    used = [folder for folder, result in results if result.verdict == BETTER]
    records = [
        FoldRecord(
            adapter=str((folder / "adapter").relative_to(run.path)),
            baseline=result.baseline,
            best=result.best,
            verdict=result.verdict,
            in_mean=folder in used,
        )
        for folder, result in results
    ]
    if len(used) > 1:
        with complete_folder(run.adapter_dir, replace=True) as scratch:
            save_sum(scratch, [WeightedAdapter(folder, 1 / len(used)) for folder in used])
            best = write_selection(scratch, first.best)
        first = first.model_copy(update={"best": best})
        remark = (
            f"the adapter is the mean of {len(used)} folds; dev WER is that of the first fold's "
            "own adapter, since no clip of dev is new to the mean: score it on a test set"
        )
    else:
        remark = f"of {len(results)} folds, {len(used)} are better than the base: no mean was made"
    progress.say(remark)
    result = first.model_copy(
        update={
            "folds": tuple(records),
            "remarks": (*first.remarks, remark),
            "seconds": round(sum(result.seconds or 0.0 for _, result in results), 1),
        }
    )
    record = run.read_record()
    run.update_record(
        status=first.stopped, result=result.to_json(), remarks=[*record.remarks, remark]
    )
    return result
