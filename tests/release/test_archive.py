"""Archives: the bytes of each file, and what is refused of an archive from a stranger."""

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
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
