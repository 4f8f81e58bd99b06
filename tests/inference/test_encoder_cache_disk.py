"""Encoder states on disk: equal to fresh ones, found again, bounded, complete or absent."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from moonshine_tune.core.hardware import cache_root
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.inference import encoder_cache_disk as shards_module
from moonshine_tune.inference.encoder_cache import StateSource, release_encoder, states_bytes
from moonshine_tune.inference.encoder_cache_disk import ShardWriter, StateShards
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.streaming import StreamingSpeechModel
from moonshine_tune.training.run import train

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = (0.5, 0.9, 1.4, 0.7, 1.1)


@pytest.fixture
def clips(make_clip: Callable[..., Any]) -> list[Any]:
    return [make_clip(length, seed) for seed, length in enumerate(SECONDS)]


def _shards(root: Path, dtype: torch.dtype = torch.float16, bound_mb: int = 100) -> StateShards:
    return StateShards(root, "encoder a", dtype=dtype, bound_mb=bound_mb)


def _source(model: SpeechModel, clips: list[Any], shards: StateShards | None) -> StateSource:
    dataset = SimpleNamespace(
        seconds=SECONDS, load=lambda i: clips[i], content_key=lambda i: f"clip {i}"
    )
    return StateSource(model, dataset, budget_mb=0 if shards else 10, shards=shards)


def _prepared(model: SpeechModel, clips: list[Any], shards: StateShards | None) -> StateSource:
    source = _source(model, clips, shards)
    source.prepare(range(len(clips)), SilentProgress(), "encoding")
    return source


def _no_encoding(monkeypatch: pytest.MonkeyPatch, model: SpeechModel) -> None:
    def refuse(*_given: Any) -> None:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(type(model), "encode", refuse)


def _files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))


# --- equal to fresh ones


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float32, 0.0), (torch.float16, 2**-10), (torch.bfloat16, 2**-7)],
    ids=["float32", "float16", "bfloat16"],
)
def test_states_come_back_to_the_rounding_of_their_format(
    tiny_model: SpeechModel, clips: list[Any], tmp_path: Path, dtype: torch.dtype, bound: float
) -> None:
    fresh = _prepared(tiny_model, clips, None).batch([3, 0, 2])
    kept = _prepared(tiny_model, clips, _shards(tmp_path, dtype)).batch([3, 0, 2])
    assert kept.lengths == fresh.lengths
    assert kept.values.dtype == torch.float32
    for row, length in enumerate(fresh.lengths):
        exact, stored = fresh.values[row, :length], kept.values[row, :length]
        error = (exact - stored).abs() / exact.abs().clamp(min=1e-3)
        assert float(error.max()) <= bound
        assert (float(error.max()) > 0) == (bound > 0)


@pytest.mark.parametrize(
    ("kind", "rel"), [("float16", 2e-3), ("bfloat16", 2e-2)], ids=["float16", "bfloat16"]
)
def test_the_loss_of_a_run_agrees_to_the_rounding(
    streaming_training: Any, tmp_path: Path, kind: str, rel: float
) -> None:
    training = streaming_training
    for storage in ("memory", "disk"):
        settings = training.settings(
            "replay", adapter__dropout=0.0, device__state_storage=storage,
            device__state_format=kind, train__steps=6,
        )  # fmt: skip
        result = train(settings, tmp_path / storage, SilentProgress())
        on_disk = [remark for remark in result.remarks if f"in {kind}: asked for" in remark]
        assert len(on_disk) == (3 if storage == "disk" else 0)
    memory, disk = training.steps(tmp_path / "memory"), training.steps(tmp_path / "disk")
    assert memory != disk
    for first, second in zip(memory, disk, strict=True):
        assert second[1] == pytest.approx(first[1], rel=rel)


# --- found again


def test_a_second_run_encodes_nothing_and_does_the_same(
    streaming_training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from recordings in another folder: only their content counts."""
    training = streaming_training
    settings = training.settings("replay", device__state_storage="disk", train__steps=4)
    train(settings, tmp_path / "first", SilentProgress())

    def refuse(*_given: Any) -> None:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(StreamingSpeechModel, "encode", refuse)
    shutil.copytree(training.speech, tmp_path / "moved")
    moved = type(training)(training.model, tmp_path / "moved")
    again = moved.settings("replay", device__state_storage="disk", train__steps=4)
    train(again, tmp_path / "second", SilentProgress())
    assert training.is_same(tmp_path / "first", tmp_path / "second")


