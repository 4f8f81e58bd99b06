"""Training on recordings that nobody transcribed, with texts that the model itself writes.

The base labels them, and the clips that dev shows to be mostly right are learned, beside the
transcribed ones where there are some. The first adapter labels them all once more, and a second
training starts at the base again: what the first one has learned wrong is not carried on.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.config.resolve import ResolvedSettings, resolve_settings
from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import NegativeAnswerError, RequestError, TuneError
from moonshine_tune.core.files import complete_folder, read_lines, sha256_of, write_bytes_atomic
from moonshine_tune.core.json_text import parse_json_object
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import (
    HYPOTHESIS,
    PSEUDO_LABEL,
    Manifest,
    Utterance,
    read_manifest,
    seconds_of,
    write_manifest,
)
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.pseudo_labels.clips import unlabelled_clips
from moonshine_tune.data.pseudo_labels.filter import (
    ENOUGH_DEV_CLIPS,
    LabelFilter,
    choose_filter,
)
from moonshine_tune.data.pseudo_labels.label import PseudoLabel, pseudo_labels
from moonshine_tune.inference.dataset import SpeechDataset, TrainingData, build_dataset
from moonshine_tune.metrics.wer import ScoredUtterance, compare_paired, score_utterance
from moonshine_tune.models.files import ADAPTER_WEIGHTS_FILE
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import (
    BETTER,
    NO_GAIN,
    ComparisonRecord,
    PseudoLabelsRecord,
    RoundRecord,
)
from moonshine_tune.training.result import TrainResult
from moonshine_tune.training.train_dev_split import train_and_dev

# In the folder of labels: what is learned, what is not, and what the model writes of dev.
LEARNED_FILE = "learned.jsonl"
LEFT_OUT_FILE, DEV_FILE = "left_out.jsonl", "dev.jsonl"
_ROUNDS_FOLDER = "rounds"
# With fewer, a training would memorize them.
_FEWEST_LEARNED = 10

TrainRound = Callable[[ResolvedSettings, Path], TrainResult]


def check_pseudo_labels(settings: RunSettings) -> None:
    """Refuse settings that pseudo-labels cannot be made with, before anything is read.

    Raises:
        RequestError: no dev, or what they cannot be combined with.
    """
    if settings.data.unlabelled is None:
        return
    _required_dev(settings)
    if settings.train.folds > 1 or settings.adapter.parent is not None:
        name = "train.folds" if settings.train.folds > 1 else "--from"
        raise RequestError(
            f"{name} and --unlabelled do not work together",
            hint="train on the recordings alone, or leave out --unlabelled",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            "recordings are labeled by one process, and several train together",
            hint="start it without accelerate launch or torchrun",
        )


def _required_dev(settings: RunSettings) -> Path:
    if settings.data.dev is None:
        raise _no_true_texts(None)
    return settings.data.dev


def _no_true_texts(dev: Path | None) -> RequestError:
    return RequestError(
        "recordings without transcripts need a development set of people, with true texts: it "
        "tells good labels from bad ones, and chooses the adapter",
        where=dev,
        hint=f"transcribe about {ENOUGH_DEV_CLIPS} such recordings (300 words), and name them "
        "with: --dev dev.jsonl",
    )


def label_for_run(
    resolved: ResolvedSettings, run: RunFolder, progress: Progress
) -> ResolvedSettings:
    """Let the base label `data.unlabelled`; `data.pseudo_labels` names what is learned of it.

    A run that is resumed has its labels already.

    Raises:
        RequestError: recordings or a dev set that cannot be used.
        NegativeAnswerError: no label is likely enough to be right.
    """
    unlabelled, given = resolved.settings.data.unlabelled, resolved.settings.data.pseudo_labels
    if unlabelled is None:
        return resolved
    if run.record_path.is_file():
        return resolved if given else _with_labels(resolved, run.labels_dir / LEARNED_FILE)
    if given is not None:
        progress.say(f"pseudo-labels: those of {given} are used, and none are made")
        return resolved
    try:
        labels = _Labels.read(resolved.settings, unlabelled, progress)
        labels.write(run.labels_dir, "base", None, progress)
    except TuneError:
        with suppress(OSError):
            run.path.rmdir()
        raise
    return _with_labels(resolved, run.labels_dir / LEARNED_FILE)


def _with_labels(resolved: ResolvedSettings, manifest: Path) -> ResolvedSettings:
    settings = resolved.settings
    data = settings.data.model_copy(update={"pseudo_labels": manifest.absolute()})
    sources = resolved.sources | {"data.pseudo_labels": "data.unlabelled"}
    return ResolvedSettings(settings.model_copy(update={"data": data}), sources)


@dataclass(frozen=True)
class _Labels:
    """The clips that are labeled, and the dev clips that show how far labels can be trusted."""

    settings: RunSettings
    clips: Sequence[Utterance]
    dev: Sequence[Utterance]

    @classmethod
    def read(cls, settings: RunSettings, path: Path, progress: Progress) -> "_Labels":
        """Read all manifests, and refuse what a training on them would refuse.

        Args:
            path: of the recordings.
        """
        data = settings.data
        held = {"dev": read_manifest(_required_dev(settings))}
        if data.train is not None:
            held["train"] = read_manifest(data.train)
        if data.canary is not None:
            held["canary"] = read_manifest(data.canary, require_text=False)
        unlabelled = unlabelled_clips(
            path,
            {name: manifest.utterances for name, manifest in held.items()},
            max_clip_s=data.max_clip_s,
            progress=progress,
        )
        for remark in unlabelled.remarks:
            progress.say(remark)
        marked = (replace(u, extra=u.extra | {PSEUDO_LABEL: True}) for u in unlabelled.clips)
        clips = Manifest(path, tuple(marked), "")
        trained = TrainingData(held.get("train", clips), held["dev"])
        if data.train is not None:
            trained = replace(trained, pseudo_labels=clips)
        dev = [item for item in train_and_dev(settings, trained).dev if item.is_real]
        if not dev:
            raise _no_true_texts(data.dev)
        return cls(settings, unlabelled.clips, dev[: settings.select.max_dev_utterances])

    def write(
        self, folder: Path, labelled_by: str, adapter: Path | None, progress: Progress
    ) -> None:
        """Label the clips, and write the folder of labels, complete or not at all."""
        settings = self.settings
        opened = open_model(
            settings.model,
            adapter=adapter,
            device=settings.device.name,
            dtype=settings.device.dtype,
            frozen_weights=settings.device.frozen_weights,
            progress=progress,
        )
        digest = "" if adapter is None else sha256_of(adapter / ADAPTER_WEIGHTS_FILE)
        dev, dev_labels = self._labelled("dev", self.dev, opened, digest, progress)
        normalizer = normalizer_for(settings.data.normalizer, opened.language)
        counts = [
            score_utterance(item.id, item.reference, label.text, normalizer).words
            for item, label in zip(dev.utterances, dev_labels, strict=True)
        ]
        chosen = choose_filter([label.score for label in dev_labels], counts)
        if chosen.threshold is None:
            writer = "the base" if adapter is None else "the adapter"
            raise NegativeAnswerError(
                f"no label can be trusted: of dev, {writer} gets {chosen.wer_all:.1f} % of "
                "the words wrong, and no score marks the clips that it gets right",
                where=settings.data.dev,
                hint="transcribe some recordings and train on them with --train, or name a larger "
                "model with --model",
            )
        clips, labels = self._labelled("unlabelled", self.clips, opened, digest, progress)
        record = _record_of(labelled_by, clips, labels, chosen)
        if record.kept < _FEWEST_LEARNED:
            raise _too_few(record, settings)
        progress.say(f"pseudo-labels: {record.filter_sentence}")
        lines = [_line(*pair) for pair in zip(clips.utterances, labels, strict=True)]
        marks = [chosen.keeps(label.score) for label in labels]
        with complete_folder(folder, replace=True) as scratch:
            for name, is_learned in ((LEARNED_FILE, True), (LEFT_OUT_FILE, False)):
                rows = [line for line, mark in zip(lines, marks, strict=True) if mark is is_learned]
                write_manifest(scratch / name, rows)
            write_manifest(
                scratch / DEV_FILE,
                [
                    replace(item, extra={HYPOTHESIS: label.text} | label.to_record())
                    for item, label in zip(dev.utterances, dev_labels, strict=True)
                ],
            )
            record.write(scratch / PseudoLabelsRecord.file_name)

    def _labelled(
        self,
        name: str,
        utterances: Sequence[Utterance],
        opened: OpenedModel,
        adapter_sha256: str,
        progress: Progress,
    ) -> tuple[SpeechDataset, list[PseudoLabel]]:
        dataset = build_dataset(
            utterances,
            opened.model,
            name=name,
            max_clip_s=self.settings.data.max_clip_s,
            needs_text=False,
        )
        for remark in dataset.remarks:
            progress.say(remark)
        normalizer = normalizer_for(self.settings.data.normalizer, opened.language)
        labels = pseudo_labels(
            dataset,
            opened,
            normalizer,
            progress,
            f"labeling {name}",
            adapter_sha256=adapter_sha256,
        )
        return dataset, labels


def _line(item: Utterance, label: PseudoLabel) -> Utterance:
    """The manifest line of a label; a person who changes its text makes it a transcript."""
    marks = {PSEUDO_LABEL: True, HYPOTHESIS: label.text} | label.to_record()
    return replace(item, text=label.text, extra=item.extra | marks)


def _record_of(
    labelled_by: str,
    clips: SpeechDataset,
    labels: Sequence[PseudoLabel],
    chosen: LabelFilter,
) -> PseudoLabelsRecord:
    kept = [
        item
        for item, label in zip(clips.utterances, labels, strict=True)
        if chosen.keeps(label.score)
    ]
    return PseudoLabelsRecord(
        labelled_by=labelled_by,
        clips=len(clips),
        seconds=round(sum(clips.seconds), 1),
        kept=len(kept),
        kept_seconds=round(seconds_of(kept), 1),
        threshold=chosen.threshold,
        dev_clips=chosen.dev_clips,
        dev_kept=chosen.dev_kept,
        dev_wer=chosen.wer_all,
        dev_kept_wer=chosen.wer_kept,
    )


def _too_few(record: PseudoLabelsRecord, settings: RunSettings) -> NegativeAnswerError:
    return NegativeAnswerError(
        f"{record.kept} of {record.clips} clips have a label that is likely to be right: too few "
        "to learn from",
        where=settings.data.unlabelled,
        hint="play some: music, silence and other languages are no use; otherwise name more "
        "recordings, or transcribe some and train on them with --train",
    )


# --- the second round


def train_again(first: TrainResult, progress: Progress, train_round: TrainRound) -> TrainResult:
    """Label once more with the adapter of a run that has ended, train again, keep the better one.

    Args:
        first: the result of the run itself, which is the first round.
        train_round: trains with these settings in this folder, or goes on with what is there.

    Returns:
        The result of the run, with the scores of the adapter that is kept.
    """
    run = RunFolder(first.run)
    # As they are in force: a resumed run may have other paths.
    resolved = resolve_settings([("run.json", run.read_record().settings)])
    results = [("1", first)]
    if resolved.settings.data.pseudo_rounds > 1 and first.verdict == BETTER:
        run.update_record(status="running")
        second = _second_round(run, resolved, progress, train_round)
        if second is not None and second.stopped == "interrupted":
            run.update_record(status="interrupted")
            return first.model_copy(update={"stopped": "interrupted"})
        results += [("2", second)] if second is not None else []
    return _with_best(run, resolved.settings, results, progress)


def _second_round(
    run: RunFolder, resolved: ResolvedSettings, progress: Progress, train_round: TrainRound
) -> TrainResult | None:
    """The training on what the first adapter writes; None where it writes nothing to trust."""
    parent = run.path / _ROUNDS_FOLDER
    _keep_first(run, parent / "1")
    second = RunFolder(parent / "2")
    progress.say("round 2: the adapter of round 1 labels the recordings again")
    unlabelled = resolved.settings.data.unlabelled
    if not second.record_path.is_file() and unlabelled is not None:
        adapter = RunFolder(parent / "1").adapter_dir
        try:
            labels = _Labels.read(resolved.settings, unlabelled, progress)
            labels.write(second.labels_dir, "round 1", adapter, progress)
        except NegativeAnswerError as error:
            progress.say(f"round 2 is left out: {error.message}")
            return None
    return train_round(_with_labels(resolved, second.labels_dir / LEARNED_FILE), second.path)


def _keep_first(run: RunFolder, folder: Path) -> None:
    """A copy of the run's own adapter and its texts of dev, which the second round may replace."""
    weights = run.adapter_dir / ADAPTER_WEIGHTS_FILE
    kept = RunFolder(folder).adapter_dir / ADAPTER_WEIGHTS_FILE
    if kept.is_file() and sha256_of(kept) == sha256_of(weights):
        # A resumed run restores its adapter, but not the texts.
        return
    folder.parent.mkdir(exist_ok=True)
    with complete_folder(folder, replace=True) as scratch:
        copy = RunFolder(scratch)
        shutil.copytree(run.adapter_dir, copy.adapter_dir)
        copy.eval_dir.mkdir()
        shutil.copyfile(run.dev_hypotheses_path, copy.dev_hypotheses_path)


