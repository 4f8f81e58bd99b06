"""Archives from strangers: what reaches outside is refused before anything is written."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.release.verify import verify

_QUIET = SilentProgress()


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


def test_what_is_no_package_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty.tar.gz").write_bytes(gzip.compress(b"\0" * 1024))
    for name in ("folder", "file.txt", "absent", "empty.tar.gz"):
        with pytest.raises(RequestError):
            verify(tmp_path / name, _QUIET)
