"""Datasets of the Hugging Face hub, read row by row over the network through `datasets`.

Only the rows that are asked for are fetched: `--limit 500` of a corpus of a thousand hours is a
matter of a minute. Sound is written to files as the dataset has it, named by its content, so that
a second import writes nothing twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import first_line
from moonshine_tune.data.importers.arrow import SPLIT_NAMES, row_of_record
from moonshine_tune.data.importers.tables import ColumnNames, Row, Source, choose_columns

HUB_PREFIX = "hf://"
# Names of splits as the hub has them, and as manifests do.


@dataclass(frozen=True)
class HubDataset:
    """Which rows of which dataset.

    Attributes:
        name: `owner/name` on the hub, or a folder that `datasets.load_dataset` understands.
        config: one of its configurations, often a language; None where it has only one.
        split: None reads every split.
        revision: branch, tag or commit.
        limit: rows of each split at most; None reads all.
    """

    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: int | None = None


def read_hub_dataset(
    wanted: HubDataset, sound: Path, names: ColumnNames, progress: Progress, *, want_text: bool
) -> Source:
    """Rows of a dataset; their recordings are files of the folder `sound` afterwards.

    Raises:
        MachineError: `datasets` is not installed, or the hub is not reached.
        RequestError: no such dataset, configuration or split, or no column of sound (or text).
    """
    if wanted.limit is not None and wanted.limit < 1:
        raise RequestError("at least one row", hint="--limit 500")
    rows: list[Row] = []
    splits = [wanted.split] if wanted.split else _splits(wanted)
    for split in splits:
        with progress.stage(f"fetching {split}", wanted.limit or 0) as stage:
            for row in _rows_of(wanted, split, sound, names, want_text=want_text):
                rows.append(row)
                stage.advance()
    if not rows:
        raise RequestError("the dataset has no rows", where=wanted.name)
    described = f"{wanted.name}, {', '.join(splits)}"
    return Source(f"datasets: {described}", sound, tuple(rows))


def _splits(wanted: HubDataset) -> list[str]:
    datasets = _library()
    found = _asked(
        wanted,
        lambda: datasets.get_dataset_split_names(
            wanted.name, wanted.config, revision=wanted.revision
        ),
    )
    return [str(split) for split in found]


def _rows_of(
    wanted: HubDataset, split: str, sound: Path, names: ColumnNames, *, want_text: bool
) -> Iterator[Row]:
    records = _records(wanted, split)
    columns: dict[str, str] = {}
    name = split.partition("[")[0]
    told = SPLIT_NAMES.get(name, name)
    for number in count(1):
        record = _asked(wanted, lambda: next(records, None))
        if record is None:
            return
        if not columns:
            columns = choose_columns(list(record), names, Path(wanted.name), want_text=want_text)
        place = f"{wanted.name}, {split}, row {number}"
        yield row_of_record(
            place, _with_sound(record, columns["audio"], wanted), columns, told, sound
        )


def _records(wanted: HubDataset, split: str) -> Iterator[dict[str, Any]]:
    datasets = _library()
    stream = _asked(
        wanted,
        lambda: datasets.load_dataset(
            wanted.name, wanted.config, split=split, revision=wanted.revision, streaming=True
        ),
    )
    # Decoding would need another library, and would throw the file's own form away.
    return iter(islice(stream.decode(False), wanted.limit))


def _with_sound(record: dict[str, Any], column: str, wanted: HubDataset) -> dict[str, Any]:
    """The record with the recording's bytes in it, where it only names a place on the hub."""
    audio = record.get(column)
    if not isinstance(audio, dict) or audio.get("bytes") or "://" not in str(audio.get("path")):
        return record

    def fetch() -> bytes:
        import fsspec

        with fsspec.open(audio["path"], "rb") as file:
            return bytes(file.read())

    return record | {column: {"path": audio["path"], "bytes": _asked(wanted, fetch)}}


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MachineError(
            "reading a dataset of the hub needs `datasets`, which is not installed",
            hint='pip install "moonshine-tune[datasets]"',
        ) from error
    return datasets


def _asked(wanted: HubDataset, ask: Any) -> Any:
    """What the library answers; its errors in this program's words."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return ask()
    except (DatasetNotFoundError, DatasetsError, FileNotFoundError, ValueError) as error:
        raise RequestError(
            f"cannot be read: {first_line(error)}",
            where=wanted.name,
            hint="name its configuration and split with --dataset-config and --split; a dataset "
            "that asks for consent: accept it on its page, then `hf auth login`",
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise MachineError(
            f"{wanted.name}: the hub is not reached: {first_line(error)}",
            hint="look at the network (and HF_HUB_OFFLINE), then give the same command again",
        ) from error
