"""Datasets of the Hugging Face hub, streamed row by row through `datasets`.

Only the requested rows are fetched: `--limit 500` of a corpus of a thousand hours takes a minute.
Recordings are written to files as the dataset has them, named by their content, so a second import
does not write them again.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.text import first_line
from moonshine_tune.importers.base import Importer, ImportRequest, ImportSource, Row, Rows
from moonshine_tune.importers.tabular import (
    SPLIT_NAMES,
    choose_columns,
    row_with_embedded_audio,
)

_PREFIX = "hf://"
_Result = TypeVar("_Result")


def _recognizes(source: ImportSource) -> bool:
    return str(source.request.location).startswith(_PREFIX)


def _read(source: ImportSource) -> Rows:
    """All rows; their recordings are files of the embedded audio folder afterwards."""
    request = source.request
    name = str(request.location).removeprefix(_PREFIX)
    if request.hub.limit is not None and request.hub.limit < 1:
        raise RequestError("at least one row is needed", hint="--limit 500")
    rows: list[Row] = []
    splits = [request.hub.split] if request.hub.split else _splits(name, request)
    for split in splits:
        with source.progress.stage(f"fetching {split}", request.hub.limit or 0) as stage:
            for row in _rows_of(name, split, request):
                rows.append(row)
                stage.advance()
    if not rows:
        raise RequestError("the dataset has no rows", where=name)
    return Rows(f"datasets: {name}, {', '.join(splits)}", source.folder, tuple(rows))


def _splits(name: str, request: ImportRequest) -> list[str]:
    datasets, hub = _library(), request.hub
    names = _request(
        name, lambda: datasets.get_dataset_split_names(name, hub.config, revision=hub.revision)
    )
    return [str(split) for split in names]


def _rows_of(name: str, split: str, request: ImportRequest) -> Iterator[Row]:
    columns: dict[str, str] = {}
    dataset_split = split.partition("[")[0]
    manifest_split = SPLIT_NAMES.get(dataset_split, dataset_split)
    for number, record in enumerate(_records(name, split, request), start=1):
        if not columns:
            columns = choose_columns(
                list(record), request.columns, Path(name), want_text=request.want_text
            )
        yield row_with_embedded_audio(
            f"{name}, {split}, row {number}",
            _with_audio(record, columns["audio"], name),
            columns,
            manifest_split,
            request.embedded_audio_folder,
        )


def _records(name: str, split: str, request: ImportRequest) -> Iterator[dict[str, Any]]:
    datasets, hub = _library(), request.hub
    dataset = _request(
        name,
        lambda: datasets.load_dataset(
            name, hub.config, split=split, revision=hub.revision, streaming=True
        ),
    )
    # Decoding needs another library, and loses the original file.
    stream = iter(islice(dataset.decode(False), hub.limit))
    while (record := _request(name, lambda: next(stream, None))) is not None:
        yield record


def _with_audio(record: dict[str, Any], column: str, name: str) -> dict[str, Any]:
    """The record with the bytes of its recording, also where it only has an address."""
    audio = record.get(column)
    if not isinstance(audio, dict) or audio.get("bytes") or "://" not in str(audio.get("path")):
        return record

    def fetch() -> bytes:
        import fsspec

        with fsspec.open(audio["path"], "rb") as file:
            return bytes(file.read())

    return record | {column: {"path": audio["path"], "bytes": _request(name, fetch)}}


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MachineError(
            "reading a dataset of the hub needs `datasets`, which is not installed",
            hint='pip install "moonshine-tune[datasets]"',
        ) from error
    return datasets


def _request(name: str, call: Callable[[], _Result]) -> _Result:
    """The result of a call of the library, with its errors as errors of this program."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return call()
    except (DatasetNotFoundError, DatasetsError, FileNotFoundError, ValueError) as error:
        raise RequestError(
            f"cannot be read: {first_line(error)}",
            where=name,
            hint="name its configuration and split with --dataset-config and --split; for a "
            "dataset that needs consent, accept it on its page, then run `hf auth login`",
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise MachineError(
            f"{name}: cannot reach the hub: {first_line(error)}",
            hint="check the network (and HF_HUB_OFFLINE), then run the same command again",
        ) from error


IMPORTER = Importer("Hugging Face hub", 10, _recognizes, _read, kinds=("address",))
