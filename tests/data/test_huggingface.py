"""Datasets of the hub, streamed: the library reads a folder of that form as it reads the hub."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.data.importers import huggingface as data_hub
from moonshine_tune.data.importers.huggingface import HubDataset
from moonshine_tune.data.importers.run import ImportRequest, import_data

pytest.importorskip("datasets")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two splits of Parquet files with the recordings in them, as most sets of the hub are."""
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


def _import(place: HubDataset, out: Path, **options: Any) -> Any:
    result = import_data(ImportRequest(place, out, **options), SilentProgress())
    return result, read_manifest(out).utterances


def test_only_the_rows_that_are_asked_for(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    whole = data_hub._with_sound

    def counted(record: dict[str, Any], *rest: Any) -> dict[str, Any]:
        seen.append(record["sentence"])
        return whole(record, *rest)

    monkeypatch.setattr(data_hub, "_with_sound", counted)
    wanted = HubDataset(str(dataset), split="train", limit=3)
    result, found = _import(wanted, tmp_path / "out.jsonl")
    assert seen == ["train 0", "train 1", "train 2"]
    assert [(one.text, one.speaker, one.split) for one in found] == [
        ("train 0", "speaker 0", "train"), ("train 1", "speaker 1", "train"),
        ("train 2", "speaker 0", "train"),
    ]  # fmt: skip
    assert all(one.known_seconds == 0.5 for one in found)
    assert found[1].audio.read_bytes() == (tmp_path / "train1.wav").read_bytes()
    assert found[1].audio.parent == tmp_path / "out-audio"
    assert result.source == f"datasets: {dataset}, train"


def test_all_splits_and_a_second_import_writes_no_sound(dataset: Path, tmp_path: Path) -> None:
    wanted = HubDataset(str(dataset))
    _, found = _import(wanted, tmp_path / "out.jsonl")
    assert [one.split for one in found] == ["train"] * 5 + ["dev"] * 2
    before = {one.audio: one.audio.stat().st_mtime_ns for one in found}
    _, again = _import(wanted, tmp_path / "out.jsonl", force=True)
    assert {one.audio: one.audio.stat().st_mtime_ns for one in again} == before


def test_sound_that_is_only_named(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "train0.wav"
    record = {"audio": {"bytes": None, "path": f"file://{path}"}}
    found = data_hub._with_sound(record, "audio", HubDataset("x"))
    assert found["audio"]["bytes"] == path.read_bytes()
    gone = {"audio": {"bytes": None, "path": f"file://{tmp_path}/gone.wav"}}
    with pytest.raises(RequestError, match="cannot be read"):
        data_hub._with_sound(gone, "audio", HubDataset("x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "other"}, "cannot be read"),
        ({"config": "ko", "split": "train"}, "cannot be read"),
        ({"split": "train", "limit": 0}, "at least one row"),
    ],
)
def test_what_is_not_there_is_said(
    dataset: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        _import(HubDataset(str(dataset), **change), tmp_path / "out.jsonl")
    assert caught.value.hint
    assert not (tmp_path / "out.jsonl").exists()


def test_without_a_network_the_machine_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(MachineError, match="the hub is not reached: no route to host"):
        _import(HubDataset("owner/name", split="train"), tmp_path / "out.jsonl")


def test_no_column_of_text(dataset: Path, tmp_path: Path) -> None:
    from moonshine_tune.data.importers.tables import ColumnNames

    wanted = HubDataset(str(dataset), split="train")
    with pytest.raises(RequestError, match="no column is called 'words'"):
        _import(wanted, tmp_path / "out.jsonl", columns=ColumnNames(text="words"))
