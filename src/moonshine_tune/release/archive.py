"""The seal of a package: SHA256SUMS, and archives that are the same bytes each time.

Archives hold regular files only, sorted, below one folder, with fixed times, owners and modes.
"""

import errno
import gzip
import hashlib
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from moonshine_tune.core.errors import NegativeAnswerError, RequestError
from moonshine_tune.core.files import sha256_of, write_text_atomic

SUMS_FILE = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
_LEVEL = 6
# A package of the largest published model holds about 0.5 GB; more than this unpacks to no use.
_MOST_BYTES = 16_000_000_000
# These are of the disk; any other error of the system while reading is nonsense in a header.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def archive_kind(path: Path) -> str | None:
    """`tar.gz` or `zip` by the name's ending, None for a folder."""
    name = path.name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        return "tar.gz"
    return "zip" if name.endswith(".zip") else None


def archive_stem(path: Path) -> str:
    """The archive's name without its ending: the folder inside it."""
    return re.sub(r"(?i)\.(tar\.gz|tgz|zip)$", "", path.name)


def files_below(folder: Path) -> tuple[str, ...]:
    """Relative names of everything that is not a folder, sorted, with forward slashes."""
    found = (item for item in folder.rglob("*") if item.is_symlink() or not item.is_dir())
    return tuple(sorted(item.relative_to(folder).as_posix() for item in found))


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every other file of the folder, as `sha256sum -c` reads it."""
    names = [name for name in files_below(folder) if name != SUMS_FILE]
    write_text_atomic(folder / SUMS_FILE, _sums_text({n: sha256_of(folder / n) for n in names}))


def read_sums(folder: Path) -> dict[str, str]:
    """Recorded sums by relative name.

    Raises:
        NegativeAnswerError: the file is not as `write_sums` writes it.
    """
    path = folder / SUMS_FILE
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NegativeAnswerError("is damaged: not text", where=SUMS_FILE) from error
    sums: dict[str, str] = {}
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None or _outside(match[2]):
            raise NegativeAnswerError("is damaged", where=SUMS_FILE, line=number)
        sums[match[2]] = match[1]
    if _sums_text(sums) != text:
        raise NegativeAnswerError("is damaged", where=SUMS_FILE)
    return sums


def _sums_text(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def pack(folder: Path, kind: str, root: str, target: IO[bytes]) -> None:
    """Write the folder's files as an archive whose members lie below `root`."""
    if kind == "zip":
        _pack_zip(folder, root, target)
    else:
        _pack_tar(folder, root, target)


def _mode(name: str) -> int:
    return 0o755 if name.endswith(".sh") else 0o644


def _pack_tar(folder: Path, root: str, target: IO[bytes]) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=_LEVEL, mtime=0) as out,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in files_below(folder):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = (folder / name).stat().st_size
            member.mode = _mode(name)
            with (folder / name).open("rb") as file:
                archive.addfile(member, file)


def _pack_zip(folder: Path, root: str, target: IO[bytes]) -> None:
    with zipfile.ZipFile(target, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name in files_below(folder):
            member = zipfile.ZipInfo(f"{root}/{name}", _ZIP_TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = (stat.S_IFREG | _mode(name)) << 16
            member.file_size = (folder / name).stat().st_size
            member._compresslevel = _LEVEL  # type: ignore[attr-defined]
            with (folder / name).open("rb") as file, archive.open(member, "w") as out:
                while chunk := file.read(_CHUNK):
                    out.write(chunk)


def packed_sha256(folder: Path, kind: str, root: str) -> str:
    """Hash of the archive that `pack` writes of this folder."""
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        pack(folder, kind, root, file)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def unpack(archive: Path, folder: Path) -> str:
    """Unpack an archive into an existing empty folder; returns its root folder's name.

    Every member is looked at before any byte is written.

    Raises:
        RequestError: a member lies outside of the archive's folder, or is no regular file.
        NegativeAnswerError: the archive is damaged.
    """
    try:
        if archive_kind(archive) == "zip":
            return _unpack_zip(archive, folder)
        return _unpack_tar(archive, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise
        raise _damaged(archive, error) from error
    except (ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        # What the standard library's readers raise for headers that make no sense.
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> NegativeAnswerError:
    return NegativeAnswerError(
        f"the archive is damaged ({str(error) or type(error).__name__})",
        where=archive.name,
        hint="fetch or copy it again, and compare its size with the original",
    )


def _unpack_tar(archive: Path, folder: Path) -> str:
    with tarfile.open(archive, "r:gz") as opened:
        members = opened.getmembers()
        for member in members:
            if not (member.isfile() or member.isdir()):
                raise _unsafe(archive, member.name, "is a link or a device")
        files = [member for member in members if member.isfile()]
        _check_names(archive, [member.name for member in members], sum(m.size for m in files))
        for member in files:
            source = opened.extractfile(member)
            if source is not None:
                _write(folder / member.name, source)
    return PurePosixPath(members[0].name).parts[0]


def _unpack_zip(archive: Path, folder: Path) -> str:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        for member in members:
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _unsafe(archive, member.filename, "is a link or a device")
        _check_names(
            archive, [member.orig_filename for member in members], sum(m.file_size for m in members)
        )
        for member in members:
            if not member.is_dir():
                with opened.open(member) as source:
                    _write(folder / member.filename, source)
    return PurePosixPath(members[0].filename).parts[0]


def _check_names(archive: Path, names: list[str], size: int) -> None:
    if not names:
        raise RequestError("the archive is empty", where=archive)
    for name in names:
        if _outside(name.rstrip("/")):
            raise _unsafe(archive, name, "points outside of the folder")
    if len(set(names)) != len(names):
        raise _unsafe(archive, next(n for n in names if names.count(n) > 1), "comes twice")
    roots = {PurePosixPath(name).parts[0] for name in names}
    if len(roots) > 1:
        raise RequestError(
            f"not a package: it holds {len(roots)} folders, not one",
            where=archive,
            hint="name an archive that `moonshine-tune package` wrote",
        )
    if size > _MOST_BYTES:
        raise RequestError(f"it would unpack to {size / 1e9:.0f} GB", where=archive)


def _outside(name: str) -> bool:
    """Whether a relative name could reach outside of its folder on any system."""
    parts = name.split("/")
    return (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in name
        or "\0" in name
        or ":" in parts[0]
    )


def _unsafe(archive: Path, name: str, why: str) -> RequestError:
    return RequestError(
        f"refused: the member {name!r} {why}; nothing was unpacked",
        where=archive,
        hint="do not open it with other tools either; ask its sender",
    )


def _write(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