def _with_best(
    run: RunFolder,
    settings: RunSettings,
    results: Sequence[tuple[str, TrainResult]],
    progress: Progress,
) -> TrainResult:
    """Put the adapter of the better round into the run; the record says how both scored."""
    first, kept = results[0][1], results[0]
    remarks: list[str] = []
    if len(results) > 1:
        second = results[1][1]
        is_better = second.verdict == BETTER and second.best.is_better_than(first.best)
        kept = results[1] if is_better else kept
        number = "2" if is_better else "1"
        remarks.append(
            f"the adapter is that of round {number}: {first.best.summary} in round 1, "
            f"{second.best.summary} in round 2"
        )
        source = RunFolder(run.path / _ROUNDS_FOLDER / number)
        with complete_folder(run.adapter_dir, replace=True) as scratch:
            shutil.copytree(source.adapter_dir, scratch, dirs_exist_ok=True)
        write_bytes_atomic(run.dev_hypotheses_path, source.dev_hypotheses_path.read_bytes())
    gain = _gain(run, settings.data.pseudo_labels)
    verdict = kept[1].verdict
    if gain is not None:
        remarks.append(f"against the base on dev: {gain.sentence}")
        if verdict == BETTER and settings.data.train is None and gain.verdict != BETTER:
            verdict = NO_GAIN
    for remark in remarks:
        progress.say(remark)
    # A verdict's own remark stays the last one.
    before, after = (first.remarks, ()) if verdict in (BETTER, NO_GAIN) else ((), first.remarks)
    update = {
        "verdict": verdict,
        "rounds": tuple(_round_record(run, item, item is kept) for item in results),
        "remarks": (*before, *remarks, *after),
        "seconds": round(sum(result.seconds or 0.0 for _, result in results), 1),
    } | ({"gain": gain} if gain is not None else {})
    fields = ("best", "canary_held", "first_loss", "last_loss", "pseudo_labels")
    result = first.model_copy(update=update | {name: getattr(kept[1], name) for name in fields})
    record = run.read_record()
    run.update_record(
        status=first.stopped,
        result=result.to_json(),
        pseudo_labels=result.pseudo_labels and result.pseudo_labels.to_json(),
        remarks=[*record.remarks, *(text for text in remarks if text not in record.remarks)],
    )
    return result


