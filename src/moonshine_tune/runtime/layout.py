"""The files of a Moonshine runtime folder, for both model families."""

from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError

TOKENS_FILE = "tokens.txt"
"""The tokenizer as sherpa-onnx reads it; the Moonshine runtime needs none."""

V1_FILES = ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin")
STREAMING_FILES = (
    "frontend.ort", "encoder.ort", "adapter.ort", "cross_kv.ort", "decoder_kv.ort",
    "streaming_config.json", "tokenizer.bin",
)  # fmt: skip


@dataclass(frozen=True)
class RuntimeLayout:
    """A recognized runtime folder: its family and the graph files with weights."""

    folder: Path
    family: str
    files: tuple[str, ...]

    @property
    def graphs(self) -> tuple[Path, ...]:
        """The `.ort` files."""
        return tuple(self.folder / name for name in self.files if name.endswith(".ort"))


def is_runtime_folder(folder: Path) -> bool:
    """Whether the folder holds runtime files of either family."""
    names = ("encoder_model", "decoder_kv")
    # A folder of .onnx files counts too: `read_layout` then explains what is wrong with it.
    return any((folder / f"{name}.{end}").is_file() for name in names for end in ("ort", "onnx"))


def read_layout(folder: Path) -> RuntimeLayout:
    """Recognize a runtime folder.

    Raises:
        RequestError: it is not one, or files are missing.
    """
    if not folder.is_dir():
        raise RequestError("no such runtime folder", where=folder)
    streaming = any((folder / f"decoder_kv.{ending}").is_file() for ending in ("ort", "onnx"))
    expected: tuple[str, ...] = STREAMING_FILES if streaming else V1_FILES
    if streaming and (folder / "frontend.model.ort").is_file():
        expected = ("frontend.model.ort", "frontend.weights.ort", *STREAMING_FILES[1:])
    missing = [name for name in expected if not (folder / name).is_file()]
    plain = [name for name in missing if (folder / name).with_suffix(".onnx").is_file()]
    if plain:
        raise RequestError(
            f"the runtime loads .ort files, and this folder has .onnx instead: {', '.join(plain)}",
            where=folder,
            hint="convert each with: python -m onnxruntime.tools.convert_onnx_models_to_ort FILE",
        )
    if missing:
        raise RequestError(
            f"not a complete Moonshine runtime folder: {', '.join(missing)} missing",
            where=folder,
            hint="write one with: moonshine-tune export --run RUN --out exported ; the base's own: "
            "moonshine-tune models fetch tiny",
        )
    if not streaming and (folder / TOKENS_FILE).is_file():
        expected = (*expected, TOKENS_FILE)
    return RuntimeLayout(folder, "streaming" if streaming else "v1", expected)
