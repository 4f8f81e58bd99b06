"""Transcription by the Moonshine runtime itself (moonshine-voice), as it is deployed."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.errors import MachineError, RequestError
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.ort_file import OrtFile

SAMPLE_RATE_HZ = 16_000
# Clips are cut already: the voice-activity detector would only cut them again, and costs accuracy.
_OPTIONS = {"vad_threshold": 0.0, "vad_max_segment_duration": 100000}
_V1_ARCHS = {288: "TINY", 416: "BASE"}
_STREAMING_ARCHS = {320: "TINY_STREAMING", 620: "SMALL_STREAMING", 768: "MEDIUM_STREAMING"}


class RuntimeTranscriber:
    """A loaded runtime folder. Close it, or use it as a context manager."""

    backend = "runtime"

    def __init__(self, runtime_dir: Path) -> None:
        layout = read_layout(runtime_dir)
        try:
            from moonshine_voice import ModelArch, Transcriber
        except (ImportError, OSError) as error:
            raise MachineError(
                f"the Moonshine runtime does not load here: {error}",
                hint="install it with: pip install moonshine-voice",
            ) from error
        try:
            self._transcriber: Any = Transcriber(
                str(runtime_dir),
                getattr(ModelArch, _arch_name(layout)),
                options=dict(_OPTIONS),
            )
        except Exception as error:
            raise RequestError(
                f"the Moonshine runtime refuses these files: {error}", where=runtime_dir
            ) from error

    def transcribe(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[str]:
        """Transcripts of clips, mono float32 at 16 kHz, one after the other."""
        return [self._transcribe_one(clip) for clip in clips]

    def _transcribe_one(self, samples: npt.NDArray[np.float32]) -> str:
        transcript = self._transcriber.transcribe_without_streaming(
            samples.tolist(), SAMPLE_RATE_HZ
        )
        return " ".join(line.text.strip() for line in transcript.lines).strip()

    def close(self) -> None:
        """Free the model."""
        self._transcriber.close()

    def __enter__(self) -> "RuntimeTranscriber":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _arch_name(layout: RuntimeLayout) -> str:
    """The runtime's name of the architecture, read off the files."""
    if layout.family == "v1":
        file = OrtFile.read(layout.folder / "encoder_model.ort")
        width = next(i.shape[0] for i in file.initializers if i.name == "layer_norm.weight")
        known = _V1_ARCHS
    else:
        import json

        config = json.loads((layout.folder / "streaming_config.json").read_text(encoding="utf-8"))
        width = int(config["encoder_dim"])
        known = _STREAMING_ARCHS
    if width not in known:
        raise RequestError(
            f"no {layout.family} runtime model of width {width} is known", where=layout.folder
        )
    return known[width]
