"""Hugging Face `datasets` folders, read batch by batch through pyarrow alone.

A folder of `save_to_disk` (Arrow streams with `state.json`, or several splits with
`dataset_dict.json`), or one of Parquet files as the hub has them. Sound that lies in the table is
written to files once, named by its content; a second import finds them.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import write_bytes_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.data.importers.tables import ColumnNames, Row, Source, choose_columns, row_of

_BATCH_ROWS = 256
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}

# How the library names splits, and what they are called here.
SPLIT_NAMES = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}


def is_dataset_folder(folder: Path) -> bool:
    """Whether `datasets` wrote this folder, or it holds Parquet files and no other tables."""
    return (
        (folder / "state.json").is_file()
        or (folder / "dataset_dict.json").is_file()
        or bool(_parquet(folder))
    )


def read_dataset_folder(
    folder: Path, sound: Path, names: ColumnNames, progress: Progress, *, want_text: bool
) -> Source:
    """Rows of every split of a `datasets` folder.

    Args:
        sound: folder for recordings that lie in the table.

    Raises:
        MachineError: pyarrow is not installed.
        RequestError: a table cannot be read, or has no column of sound (or text).
    """
    tables = _tables(folder)
    if not tables:
        raise RequestError("no Arrow or Parquet file in it", where=folder)
    rows: list[Row] = []
    with progress.stage("reading tables", len(tables)) as stage:
        for split, path in tables:
            rows += _rows_of(path, split, sound, names, want_text=want_text)
            stage.advance()
    splits = ", ".join(dict.fromkeys(split for split, _ in tables if split))
    description = f"datasets: {len(tables)} tables" + (f" of {splits}" if splits else "")
    return Source(description, folder, tuple(rows))


def _tables(folder: Path) -> list[tuple[str | None, Path]]:
    """Split and file of every table."""
    if (folder / "dataset_dict.json").is_file():
        told = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))
        return [(split, path) for split in told["splits"] for path in _arrow(folder / split)]
    if (folder / "state.json").is_file():
        return [(None, path) for path in _arrow(folder)]
    return [(_split_of(path), path) for path in _parquet(folder)]


def _arrow(folder: Path) -> list[Path]:
    """Files of one split, in the order of its `state.json`."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / item["filename"] for item in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError("its state.json cannot be read", where=folder) from error


def _parquet(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def _split_of(path: Path) -> str | None:
    """`train` of `train-00000-of-00002.parquet`."""
    return SPLIT_NAMES.get(path.stem.partition("-")[0])


def _batches(path: Path) -> Iterator[Any]:
    """Record batches of a file; only one is in memory at a time."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise MachineError(
            "reading a datasets folder needs pyarrow, which is not installed",
            hint='pip install "moonshine-tune[datasets]"',
        ) from error
    try:
        if path.suffix == ".parquet":
            yield from parquet.ParquetFile(path).iter_batches(batch_size=_BATCH_ROWS)
            return
        with pyarrow.memory_map(str(path)) as source:
            try:
                yield from ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                source.seek(0)
                reader = ipc.open_file(source)
                yield from (reader.get_batch(n) for n in range(reader.num_record_batches))
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(
            f"cannot be read as a table ({first_line(error)})", where=path
        ) from error


def _rows_of(
    path: Path, split: str | None, sound: Path, names: ColumnNames, *, want_text: bool
) -> Iterator[Row]:
    number = 0
    columns: dict[str, str] = {}
    for batch in _batches(path):
        if not columns:
            columns = choose_columns(batch.schema.names, names, path, want_text=want_text)
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for record in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield row_of_record(f"{path}, row {number}", record, columns, split, sound)


def row_of_record(
    place: str, record: dict[str, Any], columns: dict[str, str], split: str | None, sound: Path
) -> Row:
    """The row of a record; a recording that lies in it is written to a file below `sound`."""
    audio = record[columns["audio"]]
    if isinstance(audio, dict):
        content, name = audio.get("bytes"), str(audio.get("path") or "")
        record[columns["audio"]] = _written(content, name, sound) if content else name
    simple = {
        key: value
        for key, value in record.items()
        if key in columns.values() or isinstance(value, str | int | float | bool)
    }
    row = row_of(place, simple, columns)
    values = {"split": split} if split else {}
    return Row(row.place, row.audio, values | row.values, row.extra, row.problem)


def _written(content: bytes, name: str, sound: Path) -> str:
    """The file of a recording that lay in a table."""
    ending = next((end for magic, end in _MAGIC.items() if content.startswith(magic)), "")
    told = Path(name).suffix.lower()
    ending = ending or (told if told in AUDIO_ENDINGS else ".wav")
    path = sound / f"{hashlib.sha256(content).hexdigest()[:24]}{ending}"
    if not path.is_file():
        write_bytes_atomic(path, content)
    return str(path.absolute())
