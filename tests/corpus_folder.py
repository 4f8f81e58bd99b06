"""Small folders of recordings and transcripts, imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.importers.base import ImportRequest
from moonshine_tune.importers.run import ImportResult, import_data


@dataclass(frozen=True)
class Imported:
    """The result of an import, and its manifest."""

    result: ImportResult
    utterances: tuple[Utterance, ...]

    @property
    def texts(self) -> list[str | None]:
        return [item.text for item in self.utterances]

    @property
    def spans(self) -> list[tuple[float | None, float | None, str | None]]:
        return [(item.start, item.end, item.text) for item in self.utterances]

    @property
    def remarks(self) -> str:
        return "\n".join(self.result.remarks)


def make_folder(
    folder: Path,
    files: Mapping[str, str | bytes],
    recordings: Mapping[str, float],
    rate: int = 16_000,
) -> Path:
    """A folder with some files by path, and with recordings of some seconds by path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, seconds in recordings.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.zeros(round(seconds * rate), np.int16), rate, format=path.suffix[1:])
    return folder


def import_folder(
    folder: Path,
    files: Mapping[str, str | bytes],
    recordings: Mapping[str, float],
    **options: Any,
) -> Imported:
    """Make a folder and import it."""
    made = make_folder(folder / "corpus", files, recordings)
    out = folder / "out.jsonl"
    result = import_data(ImportRequest(made, out, force=True, **options), SilentProgress())
    return Imported(result, read_manifest(out, require_text=False).utterances)
