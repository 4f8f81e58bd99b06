"""Only regular files are opened, and no more of them is read than a limit."""

import os
from pathlib import Path

import pytest

from moonshine_tune.config.resolve import read_settings_file
from moonshine_tune.core.bounded_files import is_file, open_regular, read_bounded
from moonshine_tune.core.errors import RequestError, TuneError
from moonshine_tune.core.files import read_json, sha256_of
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.release.verify import verify


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(RequestError, match="larger than"):
        read_bounded(path, 4)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty"])
def test_a_device_is_not_opened(device: str) -> None:
    if not Path(device).exists():
        pytest.skip(f"no {device} here")
    with pytest.raises(RequestError, match="a device, not a file"):
        open_regular(Path(device))


def test_nobody_waits_for_a_named_pipe(tmp_path: Path) -> None:
    """Opening one without a writer would wait for ever."""
    for name in ("pipe", "a.tar.gz", "run.json", "train.jsonl", "a.yaml"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(RequestError, match="a named pipe, not a file"):
        sha256_of(tmp_path / "pipe")
    with pytest.raises(RequestError, match="a named pipe, not a file"):
        verify(tmp_path / "a.tar.gz", SilentProgress())
    with pytest.raises(TuneError):
        read_json(tmp_path / "run.json")
    with pytest.raises(TuneError):
        read_manifest(tmp_path / "train.jsonl")
    with pytest.raises(TuneError):
        read_settings_file(tmp_path / "a.yaml")


def test_a_name_that_no_disk_takes_is_no_file(tmp_path: Path) -> None:
    assert not is_file(tmp_path / ("x" * 5000))
    assert not is_file(tmp_path / "a\0b")
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
