"""Transcription by sherpa-onnx, which loads the files of v1 models as the Moonshine runtime does.

Its loader of Moonshine "v2" takes `encoder_model.ort` and `decoder_model_merged.ort` unchanged, and
the pieces of the tokenizer as text: `tokens.txt`, one piece a line in base64 with its id (source:
sherpa-onnx, `offline-moonshine-model-v2.cc` and `offline-recognizer-moonshine-v2-impl.h`).
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.runtime.layout import TOKENS_FILE, RuntimeLayout, read_layout
from moonshine_tune.runtime.tokenizer import read_pieces


class SherpaTranscriber:
    """A runtime folder loaded by sherpa-onnx. Use it as a context manager."""

    backend = "sherpa-onnx"
    # It transcribes one clip after the other; this is how much audio is read ahead.
    batch_s = 240.0

    def __init__(self, runtime_dir: Path) -> None:
        """Load the folder; `tokens.txt` is made from the tokenizer where it is missing.

        Raises:
            RequestError: sherpa-onnx refuses the files, or does not load this family.
            MachineError: sherpa-onnx is not installed.
        """
        layout = read_layout(runtime_dir)
        check_sherpa_loads(layout.family, runtime_dir)
        sherpa_onnx = require_sherpa()
        with TemporaryDirectory(prefix="moonshine-tune-") as scratch:
            tokens = runtime_dir / TOKENS_FILE
            if not tokens.is_file():
                tokens = write_tokens(layout, Path(scratch))
            try:
                self._recognizer: Any = sherpa_onnx.OfflineRecognizer.from_moonshine_v2(
                    encoder=str(runtime_dir / "encoder_model.ort"),
                    decoder=str(runtime_dir / "decoder_model_merged.ort"),
                    tokens=str(tokens),
                )
            except Exception as error:
                raise RequestError(
                    f"sherpa-onnx refuses these files: {error}", where=runtime_dir
                ) from error

    def transcribe(self, clips: Sequence[npt.NDArray[np.float32]]) -> list[str]:
        """Transcripts of clips, mono float32 at 16 kHz, one after the other."""
        return [self._transcribe(clip) for clip in clips]

    def _transcribe(self, clip: npt.NDArray[np.float32]) -> str:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE_HZ, clip)
        self._recognizer.decode_stream(stream)
        return str(stream.result.text).strip()

    def __enter__(self) -> "SherpaTranscriber":
        return self

    def __exit__(self, *_exception: object) -> None:
        # sherpa-onnx frees the model with its last reference.
        del self._recognizer


def require_sherpa() -> Any:
    """The package `sherpa_onnx`.

    Raises:
        MachineError: it is not installed, does not load, or is too old for these files.
    """
    try:
        import sherpa_onnx
    except (ImportError, OSError) as error:
        raise MachineError(
            f"sherpa-onnx does not load here: {error}",
            hint="install it with: pip install 'moonshine-tune[sherpa-onnx]'",
        ) from error
    if not hasattr(sherpa_onnx.OfflineRecognizer, "from_moonshine_v2"):
        raise MachineError(
            f"sherpa-onnx {sherpa_onnx.__version__} does not load these files yet",
            hint="install a newer one: pip install --upgrade 'moonshine-tune[sherpa-onnx]'",
        )
    return sherpa_onnx


def check_sherpa_loads(family: str, where: Path | None = None) -> None:
    """Refuse a family for which sherpa-onnx has no loader.

    Raises:
        RequestError: a streaming model.
    """
    if family != "v1":
        raise RequestError(
            f"sherpa-onnx loads Moonshine models of the v1 family only; this one is {family}",
            where=where,
            hint="export it for the Moonshine runtime (--format moonshine), or adapt tiny or base",
        )


def write_tokens(layout: RuntimeLayout, folder: Path) -> Path:
    """Write the tokenizer of a runtime folder as sherpa-onnx reads it, into `folder`.

    Raises:
        RequestError: its tokenizer.bin cannot be read.
    """
    pieces = read_pieces(layout.folder / "tokenizer.bin")
    lines = [f"{base64.b64encode(piece).decode()} {i}\n" for i, piece in enumerate(pieces)]
    path = folder / TOKENS_FILE
    path.write_text("".join(lines), encoding="ascii")
    return path
