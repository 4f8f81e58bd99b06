"""Archives: the bytes of each file, and what is refused of an archive from a stranger."""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.release.made_up_run import FakeRuntime

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.machine_errors import machine_error
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.release import verify as verify_job
from moonshine_tune.release.archive import pack, write_sums
from moonshine_tune.release.verify import verify

_QUIET = SilentProgress()


def test_archives_have_the_bytes_of_version_0_1(tmp_path: Path) -> None:
    (tmp_path / "model" / "reproduce").mkdir(parents=True)
    (tmp_path / "model" / "reproduce" / "train.sh").write_text("echo\n")
    (tmp_path / "model" / "package.json").write_text("{}\n")
    pack(tmp_path / "model", "model", tmp_path / "model.tar.gz")
    content = (tmp_path / "model.tar.gz").read_bytes()
    # Without name and time. The compressed bytes depend on zlib, those of the tar on us alone.
    assert content[:10].hex() == "1f8b08000000000000ff"
    assert hashlib.sha256(gzip.decompress(content)).hexdigest() == (
        "206d590a0fc076a03ee788f6ed8f7e91619161f4474d18e30f305167bda7d0a0"
    )


@pytest.mark.usefixtures("fake_runtime")
def test_a_package_of_version_0_1_is_read(packed: Path, tmp_path: Path) -> None:
    """It held scripts, executable ones; with the same zlib and Python every byte is checked."""
    folder, archive = tmp_path / "model", tmp_path / "old.tgz"
    shutil.copytree(packed / "model", folder)
    (folder / "reproduce" / "README.md").write_text("sh train.sh\n")
    for name in ("common.sh", "manifests.sh", "train.sh"):
        (folder / "reproduce" / name).write_text("#!/bin/sh\n")
        (folder / "reproduce" / name).chmod(0o755)
    write_sums(folder)
    pack(folder, "model", archive)
    for path in (folder, archive):
        result = verify(path, _QUIET)
        assert result.passed and result.sample is not None, result.problems


def _tar_of(path: Path, *members: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"evil"[: member.size]))


def _tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_tar_member("../escaped")],
        [_tar_member("model/ok"), _tar_member("model/../../escaped")],
        [_tar_member("/tmp/escaped-by-absolute-name")],
        [_tar_member("C:/escaped")],
        [_tar_member("model\\..\\..\\escaped")],
        [_tar_member("model/link", tarfile.SYMTYPE, "../.."), _tar_member("model/link/escaped")],
        [_tar_member("model/hard", tarfile.LNKTYPE, "/etc/hostname")],
        [_tar_member("model/device", tarfile.CHRTYPE)],
        [_tar_member("model/twice"), _tar_member("model/twice")],
        [_tar_member("one/a"), _tar_member("two/b")],
    ],
)
def test_a_tar_that_reaches_outside_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    written: list[Any] = []
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *given: written.append(given))
    _tar_of(tmp_path / "p.tar.gz", *members)
    with pytest.raises(RequestError) as caught:
        verify(tmp_path / "p.tar.gz", _QUIET)
    assert caught.value.exit_code == 2 and not written
    assert not list(tmp_path.rglob("*escaped*"))
    assert not list(scratch.iterdir())


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty.tar.gz").write_bytes(gzip.compress(b"\0" * 1024))
    for name in ("folder", "file.txt", "absent", "empty.tar.gz"):
        with pytest.raises(RequestError):
            verify(tmp_path / name, _QUIET)


# --- archives that would take long, or much


