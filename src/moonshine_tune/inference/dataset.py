"""The manifests of a run, and the utterances of a manifest that a model can use."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from moonshine_tune.audio.fingerprint import content_key
from moonshine_tune.audio.io import audio_info, load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.config.settings import DataSettings
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.corpus.manifest import (
    PSEUDO_LABEL,
    SYNTHETIC,
    Manifest,
    Utterance,
    read_manifest,
)
from moonshine_tune.models.base import SpeechModel

# Manifests round lengths, some to seconds, and some have those of before a trim.
_LENGTH_SLACK_S, _LENGTH_SLACK = 0.5, 0.1


@dataclass(frozen=True)
class TrainingData:
    """The manifests of a training run.

    The utterances carry their `duration` if the manifest or the header of the file has it.

    Attributes:
        earlier: what an earlier run was trained on, which is replayed; no id is one of `train`.
        known: ids of `train` that the earlier run was trained on, too.
        shares_voices: whether dev is that of the earlier run, which shared voices with it already.
        synthetic: synthesized clips beside those of `train`; all its utterances are marked so.
        pseudo_labels: clips beside those of `train` whose texts a model wrote; likewise.
    """

    train: Manifest
    dev: Manifest | None = None
    canary: Manifest | None = None
    replay: Manifest | None = None
    synthetic: Manifest | None = None
    pseudo_labels: Manifest | None = None
    earlier: tuple[Utterance, ...] = ()
    known: frozenset[str] = frozenset()
    shares_voices: bool = False

    @property
    def training_clips(self) -> tuple[Utterance, ...]:
        """All utterances that are trained on: new, earlier, synthetic and pseudo-labeled ones."""
        beside = [item for item in (self.synthetic, self.pseudo_labels) if item is not None]
        return (
            *self.train.utterances,
            *self.earlier,
            *(utterance for manifest in beside for utterance in manifest.utterances),
        )

    @property
    def by_name(self) -> dict[str, Manifest]:
        """Those that the settings name."""
        return {name: item for name, item in vars(self).items() if isinstance(item, Manifest)}

    @property
    def all_trained(self) -> Manifest:
        """The training manifest with all utterances that are trained on."""
        return replace(self.train, utterances=self.training_clips)


def read_training_data(data: DataSettings) -> TrainingData:
    """Read what the settings name. No audio is decoded.

    Raises:
        RequestError: no training manifest is named, or one is missing.
        ProblemsError: invalid lines in a manifest.
    """
    labels = None if data.pseudo_labels is None else _read_marked(data.pseudo_labels, PSEUDO_LABEL)
    train = labels if data.train is None else _read(data.train, require_text=True)
    if train is None:
        raise RequestError("no training manifest", hint="name it with: --train train.jsonl")
    return TrainingData(
        train,
        None if data.dev is None else _read(data.dev, require_text=True),
        None if data.canary is None else _read(data.canary, require_text=False),
        # A word or a folder is no manifest yet.
        read_replay(data.replay) if _is_manifest(data.replay) else None,
        None if data.synthetic is None else _read_marked(data.synthetic, SYNTHETIC),
        None if data.train is None else labels,
    )


def _read_marked(path: Path, mark: str) -> Manifest:
    """A manifest whose utterances all have a mark."""
    manifest = _read(path, require_text=True)
    marked = (replace(u, extra=u.extra | {mark: True}) for u in manifest.utterances)
    return replace(manifest, utterances=tuple(marked))


def read_replay(manifest: Path) -> Manifest:
    """Replay audio; its utterances need no text.

    Raises:
        RequestError, ProblemsError: as of `read_training_data`.
    """
    return _read(manifest, require_text=False)


def _is_manifest(replay: Path | str | None) -> TypeGuard[Path]:
    return isinstance(replay, Path) and not replay.is_dir()


def _read(path: Path, *, require_text: bool) -> Manifest:
    manifest = read_manifest(path, require_text=require_text)
    return replace(manifest, utterances=with_lengths(manifest.utterances))


def with_lengths(utterances: Sequence[Utterance]) -> tuple[Utterance, ...]:
    """The utterances with their `duration`, from the header of the file where it is not known."""
    timed = list(utterances)
    for index, utterance in enumerate(timed):
        if utterance.known_seconds is None:
            # An unreadable file is counted when the dataset is built.
            with suppress(AudioError):
                timed[index] = replace(utterance, duration=utterance_seconds(utterance))
    return tuple(timed)


@dataclass(frozen=True)
class SpeechDataset:
    """The utterances of a manifest that a model can use.

    Attributes:
        seconds: length of each utterance.
        tokens: token ids of each text; empty where there is no text, and of a clip that is silent.
        remarks: how many utterances were left out, and why.
    """

    utterances: tuple[Utterance, ...]
    seconds: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def part(self, indices: Sequence[int]) -> "SpeechDataset":
        """Some of the utterances, in the order of the indices."""
        return SpeechDataset(
            tuple(self.utterances[index] for index in indices),
            tuple(self.seconds[index] for index in indices),
            tuple(self.tokens[index] for index in indices),
            self.remarks,
        )

    def load(self, index: int) -> Samples:
        """Samples of one utterance, mono 16 kHz.

        Raises:
            AudioError: as `load_utterance`; or its length is not that of the manifest, which
                decides how many words a transcript may have, and with what it is batched.
        """
        utterance, stated = self.utterances[index], self.seconds[index]
        samples = load_utterance(utterance)
        seconds = len(samples) / SAMPLE_RATE_HZ
        if not is_about(stated, seconds):
            raise AudioError(
                f"utterance {utterance.id}: the manifest says {stated:.2f} s, and it has "
                f"{seconds:.2f} s",
                where=utterance.audio,
                hint="correct or remove the key duration; data audit and data fix correct it",
            )
        return samples

    def is_silent(self, index: int) -> bool:
        """Whether the manifest has an empty text: nothing is spoken, which can be learnt."""
        return self.utterances[index].text is not None and not self.tokens[index]

    def content_key(self, index: int) -> str:
        """Identifies an utterance by the content of its file and its span, not by its path."""
        return content_key(self.utterances[index])


def is_about(stated: float, measured: float) -> bool:
    """Whether a stated length in seconds may be a rounded one, or of before a trim."""
    return abs(stated - measured) <= _LENGTH_SLACK_S + _LENGTH_SLACK * measured


def utterance_seconds(utterance: Utterance) -> float:
    """Length of an utterance, from the manifest or else from the header of its file."""
    if utterance.known_seconds is not None:
        return utterance.known_seconds
    return audio_info(utterance.audio).seconds - (utterance.start or 0.0)


def build_dataset(
    utterances: Sequence[Utterance],
    model: SpeechModel,
    *,
    name: str,
    max_clip_s: float,
    needs_text: bool,
    keeps_silence: bool = False,
) -> SpeechDataset:
    """Keep the utterances that the model can use; the others are counted with the reason.

    Args:
        keeps_silence: with `needs_text`, keep those whose text is empty: the end of the sequence
            is then all that the model learns on them.

    Raises:
        RequestError: nothing is left.
    """
    kept: list[Utterance] = []
    seconds: list[float] = []
    tokens: list[tuple[int, ...]] = []
    dropped: Counter[str] = Counter()
    num_silent = 0
    is_long_text = False
    for utterance in utterances:
        try:
            length = utterance_seconds(utterance)
        except AudioError:
            dropped["unreadable"] += 1
            continue
        # Spaces alone would become a token, which no transcript has.
        text = utterance.text if utterance.text and not utterance.text.isspace() else ""
        ids = tuple(model.tokenizer.encode(text))
        if length <= 0:
            dropped["empty audio"] += 1
        elif length > max_clip_s:
            dropped[f"longer than {max_clip_s:g} s"] += 1
            is_long_text = is_long_text or bool(ids)
        elif needs_text and not ids and not (keeps_silence and utterance.text is not None):
            dropped["empty text"] += 1
        elif len(ids) + 2 > model.max_tokens:
            dropped["text longer than the model's positions"] += 1
        else:
            kept.append(replace(utterance, duration=length))
            seconds.append(length)
            tokens.append(ids)
            num_silent += needs_text and not ids
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    remark = f"{name}: kept {len(kept)} of {len(utterances)}" + (f": {reasons}" if reasons else "")
    if num_silent:
        remark += f"; {num_silent} of them teach silence"
    elif dropped["empty text"]:
        remark += " (data.teach_silence=true learns them as silence)"
    if dropped[f"longer than {max_clip_s:g} s"]:
        command = "data align AUDIO TEXT" if is_long_text else "data import AUDIO --no-text --cut"
        remark += f" (cut long recordings at their pauses: moonshine-tune {command} --out FILE)"
    if not kept:
        raise RequestError(
            f"nothing is left to use. {remark}",
            hint="find out why with: moonshine-tune data check",
        )
    return SpeechDataset(tuple(kept), tuple(seconds), tuple(tokens), (remark,))
