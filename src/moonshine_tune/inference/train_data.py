"""The manifests of a training run, read once, with the length of every recording."""

from dataclasses import dataclass, replace
from pathlib import Path

from moonshine_tune.config.settings import DataSettings
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.corpus.manifest import Manifest, Utterance, read_manifest
from moonshine_tune.inference.dataset import utterance_seconds


@dataclass(frozen=True)
class TrainingData:
    """Manifests by what they are for; `dev`, `canary` and `replay` may be None.

    The utterances carry their `duration` wherever the manifest or a file's header tells it.
    """

    train: Manifest
    dev: Manifest | None = None
    canary: Manifest | None = None
    replay: Manifest | None = None

    @property
    def by_name(self) -> dict[str, Manifest]:
        """Those that were named."""
        return {name: manifest for name, manifest in vars(self).items() if manifest is not None}


def read_training_data(data: DataSettings) -> TrainingData:
    """Read what the settings name. No audio is decoded.

    Raises:
        RequestError: no training manifest is named, or one is missing.
        ProblemsError: lines of one are wrong.
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
        # Told and counted when the corpus is built.
        return utterance
