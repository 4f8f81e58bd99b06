"""The base and the adapted model side by side on the same speech, one piece at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.io import AudioInfo
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.importers.convert import probe
from moonshine_tune.inference.loops import without_loops
from moonshine_tune.inference.timed_text import TimedText
from moonshine_tune.inference.transcribe import TorchTranscriber, Transcriber
from moonshine_tune.models.lora import adapter_disabled
from moonshine_tune.registry.open import OpenedModel, open_model
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.runs.records import ExportRecord
from moonshine_tune.runtime.layout import is_runtime_folder
from moonshine_tune.runtime.transcriber import RuntimeTranscriber
from moonshine_tune.transcription.pieces import recording_pieces
from moonshine_tune.transcription.recordings import Recording, find_recordings

TranscribeClips = Callable[[Sequence[Samples]], list[str]]


@dataclass(frozen=True)
class TimedResult:
    """What one model writes, and how long it took, in milliseconds."""

    text: str
    latency_ms: float

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {"text": self.text, "latency_ms": round(self.latency_ms, 1)}


@dataclass(frozen=True)
class PairedTranscript:
    """The transcripts of one piece of speech.

    Attributes:
        source: the recording, or `microphone`.
        start_s, end_s: of the piece in it, in seconds.
    """

    source: str
    start_s: float
    end_s: float
    base: TimedResult
    adapted: TimedResult

    @property
    def changed_words(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """For each word of the base and of the adapted model, whether the other one lacks it.

        Words are compared without case and punctuation, which also differ without a reason.
        """
        first, second = (
            [word.strip(".,;:!?\"'()").casefold() for word in side.text.split()]
            for side in (self.base, self.adapted)
        )
        changed = [True] * len(first), [True] * len(second)
        for block in SequenceMatcher(a=first, b=second, autojunk=False).get_matching_blocks():
            changed[0][block.a : block.a + block.size] = [False] * block.size
            changed[1][block.b : block.b + block.size] = [False] * block.size
        return tuple(changed[0]), tuple(changed[1])

    @property
    def differs(self) -> bool:
        """Whether any word does."""
        return any(any(side) for side in self.changed_words)

    def to_record(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "source": self.source,
            "start": round(self.start_s, 3),
            "end": round(self.end_s, 3),
            "base": self.base.to_record(),
            "adapted": self.adapted.to_record(),
            "differs": self.differs,
        }


class ModelPair:
    """Two models that transcribe the same speech.

    Attributes:
        backend: `torch` or `runtime`.
    """

    def __init__(self, base: TranscribeClips, adapted: TranscribeClips, backend: str) -> None:
        self._models, self.backend = (base, adapted), backend
        self._first = 0

    def warm_up(self) -> None:
        """Transcribe a second of faint noise: the first call of a model takes longer."""
        noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ) * 1e-3
        self.transcribe(noise.astype(np.float32), "", 0.0)

    def transcribe(self, samples: Samples, source: str, start_s: float) -> PairedTranscript:
        """What both models write on a piece, mono 16 kHz, that starts at `start_s`.

        They alternate in being the first, whose caches are cold.
        """
        order = (self._first, 1 - self._first)
        self._first = 1 - self._first
        results = {index: _timed(self._models[index], samples) for index in order}
        end_s = start_s + len(samples) / SAMPLE_RATE_HZ
        return PairedTranscript(source, start_s, end_s, results[0], results[1])


def _timed(model: TranscribeClips, samples: Samples) -> TimedResult:
    start_time = time.perf_counter()

    def texts(clips: Sequence[Samples]) -> list[TimedText]:
        return [TimedText(text) for text in model(clips)] if clips else []

    (result,) = without_loops([samples], texts)
    return TimedResult(result.text, 1000 * (time.perf_counter() - start_time))


def open_pair(
    folder: Path,
    stack: ExitStack,
    progress: Progress,
    *,
    base_runtime: Path | None = None,
    device: str = "auto",
) -> ModelPair:
    """The base and the adapted model of a run, an adapter or an exported folder.

    Args:
        stack: closes the models.
        base_runtime: runtime folder of the base model; None for the one that export.json names.

    Raises:
        RequestError: no such folder, or the base of a runtime folder is not known.
        MachineError: this machine has no such device.
    """
    if is_runtime_folder(folder):
        base = base_runtime or _base_runtime(folder, progress)
        sides = [stack.enter_context(RuntimeTranscriber(path)) for path in (base, folder)]
        pair = ModelPair(sides[0].transcribe, sides[1].transcribe, "runtime")
    else:
        if base_runtime is not None:
            raise RequestError(
                "--base-runtime belongs to an exported folder",
                where=folder,
                hint="leave it out: a run knows its base model",
            )
        if not folder.is_dir():
            raise RequestError(
                "no such folder" if not folder.exists() else "a file, not a folder",
                where=folder,
                hint="first the folder of a run or an export, then recordings: moonshine-tune try "
                f"runs/a {quoted(folder)}",
            )
        opened = open_model(None, adapter=folder, device=device, dtype="float32", progress=progress)
        adapted = TorchTranscriber(opened.model, opened.limits)
        pair = ModelPair(_without_adapter(opened, adapted), adapted.transcribe, "torch")
    pair.warm_up()
    return pair


def _without_adapter(opened: OpenedModel, transcriber: Transcriber) -> TranscribeClips:
    def transcribe(clips: Sequence[Samples]) -> list[str]:
        with adapter_disabled(opened.model):
            return transcriber.transcribe(clips)

    return transcribe


def _base_runtime(folder: Path, progress: Progress) -> Path:
    """Runtime folder of the base model that files were exported from."""
    path = folder / "export.json"
    name = ExportRecord.read(path).base.name if path.is_file() else None
    runtime = resolve_model(name, progress=progress).runtime_dir if name else None
    if runtime is None:
        raise RequestError(
            "the runtime files of its base model are not known",
            where=folder,
            hint="name their folder: --base-runtime DIR; or try the run: moonshine-tune try RUN",
        )
    return runtime


def recordings_to_try(
    inputs: Sequence[str], progress: Progress
) -> tuple[tuple[Recording, ...], dict[Path, AudioInfo | AudioError]]:
    """The recordings of files, folders and manifests, and what their headers say.

    Raises:
        RequestError: an input does not exist, or holds no recording.
    """
    recordings = find_recordings(inputs, ())
    return recordings, dict(probe([item.path for item in recordings], progress))


def transcribe_pairs(
    pair: ModelPair, recording: Recording, info: AudioInfo | AudioError
) -> Iterator[PairedTranscript]:
    """The transcripts of a recording, piece by piece.

    Raises:
        AudioError: it cannot be read.
    """
    if isinstance(info, AudioError):
        raise info
    for piece in recording_pieces(recording):
        start_s = recording.start_s + piece.start_s
        yield pair.transcribe(piece.samples, str(recording.path), start_s)
