"""The manifests of a run, and the utterances of a manifest that a model can use."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from moonshine_tune.audio.io import audio_info, load_utterance
from moonshine_tune.audio.samples import Samples
from moonshine_tune.config.settings import DataSettings
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.models.base import SpeechModel


@dataclass(frozen=True)
class TrainingData:
    """The manifests of a training run.

    The utterances carry their `duration` if the manifest or the header of the file has it.
    """

    train: Manifest
    dev: Manifest | None = None
    canary: Manifest | None = None
    replay: Manifest | None = None

    @property
    def by_name(self) -> dict[str, Manifest]:
        """Those that the settings name."""
        return {name: manifest for name, manifest in vars(self).items() if manifest is not None}


def read_training_data(data: DataSettings) -> TrainingData:
    """Read what the settings name. No audio is decoded.

    Raises:
        RequestError: no training manifest is named, or one is missing.
        ProblemsError: invalid lines in a manifest.
    """
    if data.train is None:
        raise RequestError("no training manifest", hint="name it with: --train train.jsonl")
    return TrainingData(
        _read(data.train, require_text=True),
        None if data.dev is None else _read(data.dev, require_text=True),
        None if data.canary is None else _read(data.canary, require_text=False),
        None if data.replay is None else _read(data.replay, require_text=False),
    )


def _read(path: Path, *, require_text: bool) -> Manifest:
    manifest = read_manifest(path, require_text=require_text)
    return replace(manifest, utterances=tuple(map(_with_duration, manifest.utterances)))


def _with_duration(utterance: Utterance) -> Utterance:
    if utterance.known_seconds is not None:
        return utterance
    try:
        return replace(utterance, duration=utterance_seconds(utterance))
    except AudioError:
        # Counted when the dataset is built.
        return utterance


@dataclass(frozen=True)
class SpeechDataset:
    """The utterances of a manifest that a model can use.

    Attributes:
        seconds: length of each utterance.
        tokens: token ids of each text; empty where there is no text.
        remarks: how many utterances were left out, and why.
    """

    utterances: tuple[Utterance, ...]
    seconds: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def load(self, index: int) -> Samples:
        """Samples of one utterance, mono 16 kHz."""
        return load_utterance(self.utterances[index])

    def content_key(self, index: int) -> str:
        """Identifies an utterance by the content of its file and its span, not by its path."""
        utterance = self.utterances[index]
        path = utterance.audio
        stat = path.stat()
        content = _content_hash(path, stat.st_size, stat.st_mtime_ns)
        return f"{content}:{utterance.start or 0.0:g}:{utterance.end}"


@lru_cache(maxsize=1024)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file. Many utterances may be spans of one file, so the last ones are cached."""
    return sha256_of(path)


def utterance_seconds(utterance: Utterance) -> float:
    """Length of an utterance, from the manifest or else from the header of its file."""
    if utterance.end is not None:
        return utterance.end - (utterance.start or 0.0)
    if utterance.duration is not None:
        return utterance.duration
    return audio_info(utterance.audio).seconds - (utterance.start or 0.0)


def build_dataset(
    utterances: Sequence[Utterance],
    model: SpeechModel,
    *,
    name: str,
    max_clip_s: float,
    needs_text: bool,
) -> SpeechDataset:
    """Keep the utterances that the model can use; the others are counted with the reason.

    Raises:
        RequestError: nothing is left.
    """
    kept: list[Utterance] = []
    seconds: list[float] = []
    tokens: list[tuple[int, ...]] = []
    dropped: dict[str, int] = {}

    def drop(reason: str) -> None:
        dropped[reason] = dropped.get(reason, 0) + 1

    for utterance in utterances:
        try:
            length = utterance_seconds(utterance)
        except AudioError:
            drop("unreadable")
            continue
        ids = tuple(model.tokenizer.encode(utterance.text or ""))
        if length <= 0:
            drop("empty audio")
        elif length > max_clip_s:
            drop(f"longer than {max_clip_s:g} s")
        elif needs_text and not ids:
            drop("empty text")
        elif len(ids) + 2 > model.max_tokens:
            drop("text longer than the model's positions")
        else:
            kept.append(replace(utterance, duration=length))
            seconds.append(length)
            tokens.append(ids)
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    remark = f"{name}: kept {len(kept)} of {len(utterances)}" + (f": {reasons}" if reasons else "")
    if not kept:
        raise RequestError(
            f"nothing is left to use. {remark}",
            hint="find out why with: moonshine-tune data check",
        )
    return SpeechDataset(tuple(kept), tuple(seconds), tuple(tokens), (remark,))
