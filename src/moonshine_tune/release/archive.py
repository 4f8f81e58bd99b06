"""The packed form of a package: SHA256SUMS, and a `.tar.gz` with the same bytes each time.

An archive holds regular files only, sorted, below one folder, with fixed times, owners and modes.
"""

import errno
import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from moonshine_tune.core.bounded_files import open_regular, read_bounded
from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import sha256_of, write_text_atomic
from moonshine_tune.core.machine_errors import machine_error

SUMS_FILE = "SHA256SUMS"
PACKAGE_FILE = "package.json"
SAMPLE_FILE = "sample/sample.jsonl"
_SUM_LINE = re.compile(r"^([0-9a-f]{64})  (\S.*)$", re.MULTILINE)
_ARCHIVE = re.compile(r"(?i)\.(tar\.gz|tgz)$")
_OTHER_ARCHIVES = {".zip", ".tar", ".gz", ".bz2", ".xz", ".zst", ".tbz2", ".txz", ".7z", ".rar"}
_COMPRESSION_LEVEL = 6
_CHUNK = 1 << 20
# A package of the largest published model is about 0.5 GB; a larger one fills a disk for nothing.
_MAX_BYTES = 16_000_000_000
# Weights hardly compress. Without this bound, an archive of 16 MB takes a minute and 16 GB.
_MAX_RATIO, _SMALL_BYTES = 50, 10_000_000
# A package has about 20 files, and one for each evaluation.
_MAX_MEMBERS = 1_000
# Headers that give a long name to the next member; one of a megabyte takes the standard library
# an hour (CVE-2024-6232).
_MAX_HEADER_BYTES = 8_192
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK)  # fmt: skip
_MAX_SUMS_BYTES = 1_000_000
# The standard library raises the last three for headers that make no sense.
_READ_ERRORS = (
    tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RuntimeError, OverflowError,
)  # fmt: skip
# These concern the disk; any other system error while reading comes from a broken header.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def is_archive_name(path: Path) -> bool:
    """Whether the name ends in `.tar.gz` or `.tgz`; False for the name of a folder.

    Raises:
        RequestError: the name is of another archive format.
    """
    if _ARCHIVE.search(path.name):
        return True
    if path.suffix.lower() in _OTHER_ARCHIVES:
        raise RequestError(
            "packages are folders or .tar.gz archives",
            where=path,
            hint="choose a name that ends in .tar.gz; unpack another archive and name its folder",
        )
    return False


def archive_stem(path: Path) -> str:
    """The archive's name without its ending: the folder inside it."""
    return _ARCHIVE.sub("", path.name)


def files_below(folder: Path) -> tuple[str, ...]:
    """Relative names of everything that is not a folder, sorted, with forward slashes."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return tuple(sorted(path.relative_to(folder).as_posix() for path in files))


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of the folder, as `sha256sum -c` reads it."""
    names = [name for name in files_below(folder) if name != SUMS_FILE]
    write_text_atomic(folder / SUMS_FILE, _sums_text({n: sha256_of(folder / n) for n in names}))


