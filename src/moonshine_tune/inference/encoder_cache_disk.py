"""Encoder states on disk, identified by the content of the clip and by the encoder.

Shards are safetensors files of many clips each. A run maps them into memory, so only the pages that
a batch needs are read. Everything is in one folder of the cache with one size limit.

The name of a shard ends in its checksum. It is read once before it is used: 0.03 s for 100 MB that
the system has in memory, else as long as the disk takes, which reads the pages in advance.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moonshine_tune.core.bounded_files import open_regular
from moonshine_tune.core.files import free_disk_mb
from moonshine_tune.core.hardware import make_cache_folder
from moonshine_tune.core.progress import Progress
from moonshine_tune.inference.result_cache import recipe_hash

_MB = 1_000_000
_CHUNK = 1 << 20
# A killed run loses the shard that it is writing; smaller shards would be many files.
_SHARD_BYTES = 64 * _MB
# The cache leaves this much of the disk free: checkpoints must still fit.
_FREE_DISK_MB = 2_000


class StateShards:
    """The states of one encoder on disk: shards of many clips, each file complete or absent.

    Several runs may use them at once. A file that a run has mapped stays readable for that run
    when another run evicts it.

    Args:
        root: folder of all encoders' shards; the bound counts everything in it.
        encoder: identity of the encoder's weights, such as their hash.
        dtype: number format on disk.
        bound_mb: the least recently used shards are evicted to stay within it.
    """

    def __init__(self, root: Path, encoder: str, *, dtype: torch.dtype, bound_mb: int) -> None:
        self.dtype = dtype
        self._root = root
        recipe = json.dumps([encoder, str(dtype), recipe_hash(), "crc32"])
        self._folder = root / hashlib.sha256(recipe.encode()).hexdigest()[:32]
        # Folders of a cache that may only be read.
        self._readable: tuple[Path, ...] = ()
        self._bound = bound_mb * _MB
        self._used: set[Path] = set()
        self._intact: set[Path] = set()

    @contextmanager
    def lock(self, progress: Progress) -> Iterator[None]:
        """Lock the encoder's shards; a second run waits and then finds the states of the first."""
        writable = make_cache_folder(self._folder, progress.say)
        if writable != self._folder:
            # What is there is read; what is made goes elsewhere, and nobody else has that place.
            self._readable, self._folder = (*self._readable, self._folder), writable
            self._root = writable.parent
        lock = FileLock(self._folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say("another run is encoding with the same model: waiting for it")
            lock.acquire()
        try:
            # Left by a killed run; no other run writes while this one holds the lock.
            for path in self._folder.glob(".partial-*"):
                path.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def find(self, keys: set[str]) -> tuple[dict[str, Tensor], int]:
        """Memory-mapped states of the stored keys, and the number of damaged shards removed."""
        states: dict[str, Tensor] = {}
        damaged = 0
        for folder in (*self._readable, self._folder):
            for path in sorted(folder.glob("*.safetensors")):
                try:
                    mapped = _map(path, keys)
                    is_intact = not mapped or path in self._intact or _is_intact(path)
                except (OSError, SafetensorError):
                    is_intact = False
                if not is_intact:
                    damaged += 1
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                elif mapped:
                    states |= mapped
                    self._used.add(path)
                    self._intact.add(path)
                    # Eviction goes by the time of last use.
                    with suppress(OSError):
                        os.utime(path)
        return states, damaged

    def make_room(self, wanted_bytes: int) -> int:
        """Evict the least recently used shards; returns how many bytes may be written."""
        sizes = {path: path.stat() for path in self._root.glob("*/*.safetensors")}
        stored = sum(stat.st_size for stat in sizes.values())
        free = (free_disk_mb(self._root) - _FREE_DISK_MB) * _MB
        bound = min(self._bound, stored + max(free, 0))
        wanted = min(wanted_bytes, bound)
        for path in sorted(sizes, key=lambda item: sizes[item].st_mtime_ns):
            if stored + wanted <= bound:
                break
            if path not in self._used:
                path.unlink(missing_ok=True)
                stored -= sizes[path].st_size
        return max(bound - stored, 0)

    def add(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write a shard; returns the same states, memory-mapped.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        digest = hashlib.sha256("\n".join(sorted(states)).encode()).hexdigest()
        handle, name = tempfile.mkstemp(prefix=".partial-", dir=self._folder)
        os.close(handle)
        try:
            save_file(states, name)
            with Path(name).open("rb") as file:
                os.fsync(file.fileno())
            path = self._folder / f"{digest[:32]}-{_checksum(Path(name))}.safetensors"
            Path(name).replace(path)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        finally:
            Path(name).unlink(missing_ok=True)
        self._used.add(path)
        self._intact.add(path)
        return _map(path, set(states))


class ShardWriter:
    """Collects states into shards until the space on disk is used up."""

    def __init__(self, shards: StateShards, wanted_bytes: int, progress: Progress) -> None:
        self._shards = shards
        self._progress = progress
        self._free_bytes = shards.make_room(wanted_bytes) if wanted_bytes else 0
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self.is_open = self._free_bytes > 0
        self.written: dict[str, Tensor] = {}

    def put(self, key: str, states: Tensor) -> None:
        """Add the states of one clip, in the encoder's own format."""
        kept = states.to(self._shards.dtype)
        size = kept.numel() * kept.element_size()
        if not bool(kept.isfinite().all()):
            # Beyond the range of float16: better encoded again than stored as infinity.
            return
        if size > self._free_bytes:
            self.is_open = False
            return
        self._free_bytes -= size
        self._pending[key] = kept
        self._pending_bytes += size
        if self._pending_bytes >= _SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is collected; if the disk fails, storing stops and the run continues."""
        if not self._pending:
            return
        try:
            self.written |= self._shards.add(self._pending)
        except OSError as error:
            self.is_open = False
            self._progress.say(f"encoder states cannot be stored ({error}): encoding when needed")
        self._pending, self._pending_bytes = {}, 0


def _is_intact(path: Path) -> bool:
    """Whether a shard has the content that was written."""
    return path.stem.endswith(f"-{_checksum(path)}")


def _checksum(path: Path) -> str:
    """CRC-32 of a file: 3.5 GB/s, SHA-256 takes three times as long. Nobody forges these files."""
    total = 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return f"{total:08x}"


def _map(path: Path, keys: set[str]) -> dict[str, Tensor]:
    """Memory-mapped tensors of a shard; pages are read when they are used."""
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if key in keys}  # noqa: SIM118