def test_a_changed_recording_is_encoded_again(
    streaming_training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same name and size: only the content differs."""
    training = streaming_training
    speech = tmp_path / "speech"
    shutil.copytree(training.speech, speech)
    mine = type(training)(training.model, speech)
    settings = mine.settings(device__state_storage="disk", train__steps=2)
    train(settings, tmp_path / "first", SilentProgress())
    path = speech / "train-3.wav"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-4000:] = bytes(4000)
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    real, encoded = StreamingSpeechModel.encode, []

    def watch(self: Any, audio: torch.Tensor, counts: Any) -> Any:
        encoded.append(len(counts))
        return real(self, audio, counts)

    monkeypatch.setattr(StreamingSpeechModel, "encode", watch)
    train(settings, tmp_path / "second", SilentProgress())
    assert len(encoded) == 1
    assert training.steps(tmp_path / "first") != training.steps(tmp_path / "second")


def test_another_encoder_or_format_finds_nothing(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path
) -> None:
    _prepared(tiny_v1, clips, _shards(tmp_path))
    keys = {f"clip {index}" for index in range(5)}
    assert set(_shards(tmp_path).find(keys)[0]) == keys
    assert not _shards(tmp_path, torch.bfloat16).find(keys)[0]
    another = StateShards(tmp_path, "encoder b", dtype=torch.float16, bound_mb=100)
    assert not another.find(keys)[0]


def test_other_code_finds_nothing(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States of an older version of this program would be silently wrong."""
    _prepared(tiny_v1, clips, _shards(tmp_path))
    monkeypatch.setattr(shards_module, "recipe_hash", lambda: "changed")
    assert not _shards(tmp_path).find({"clip 0"})[0]


def test_numbers_do_not_depend_on_what_is_stored_already(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path
) -> None:
    """A killed and resumed run encodes the rest in the same batches: the same bits."""
    complete = _prepared(tiny_v1, clips, _shards(tmp_path / "complete", torch.float32))
    part = _shards(tmp_path / "part", torch.float32)
    _source(tiny_v1, clips, part).prepare([4], SilentProgress(), "encoding")
    full = _prepared(tiny_v1, clips, part)
    for index in range(4):
        assert torch.equal(complete.batch([index]).values, full.batch([index]).values)


def test_two_runs_at_once_encode_once(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path
) -> None:
    waits = threading.Event()

    class Progress(SilentProgress):
        def say(self, text: str) -> None:
            assert "another run is encoding" in text
            waits.set()

    _prepared(tiny_v1, clips, _shards(tmp_path))
    folder = _files(tmp_path)[0].parent
    second = _source(tiny_v1, clips, _shards(tmp_path))
    with FileLock(folder / ".lock"):
        thread = threading.Thread(target=second.prepare, args=(range(5), Progress(), "encoding"))
        thread.start()
        # The time only bounds a failure.
        assert waits.wait(120)
        assert not second.holds([0])
    thread.join()
    assert second.holds(range(5))


# --- bounded


def _big(size_mb: float) -> torch.Tensor:
    return torch.ones(round(size_mb * 250_000))


def test_the_oldest_shard_goes_first_and_never_one_in_use(tmp_path: Path) -> None:
    def store(key: str, age: int) -> Path:
        shards = StateShards(tmp_path, key, dtype=torch.float32, bound_mb=100)
        with shards.lock(SilentProgress()):
            shards.add({key: _big(1)})
        path = max(_files(tmp_path), key=lambda item: item.stat().st_mtime_ns)
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    young, old, oldest = store("young", 100), store("old", 200), store("oldest", 300)
    # The oldest is in use: finding it makes it the youngest.
    mine = StateShards(tmp_path, "oldest", dtype=torch.float32, bound_mb=4)
    mapped, _ = mine.find({"oldest"})
    assert mine.make_room(500_000) >= 500_000
    assert old.exists()
    assert mine.make_room(1_500_000) >= 1_500_000
    assert (young.exists(), old.exists(), oldest.exists()) == (True, False, True)
    assert mine.make_room(50_000_000) < 3_000_000
    assert (young.exists(), oldest.exists()) == (False, True)
    # An evicted shard stays readable where it is mapped.
    oldest.unlink()
    assert float(mapped["oldest"].sum()) == 250_000


def test_what_does_not_fit_is_encoded_when_needed(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path, training: Any
) -> None:
    shards = _shards(tmp_path, torch.float32, bound_mb=1)
    with shards.lock(SilentProgress()):
        shards.add({"mine": _big(0.985)})
    watcher = training.Watcher()
    source = _source(tiny_v1, clips, shards)
    assert 0 < source.prepare(range(5), watcher, "encoding train") < 5
    left = 5 - sum(source.holds([index]) for index in range(5))
    assert f"encoding train: {left} of 5 clips did not fit the cache on disk" in watcher.messages
    fresh = _prepared(tiny_v1, clips, None)
    for index in range(5):
        kept, encoded = source.batch([index]), fresh.batch([index])
        # Beyond a clip's own frames is padding, of another width where it is encoded.
        frames = slice(0, encoded.lengths[0])
        assert kept.lengths == encoded.lengths
        torch.testing.assert_close(
            kept.values[:, frames], encoded.values[:, frames], rtol=1e-5, atol=1e-5
        )
    total = sum(path.stat().st_size for path in _files(tmp_path))
    assert total <= 1_010_000


def test_some_of_the_disk_is_left_free(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "free_disk_mb", lambda path: 1_500)
    source = _prepared(tiny_v1, clips, _shards(tmp_path))
    assert not source.holds([0])
    assert not _files(tmp_path)
    assert source.batch([0]).values.isfinite().all()


def test_size_decides_where_states_go(
    training: Any, tmp_path: Path, make_clip: Callable[..., Any]
) -> None:
    """A megabyte of memory holds dev; train is then too much, and goes to disk."""
    settings = training.settings(device__state_cache_mb=1, train__steps=2)
    result = train(settings, tmp_path / "run", SilentProgress())
    remarks = [remark for remark in result.remarks if "encoder states on disk" in remark]
    assert remarks == ["train: encoder states on disk, 1 MB in float16: 1 MB do not fit in memory"]
    assert _files(cache_root() / "encoder-states")
    large = train(training.settings(train__steps=2), tmp_path / "large", SilentProgress())
    assert not any("on disk" in remark for remark in large.remarks)


def test_an_encoder_that_trains_stores_the_inputs_of_its_layers(
    training: Any, tmp_path: Path
) -> None:
    """Apart from the states of a frozen one, which another run may store for the same clips."""
    settings = training.settings(
        adapter__sites="all", device__state_storage="disk", train__steps=2,
        train__learning_rate=1e-3,
    )  # fmt: skip
    result = train(settings, tmp_path / "run", SilentProgress())
    features = set(_files(cache_root() / "encoder-states"))
    assert any("inputs of the encoder's layers on disk" in remark for remark in result.remarks)
    assert not any("released" in remark for remark in result.remarks)
    train(
        training.settings(device__state_storage="disk", train__steps=2),
        tmp_path / "decoder",
        SilentProgress(),
    )
    states = set(_files(cache_root() / "encoder-states")) - features
    assert {path.parent for path in states}.isdisjoint({path.parent for path in features})
    assert states


# --- complete or absent


def test_a_damaged_shard_is_removed_and_encoded_again(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path, training: Any
) -> None:
    first = _prepared(tiny_v1, clips, _shards(tmp_path)).batch([0, 1])
    (path,) = _files(tmp_path)
    # Another file: the mapped one stays as it is.
    torn = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(torn)
    watcher = training.Watcher()
    source = _source(tiny_v1, clips, _shards(tmp_path))
    source.prepare(range(5), watcher, "encoding")
    assert watcher.messages == ["removed 1 damaged files of encoder states: encoding them again"]
    assert torch.equal(source.batch([0, 1]).values, first.values)


def test_a_shard_that_a_killed_run_was_writing_is_removed(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path
) -> None:
    _prepared(tiny_v1, clips, _shards(tmp_path))
    partial = _files(tmp_path)[0].with_name(".partial-abc")
    partial.write_bytes(b"half")
    with _shards(tmp_path).lock(SilentProgress()):
        assert not partial.exists()


def test_a_full_disk_stops_storing_and_not_the_run(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(shards_module, "save_file", full)
    watcher = training.Watcher()
    settings = training.settings(device__state_storage="disk", train__steps=3)
    result = train(settings, tmp_path / "run", watcher)
    assert result.steps == 3
    assert any("cannot be stored" in line and "No space left" in line for line in watcher.messages)
    assert not [path for path in cache_root().rglob("*") if path.name.startswith(".partial")]
    assert not any("released" in remark for remark in result.remarks)


def test_values_beyond_half_precision_are_not_stored(tmp_path: Path) -> None:
    shards = _shards(tmp_path)
    with shards.lock(SilentProgress()):
        writer = ShardWriter(shards, 1000, SilentProgress())
        writer.put("large", torch.tensor([[1.0, 70_000.0]]))
        writer.put("plain", torch.tensor([[1.0, 2.0]]))
        writer.flush()
    assert set(writer.written) == {"plain"}


# --- memory


def test_states_are_mapped_and_not_read(tmp_path: Path) -> None:
    """20 MB are on disk; opening them takes none of the process's memory."""
    import psutil

    shards = _shards(tmp_path, torch.float32)
    with shards.lock(SilentProgress()):
        save_file({"x": _big(20)}, tmp_path / "elsewhere.safetensors")
        shards.add({"big": _big(20)})
    before = psutil.Process().memory_info().rss
    mapped, _ = _shards(tmp_path, torch.float32).find({"big"})
    assert psutil.Process().memory_info().rss - before < 5_000_000
    assert float(mapped["big"][:10].sum()) == 10


def test_the_encoder_is_released_once_all_states_are_stored(
    tiny_model: SpeechModel, clips: list[Any], training: Any, tmp_path: Path
) -> None:
    source = _prepared(tiny_model, clips, None)
    before = source.batch([0, 1])
    release_encoder(tiny_model)
    assert all(value.is_meta for value in tiny_model.encoder.parameters())
    assert not any(value.is_meta for value in tiny_model.decoder.parameters())
    after = source.batch([0, 1])
    assert torch.equal(before.values, after.values)
    tokens = torch.ones(2, 3, dtype=torch.long)
    assert tiny_model.decoder_hidden(after, tokens).isfinite().all()
    result = train(training.settings(train__steps=2), tmp_path / "run", SilentProgress())
    assert any(remark.startswith("encoder:") and "released" in remark for remark in result.remarks)


def test_the_size_is_known_before_anything_is_encoded(
    tiny_model: SpeechModel, clips: list[Any]
) -> None:
    expected = states_bytes(tiny_model, SECONDS, torch.float32)
    source = _prepared(tiny_model, clips, None)
    assert source.stored_bytes <= expected <= source.stored_bytes * 1.05
    assert np.isfinite(expected)


def test_states_of_another_length_than_stated_are_not_used(
    tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path
) -> None:
    _prepared(tiny_v1, clips, _shards(tmp_path))
    read: list[int] = []

    def load(index: int) -> Any:
        read.append(index)
        return clips[index]

    stated = (*SECONDS[:4], 9.0)
    dataset = SimpleNamespace(seconds=stated, load=load, content_key=lambda i: f"clip {i}")
    source = StateSource(tiny_v1, dataset, budget_mb=0, shards=_shards(tmp_path))
    # The loader of a dataset reports the clip, whose length is wrong in the manifest.
    source.prepare(range(5), SilentProgress(), "encoding")
    assert read == [4]