def _round_record(run: RunFolder, item: tuple[str, TrainResult], is_kept: bool) -> RoundRecord:
    number, result = item
    folder = run.path / _ROUNDS_FOLDER / number
    adapter = RunFolder(folder if folder.is_dir() else run.path).adapter_dir
    return RoundRecord(
        adapter=adapter.relative_to(run.path).as_posix(),
        labels=result.pseudo_labels or PseudoLabelsRecord(),
        best=result.best,
        verdict=result.verdict,
        is_kept=is_kept,
    )


def _gain(run: RunFolder, labels: Path | None) -> ComparisonRecord | None:
    """The adapter of a run against the base, by what both write of the same dev clips.

    None where the base's texts are not beside the labels.
    """
    path = labels and labels.parent / DEV_FILE
    if path is None or not path.is_file():
        return None
    normalizer = normalizer_for(run.read_record().normalizer)
    lines = [line for line in read_lines(run.dev_hypotheses_path) if line.strip()]
    adapted = {str(row["id"]): row for row in map(parse_json_object, lines)}
    before: list[ScoredUtterance] = []
    after: list[ScoredUtterance] = []
    for item in read_manifest(path).utterances:
        row = adapted.get(item.id)
        if row is None or row.get("reference") != item.text:
            continue
        texts = str(item.extra.get(HYPOTHESIS, "")), str(row.get("hypothesis", ""))
        for text, scored in zip(texts, (before, after), strict=True):
            scored.append(score_utterance(item.id, item.reference, text, normalizer))
    if not before:
        return None
    return ComparisonRecord.model_validate(compare_paired(before, after).to_record())