def read_sums(folder: Path) -> dict[str, str]:
    """Recorded sums by relative name.

    Raises:
        NegativeAnswerError: the file is missing, or not as `write_sums` writes it.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        raise NegativeAnswerError("missing", where=SUMS_FILE)
    content = read_bounded(path, _MAX_SUMS_BYTES)
    lines = _SUM_LINE.findall(content.decode("utf-8", errors="replace"))
    sums = {name: digest for digest, name in lines}
    if _sums_text(sums).encode() != content or any(map(_is_outside, sums)):
        raise NegativeAnswerError("is damaged", where=SUMS_FILE)
    return sums


def _sums_text(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def pack(folder: Path, root: str, archive: Path) -> None:
    """Write the folder's files as a `.tar.gz` whose members lie below `root`."""
    with (
        archive.open("wb") as target,
        gzip.GzipFile(
            filename="", mode="wb", compresslevel=_COMPRESSION_LEVEL, fileobj=target, mtime=0
        ) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in files_below(folder):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = (folder / name).stat().st_size
            # Packages of version 0.1 hold scripts: the bytes of such an archive are checked too.
            member.mode = 0o755 if name.endswith(".sh") else 0o644
            with (folder / name).open("rb") as file:
                tar.addfile(member, file)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive into an existing empty folder; returns the package's folder in it.

    Every member is checked before any byte is written.

    Raises:
        RequestError: a member lies outside of the archive's folder, or is no regular file.
        NegativeAnswerError: the archive is damaged.
    """
    try:
        with _opened(archive) as (stream, tar):
            members = _read_members(archive, tar)
            while stream.read(_CHUNK):
                # To the checksum at the end: a damaged name is not yet an unsafe name.
                pass
            _check_members(archive, members)
            # Python below 3.11.4 has no filter; the check above is the stricter one.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(folder, [member for member in members if member.isfile()])
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        if known := machine_error(error):
            raise known from error
        raise NegativeAnswerError(
            f"the archive is damaged ({str(error) or type(error).__name__})",
            where=archive.name,
            hint="fetch or copy it again, and compare its size with the original",
        ) from error
    return folder / PurePosixPath(members[0].name).parts[0]


@contextmanager
def _opened(archive: Path) -> Iterator[tuple["_BoundedStream", tarfile.TarFile]]:
    """The unpacked stream of an archive, and the tar in it."""
    with open_regular(archive) as file, gzip.open(file) as unpacked:
        stream = _BoundedStream(archive, unpacked)
        # The stream has all that a tar reads with.
        fileobj: Any = stream
        with tarfile.open(fileobj=fileobj, mode="r:", tarinfo=_Member) as tar:
            yield stream, tar


class _BoundedStream:
    """A decompressed stream that ends in an error where no package can be as large."""

    def __init__(self, archive: Path, stream: gzip.GzipFile) -> None:
        self._archive, self._stream = archive, stream
        packed = archive.stat().st_size
        self._limit = min(max(packed * _MAX_RATIO, _SMALL_BYTES), _MAX_BYTES)

    def read(self, size: int = -1) -> bytes:
        """At most a megabyte at a time, whatever a header claims."""
        data = self._stream.read(_CHUNK if size < 0 else min(size, _CHUNK))
        self._check(self._stream.tell())
        return data

    def seek(self, position: int) -> int:
        """Go to a position, unpacking all before it."""
        self._check(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        """The position."""
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise RequestError(
                f"refused: it would unpack to more than {self._limit / 1e6:,.0f} MB; nothing was "
                "unpacked",
                where=self._archive,
                hint="name an archive that `moonshine-tune package` wrote",
            )


class _Member(tarfile.TarInfo):
    """A member whose long name is not longer than a file system takes."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and not 0 <= self.size <= _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {self.size} bytes")
        if self.size < 0:
            raise ValueError(f"a member of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def _read_members(archive: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = []
    for member in tar:
        members.append(member)
        if len(members) > _MAX_MEMBERS:
            raise RequestError(
                f"not a package: it has more than {_MAX_MEMBERS:,} members; nothing was unpacked",
                where=archive,
                hint="name an archive that `moonshine-tune package` wrote",
            )
    return members


def _check_members(archive: Path, members: list[tarfile.TarInfo]) -> None:
    if not members:
        raise RequestError("the archive is empty", where=archive)
    seen: set[str] = set()
    for member in members:
        problem = (
            "is a link or a device" if not (member.isfile() or member.isdir())
            else "points outside of the folder" if _is_outside(member.name.rstrip("/"))
            else "is there twice" if member.name in seen
            else None
        )  # fmt: skip
        if problem:
            raise RequestError(
                f"refused: the member {member.name!r} {problem}; nothing was unpacked",
                where=archive,
                hint="do not open it with other tools either; ask its sender",
            )
        seen.add(member.name)
    roots = {PurePosixPath(name).parts[0] for name in seen}
    if len(roots) > 1:
        raise RequestError(
            f"not a package: it holds {len(roots)} folders, not one",
            where=archive,
            hint="name an archive that `moonshine-tune package` wrote",
        )


def _is_outside(name: str) -> bool:
    """Whether a relative name could reach outside of its folder on any system."""
    parts = name.split("/")
    return (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in name
        or "\0" in name
        or ":" in parts[0]
    )
