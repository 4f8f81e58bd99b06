"""Caches: damaged results are made again, and one that may only be read is no error."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.messages import Messages

from moonshine_tune.core import hardware
from moonshine_tune.core.hardware import cache_root, make_cache_folder
from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.inference.encoder_cache_disk import StateShards
from moonshine_tune.inference.result_cache import cached_path, read_cached, write_cached
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.registry import resolve, wheel

_SECONDS = (0.5, 0.9, 0.7)


@pytest.fixture
def messages() -> Messages:
    return Messages()


def _forbid_writing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As on a file system that may only be read; permissions do not stop root."""
    monkeypatch.setattr(hardware, "_reported", set())
    real_mkdir, real_open = Path.mkdir, os.open

    def inside(path: Any) -> bool:
        return Path(os.fsdecode(path)).is_relative_to(folder)

    def mkdir(self: Path, *given: Any, **named: Any) -> None:
        if inside(self) and not self.is_dir():
            raise OSError(30, "Read-only file system", str(self))
        real_mkdir(self, *given, **named)

    def open_file(path: Any, flags: int, *given: Any, **named: Any) -> int:
        if inside(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real_open(path, flags, *given, **named)

    def refuse(path: Any, *_given: Any, **_named: Any) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(os, "open", open_file)
    for name in ("unlink", "utime", "replace"):
        real = getattr(os, name)

        def guarded(path: Any, *given: Any, real: Any = real, **named: Any) -> Any:
            return refuse(path) if inside(path) else real(path, *given, **named)

        monkeypatch.setattr(os, name, guarded)


# --- encoder states


@pytest.fixture
def clips(make_clip: Callable[..., Any]) -> list[Any]:
    return [make_clip(length, seed) for seed, length in enumerate(_SECONDS)]


def _prepared(
    model: SpeechModel, clips: list[Any], root: Path, progress: Progress, count: int = 3
) -> StateSource:
    dataset = SimpleNamespace(
        seconds=_SECONDS, load=lambda i: clips[i], content_key=lambda i: f"clip {i}"
    )
    shards = StateShards(root, "encoder a", dtype=torch.float32, bound_mb=100)
    source = StateSource(model, dataset, budget_mb=0, shards=shards)
    source.prepare(range(count), progress, "encoding")
    return source


def _shard(root: Path) -> Path:
    (path,) = root.glob("*/*.safetensors")
    return path


@pytest.mark.parametrize("where", ["header", "first state", "last byte", "every second byte"])
def test_a_flipped_bit_in_stored_states_is_not_trained_on(
    where: str, tiny_v1: SpeechModel, clips: list[Any], tmp_path: Path, messages: Messages
) -> None:
    fresh = _prepared(tiny_v1, clips, tmp_path, SilentProgress()).batch([0, 1]).values.clone()
    path = _shard(tmp_path)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    places: dict[str, list[int]] = {
        "header": [20], "first state": [start + 3], "last byte": [len(data) - 1],
        "every second byte": list(range(start, len(data), 2)),
    }  # fmt: skip
    for place in places[where]:
        data[place] ^= 0x10
    # Another file: the mapped one stays as it is.
    path.unlink()
    path.write_bytes(data)
    source = _prepared(tiny_v1, clips, tmp_path, messages)
    assert messages.lines == ["removed 1 damaged files of encoder states: encoding them again"]
    assert torch.equal(source.batch([0, 1]).values, fresh)
    again = _prepared(tiny_v1, clips, tmp_path, messages)
    assert len(messages.lines) == 1 and again.holds([0, 1, 2])


def test_states_in_a_cache_that_may_only_be_read(
    tiny_v1: SpeechModel,
    clips: list[Any],
    tmp_path: Path,
    messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is there is read; what is missing goes to a temporary place, reported once."""
    root = tmp_path / "encoder-states"
    first = _prepared(tiny_v1, clips, root, SilentProgress(), count=2)
    before = first.batch([0, 1]).values.clone()
    _forbid_writing(monkeypatch, tmp_path)
    encoded: list[int] = []
    real = type(tiny_v1).encode

    def encode(self: Any, audio: torch.Tensor, counts: Any) -> Any:
        encoded.append(len(counts))
        return real(self, audio, counts)

    monkeypatch.setattr(type(tiny_v1), "encode", encode)
    source = _prepared(tiny_v1, clips, root, messages)
    assert torch.equal(source.batch([0, 1]).values, before)
    assert source.holds([0, 1, 2]) and encoded
    assert len([line for line in messages.lines if "the cache cannot be written" in line]) == 1
    # A second set of the same process: all is there, and nothing is reported again.
    encoded.clear()
    _prepared(tiny_v1, clips, root, messages)
    assert not encoded
    assert len([line for line in messages.lines if "the cache cannot be written" in line]) == 1


# --- results


def test_a_result_is_read_back_and_a_damaged_one_is_not(messages: Messages) -> None:
    path = cached_path("base-losses", ["a"])
    assert read_cached(path, list[float], 2, messages) is None
    write_cached(path, [0.5, 1.25], messages)
    assert read_cached(path, list[float], 2, messages) == [0.5, 1.25]
    assert messages.lines == []
    good = path.read_text()
    for bad in (
        good.replace("1.25", "1.75"), good[:-10], "[0.5, 1.25]", "", "{}", "[" * 3000,
        good.replace("1.25", "NaN"), good.replace("1.25", "9" * 401),
    ):  # fmt: skip
        path.write_text(bad)
        assert read_cached(path, list[float], 2, messages) is None, bad
    assert len(messages.lines) == 8
    assert all("a damaged result in the cache is not used" in line for line in messages.lines)
    path.write_text(good)
    assert read_cached(path, list[float], 3, messages) is None
    tokens = cached_path("replay-texts", ["a"])
    write_cached(tokens, [[1, 2], []], messages)
    assert read_cached(tokens, list[list[int]], 2, messages) == [[1, 2], []]


@pytest.mark.parametrize("kind", ["a file in its place", "a read-only file system"])
def test_a_result_that_cannot_be_kept_does_not_stop_the_run(
    kind: str, tmp_path: Path, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("MOONSHINE_TUNE_CACHE", str(root))
    path = cached_path("base-losses", ["a"])
    if kind == "a file in its place":
        monkeypatch.setattr(hardware, "_reported", set())
        root.write_text("a file")
    else:
        write_cached(path, [0.5], messages)
        _forbid_writing(monkeypatch, root)
        assert read_cached(path, list[float], 1, messages) == [0.5]
    write_cached(cached_path("base-losses", ["b"]), [0.5], messages)
    write_cached(cached_path("replay-texts", ["b"]), [[1]], messages)
    assert len(messages.lines) == 1 and "the cache cannot be written" in messages.lines[0]
    assert "MOONSHINE_TUNE_CACHE" in messages.lines[0]


def test_the_temporary_cache_is_one_folder_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_reported", set())
    (tmp_path / "file").touch()
    first = make_cache_folder(tmp_path / "file" / "a")
    assert first.is_dir() and first == make_cache_folder(tmp_path / "file" / "a")
    assert make_cache_folder(tmp_path / "b") == tmp_path / "b"


# --- models


def test_a_complete_model_in_a_cache_that_may_only_be_read_is_used(
    tmp_path: Path, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the wheel's files nor a rebuilt checkpoint takes a lock then."""
    assets = wheel.WheelAssets(tmp_path, tmp_path, tmp_path, tmp_path)
    monkeypatch.setattr(wheel, "cached_wheel_assets", lambda cache: assets)
    monkeypatch.setattr(resolve, "_runtime_hash", lambda runtime: "0" * 64)
    folder = tmp_path / "checkpoints" / f"tiny-{'0' * resolve._HASH_DIGITS}"
    folder.mkdir(parents=True)
    record = {"model": "tiny", "source": "wheel", "runtime_dir": "x", "runtime_sha256": "0"}
    (folder / resolve.CACHE_RECORD).write_text(json.dumps(record | {"files": {}}))
    _forbid_writing(monkeypatch, tmp_path)
    assert wheel.fetch_wheel_assets(tmp_path, messages) is assets
    result = resolve.rebuild_once(
        tmp_path, "tiny", source="wheel", cache=tmp_path, progress=messages
    )
    assert result == (folder, "0" * 64) and messages.lines == []
    assert cache_root() != tmp_path
