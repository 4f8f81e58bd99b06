"""Datasets of the hub, streamed. The library reads a local folder of that form like the hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.importers.base import ColumnNames, HubOptions, ImportRequest
from moonshine_tune.importers.layouts import huggingface
from moonshine_tune.importers.run import import_data

pytest.importorskip("datasets")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two splits of Parquet files with embedded recordings, as most datasets of the hub."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    audio = {"sampling_rate": 8_000, "decode": True, "_type": "Audio"}
    text = {"dtype": "string", "_type": "Value"}
    features = {"features": {"audio": audio, "sentence": text, "client_id": text}}
    for split, count in (("train", 5), ("validation", 2)):
        rows = [_wav(tmp_path / f"{split}{number}.wav", number) for number in range(count)]
        table = pyarrow.table({
            "audio": [{"bytes": row, "path": f"{n}.wav"} for n, row in enumerate(rows)],
            "sentence": [f"{split} {number}" for number in range(count)],
            "client_id": [f"speaker {number % 2}" for number in range(count)],
        }).replace_schema_metadata({"huggingface": json.dumps({"info": features})})  # fmt: skip
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return tmp_path / "hub"


def _wav(path: Path, seed: int) -> bytes:
    noise = np.random.default_rng(seed).standard_normal(4_000) * 0.1
    sf.write(path, noise, 8_000)
    return path.read_bytes()


def _import(name: str | Path, out: Path, **options: Any) -> Any:
    hub_names = ("config", "split", "revision", "limit")
    hub = HubOptions(**{key: options.pop(key) for key in hub_names if key in options})
    request = ImportRequest(f"hf://{name}", out, hub=hub, **options)
    return import_data(request, SilentProgress()), read_manifest(out).utterances


def test_only_the_requested_rows_are_read(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = huggingface._with_audio

    def counted(record: dict[str, Any], *rest: Any) -> dict[str, Any]:
        read.append(record["sentence"])
        return original(record, *rest)

    monkeypatch.setattr(huggingface, "_with_audio", counted)
    result, utterances = _import(dataset, tmp_path / "out.jsonl", split="train", limit=3)
    assert read == ["train 0", "train 1", "train 2"]
    assert [(item.text, item.speaker, item.split) for item in utterances] == [
        ("train 0", "speaker 0", "train"), ("train 1", "speaker 1", "train"),
        ("train 2", "speaker 0", "train"),
    ]  # fmt: skip
    assert all(item.known_seconds == 0.5 for item in utterances)
    assert utterances[1].audio.read_bytes() == (tmp_path / "train1.wav").read_bytes()
    assert utterances[1].audio.parent == tmp_path / "out-audio"
    assert result.source == f"datasets: {dataset}, train"


def test_all_splits_and_a_second_import_writes_no_audio(dataset: Path, tmp_path: Path) -> None:
    _, utterances = _import(dataset, tmp_path / "out.jsonl")
    assert [item.split for item in utterances] == ["train"] * 5 + ["dev"] * 2
    before = {item.audio: item.audio.stat().st_mtime_ns for item in utterances}
    _, again = _import(dataset, tmp_path / "out.jsonl", force=True)
    assert {item.audio: item.audio.stat().st_mtime_ns for item in again} == before


def test_audio_that_is_only_an_address_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "train0.wav"
    content = _wav(path, 0)
    record = {"audio": {"bytes": None, "path": f"file://{path}"}}
    assert huggingface._with_audio(record, "audio", "x")["audio"]["bytes"] == content
    gone = {"audio": {"bytes": None, "path": f"file://{tmp_path}/gone.wav"}}
    with pytest.raises(RequestError, match="cannot be read"):
        huggingface._with_audio(gone, "audio", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "other"}, "cannot be read"),
        ({"config": "ko", "split": "train"}, "cannot be read"),
        ({"split": "train", "limit": 0}, "at least one row"),
    ],
)
def test_missing_splits_and_configurations_are_refused(
    dataset: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        _import(dataset, tmp_path / "out.jsonl", **change)
    assert caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_without_a_network_it_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(MachineError, match="cannot reach the hub: no route to host"):
        _import("owner/name", tmp_path / "out.jsonl", split="train")


def test_a_missing_column_of_text_is_refused(dataset: Path, tmp_path: Path) -> None:
    columns = ColumnNames(text="words")
    with pytest.raises(RequestError, match="no column is called 'words'"):
        _import(dataset, tmp_path / "out.jsonl", split="train", columns=columns)
