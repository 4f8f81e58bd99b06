"""Hugging Face `datasets` folders, read batch by batch through pyarrow alone.

A folder of `save_to_disk` (Arrow streams with `state.json`, or several splits with
`dataset_dict.json`), or one of Parquet files as on the hub. Recordings inside a table are written
to files named by their content, so a second import does not write them again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.files import read_json
from moonshine_tune.core.text import first_line
from moonshine_tune.importers.base import (
    Importer,
    ImportRequest,
    ImportSource,
    Row,
    Rows,
    is_clutter,
)
from moonshine_tune.importers.tabular import (
    SPLIT_NAMES,
    choose_columns,
    row_with_embedded_audio,
)

_BATCH_ROWS = 256


def _recognizes(source: ImportSource) -> bool:
    """Whether `datasets` wrote this folder, or it has Parquet files."""
    return (
        (source.folder / "state.json").is_file()
        or (source.folder / "dataset_dict.json").is_file()
        or bool(_parquet(source.folder))
    )


def _read(source: ImportSource) -> Rows:
    tables = _tables(source.folder)
    if not tables:
        raise RequestError("no Arrow or Parquet file in it", where=source.folder)
    rows: list[Row] = []
    with source.progress.stage("reading tables", len(tables)) as stage:
        for split, path in tables:
            rows += _rows_of(path, split, source.request)
            stage.advance()
    splits = ", ".join(dict.fromkeys(split for split, _ in tables if split))
    description = f"datasets: {len(tables)} tables" + (f" of {splits}" if splits else "")
    return Rows(description, source.folder, tuple(rows))


def _tables(folder: Path) -> list[tuple[str | None, Path]]:
    """Split and file of every table."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits", [])
        return [(split, path) for split in splits for path in _arrow(folder / split)]
    if (folder / "state.json").is_file():
        return [(None, path) for path in _arrow(folder)]
    # `train` of `train-00000-of-00002.parquet`.
    return [(SPLIT_NAMES.get(path.stem.partition("-")[0]), path) for path in _parquet(folder)]


def _arrow(folder: Path) -> list[Path]:
    """Files of one split, in the order of its `state.json`."""
    try:
        state = read_json(folder / "state.json")
        return [folder / item["filename"] for item in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise RequestError("its state.json cannot be read", where=folder) from error


def _parquet(folder: Path) -> list[Path]:
    paths = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    return [path for path in paths if not is_clutter(path.name)]


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


def _rows_of(path: Path, split: str | None, request: ImportRequest) -> Iterator[Row]:
    number = 0
    columns: dict[str, str] = {}
    for batch in _batches(path):
        if not columns:
            columns = choose_columns(
                batch.schema.names, request.columns, path, want_text=request.want_text
            )
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for record in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield row_with_embedded_audio(
                    f"{path}, row {number}", record, columns, split, request.embedded_audio_folder
                )


IMPORTER = Importer("datasets folder", 30, _recognizes, _read)