def _refused(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        verify(path, _QUIET)
    assert caught.value.exit_code == 2 and caught.value.hint
    return str(caught.value)


def test_more_members_than_any_package_has(tmp_path: Path) -> None:
    """Also where each is named twice; no header after the limit is read."""
    members = [_tar_member(f"p/{number}") for number in range(1_100)]
    for member in members:
        member.size = 0
    _tar_of(tmp_path / "p.tar.gz", *members, members[-1])
    assert "more than 1,000 members" in _refused(tmp_path / "p.tar.gz")


def _sized(path: Path, size: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    """An archive with one member whose header claims a size."""
    header = bytearray(_tar_member("p/a", kind).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(gzip.compress(bytes(header[:512]) + b"x" * 2048 + bytes(1024)))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 12,
        b"\xff" * 11 + b"\x00",
        b"\x80" + b"\x7f" * 11,
        b"77777777777\0",
        b"-0000001000\0",
    ],
    ids=["-1", "-256", "binary", "8 GB", "minus"],
)
def test_sizes_that_cannot_be(tmp_path: Path, size: bytes, kind: bytes) -> None:
    path = tmp_path / "p.tar.gz"
    _sized(path, size, kind)
    try:
        result = verify(path, _QUIET)
        assert not result.passed and "damaged" in result.problems[0]
    except RequestError as error:
        assert error.exit_code == 2


def test_what_unpacks_to_far_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "p.tar.gz"
    member = _tar_member("p/zeros")
    member.size = 30_000_000
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    assert path.stat().st_size < 100_000
    assert "would unpack to more than 10 MB" in _refused(path)
    # The same behind the end of the archive.
    path.write_bytes(gzip.compress(bytes(30_000_000)))
    assert "would unpack to more than 10 MB" in _refused(path)


def test_a_long_header_is_not_searched(tmp_path: Path) -> None:
    """Digits in a header of half a megabyte take the standard library minutes (CVE-2024-6232)."""
    path = tmp_path / "p.tar.gz"
    member = _tar_member("pax", tarfile.XHDTYPE)
    member.size = 500_000
    data = member.tobuf(tarfile.USTAR_FORMAT) + b"1" * 500_224
    path.write_bytes(gzip.compress(data + bytes(1024)))
    result = verify(path, _QUIET)
    assert not result.passed and "a header of 500000 bytes" in result.problems[0]


def test_what_is_no_file_in_a_folder_is_a_problem_of_it(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed / "model", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").unlink()
    os.mkfifo(tmp_path / "copy" / "README.md")
    result = verify(tmp_path / "copy", _QUIET)
    assert result.problems[0] == "README.md: not a file"


# --- this machine, not the package


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread"), OSError(12, "Cannot allocate")]
)
@pytest.mark.parametrize("place", ["unpack", "load", "transcribe"])
def test_memory_that_runs_out_says_nothing_about_the_package(
    packed: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    def fail(*_given: Any) -> Any:
        raise error

    def refuse(*_given: Any) -> Any:
        raise RequestError("the runtime refuses these files") from error

    if place == "unpack":
        monkeypatch.setattr(tarfile.TarFile, "extractall", fail)
    elif place == "load":
        monkeypatch.setattr(verify_job, "RuntimeTranscriber", refuse)
    else:
        monkeypatch.setattr(verify_job, "RuntimeTranscriber", FakeRuntime)
        monkeypatch.setattr(FakeRuntime, "transcribe", fail)
    path = packed / ("model.tar.gz" if place == "unpack" else "model")
    with pytest.raises((MachineError, type(error))) as caught:
        verify(path, _QUIET)
    known = machine_error(caught.value)
    assert known is not None and known.exit_code == 3


def test_a_runtime_that_fails_without_a_reason_where_memory_is_short(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own error is "Unknown error"; where there is memory, the model is at fault."""

    def refuse(*_given: Any) -> Any:
        raise RequestError("the runtime refuses these files: Unknown error")

    monkeypatch.setattr(verify_job, "RuntimeTranscriber", refuse)
    result = verify(packed / "model", _QUIET)
    assert not result.passed and "refuses" in result.problems[0]
    monkeypatch.setattr(verify_job, "_LOADED_BYTES", 1 << 62)
    with pytest.raises(MachineError, match="memory ran out"):
        verify(packed / "model", _QUIET)
