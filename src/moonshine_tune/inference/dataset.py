"""The utterances of a manifest that a model can use, with their lengths, tokens and samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from moonshine_tune.audio.io import audio_info, load_utterance
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.models.base import SpeechModel


@dataclass(frozen=True)
class SpeechDataset:
    """Usable utterances; `remarks` count what was left out and why.

    Attributes:
        seconds: length of each utterance.
        tokens: token ids of each text; empty lists where there is no text.
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
        """Names what is heard in an utterance, wherever the file lies: its content and the span."""
        utterance = self.utterances[index]
        path = utterance.audio
        stat = path.stat()
        content = _content_hash(path, stat.st_size, stat.st_mtime_ns)
        return f"{content}:{utterance.start or 0.0:g}:{utterance.end}"


@lru_cache(maxsize=1024)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file; many utterances may be spans of one, so the last ones are remembered."""
    return sha256_of(path)


def utterance_seconds(utterance: Utterance) -> float:
    """Length of an utterance: the manifest's word for it, else the file's header."""
    if utterance.end is not None:
        return utterance.end - (utterance.start or 0.0)
    if utterance.duration is not None:
        return utterance.duration
    return audio_info(utterance.audio).seconds - (utterance.start or 0.0)


def build_corpus(
    utterances: Sequence[Utterance],
    model: SpeechModel,
    *,
    name: str,
    max_clip_s: float,
    needs_text: bool,
) -> SpeechDataset:
    """Keep what can be used; what is left out is counted with its reason.

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
            f"nothing is left to use. {remark}", hint="look closer with: moonshine-tune data check"
        )
    return SpeechDataset(tuple(kept), tuple(seconds), tuple(tokens), (remark,))
