"""Transcription by the Moonshine runtime itself (moonshine-voice), as it is deployed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout
from moonshine_tune.runtime.ort_file import OrtFile

# Clips are cut already: the voice-activity detector would cut them again and cost accuracy.
RUNTIME_OPTIONS = {"vad_threshold": 0.0, "vad_max_segment_duration": 100000}
_CHUNKED_UPDATE_S, _NEVER_S = 0.5, 1e9
_V1_ARCHS = {288: "TINY", 416: "BASE"}
_STREAMING_ARCHS = {320: "TINY_STREAMING", 620: "SMALL_STREAMING", 768: "MEDIUM_STREAMING"}


class RuntimeTranscriber:
    """A loaded runtime folder. Close it, or use it as a context manager."""

    backend = "runtime"
    # It transcribes one clip after the other; this is how much audio is read ahead.
    batch_s = 240.0

    def __init__(
        self, runtime_dir: Path, *, keyterms: Sequence[str] = (), boost: float = 2.0
    ) -> None:
        """Load the folder.

        Args:
            keyterms: terms to boost, in the spelling wanted; streaming models only.
            boost: strength of the boost; the runtime takes it when the model is loaded.

        Raises:
            RequestError: the runtime refuses the files, or key terms for a v1 model.
            MachineError: the runtime does not load here.
        """
        layout = read_layout(runtime_dir)
        if keyterms:
            check_takes_keyterms(layout)
        try:
            from moonshine_voice import ModelArch, Transcriber
        except (ImportError, OSError) as error:
            raise MachineError(
                f"the Moonshine runtime does not load here: {error}",
                hint="install it with: pip install moonshine-voice",
            ) from error
        arch = getattr(ModelArch, arch_name(layout))
        try:
            options = RUNTIME_OPTIONS | {"keyterm_boost": float(boost)}
            self._transcriber: Any = Transcriber(str(runtime_dir), arch, options=options)
            if keyterms:
                self.set_keyterms(keyterms)
        except Exception as error:
            raise RequestError(
                f"the Moonshine runtime refuses these files: {error}", where=runtime_dir
            ) from error

    def transcribe(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[str]:
        """Transcripts of clips, mono float32 at 16 kHz, one after the other."""
        transcribe = self._transcriber.transcribe_without_streaming
        return [_text(transcribe(clip.tolist(), SAMPLE_RATE_HZ)) for clip in clips]

    def set_keyterms(self, keyterms: Sequence[str]) -> None:
        """Boost these terms from now on; an empty list turns it off."""
        self._transcriber.set_keyterms(list(keyterms))

    def set_context(self, passage: str) -> None:
        """Boost the unusual words of a passage from now on, in place of any key terms.

        The runtime takes those that its tokenizer splits, 200 at most.
        """
        self._transcriber.set_context(passage)

    def transcribe_in_chunks(
        self, samples: npt.NDArray[np.float32], *, chunk_s: float = 0.1
    ) -> str:
        """The transcript of a clip that is streamed in chunks, without waiting between them.

        Raises:
            RequestError: the runtime gave no final transcript.
        """
        size = max(round(chunk_s * SAMPLE_RATE_HZ), 1)
        every = max(round(_CHUNKED_UPDATE_S / chunk_s), 1)
        # The binding's own updates depend on the machine's speed: turn them off.
        stream = self._transcriber.create_stream(update_interval=_NEVER_S)
        try:
            stream.start()
            for number, first in enumerate(range(0, len(samples), size), start=1):
                stream.add_audio(samples[first : first + size].tolist(), SAMPLE_RATE_HZ)
                if number % every == 0:
                    stream.update_transcription()
            transcript = stream.stop()
        finally:
            stream.close()
        if transcript is None:
            raise RequestError("the stream gave no final transcript")
        return _text(transcript)

    def close(self) -> None:
        """Free the model."""
        self._transcriber.close()

    def __enter__(self) -> "RuntimeTranscriber":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _text(transcript: Any) -> str:
    return " ".join(line.text.strip() for line in transcript.lines).strip()


def check_takes_keyterms(layout: RuntimeLayout) -> None:
    """Refuse key terms for a model with which the runtime cannot apply them.

    Raises:
        RequestError: the model is of the v1 family.
    """
    if layout.family != "streaming":
        raise RequestError(
            "the runtime applies key terms and contexts to streaming models only; this one is "
            f"{layout.family}",
            where=layout.folder,
            hint="adapt the model to the words instead, or use a streaming model",
        )


def arch_name(layout: RuntimeLayout) -> str:
    """The runtime's name (`ModelArch`) of the architecture, read from the files.

    Raises:
        RequestError: the files have the width of no known model.
    """
    if layout.family == "v1":
        file = OrtFile.read(layout.folder / "encoder_model.ort")
        width: Any = file.by_name["layer_norm.weight"].shape[0]
        known = _V1_ARCHS
    else:
        width = read_json(layout.folder / "streaming_config.json").get("encoder_dim")
        known = _STREAMING_ARCHS
    if width not in known:
        raise RequestError(
            f"no {layout.family} runtime model of width {width} is known", where=layout.folder
        )
    return known[width]
