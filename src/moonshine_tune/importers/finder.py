"""Finds the recordings that the rows of a table name.

A path is taken as it is written. A name without a folder may be anywhere below the folder, if no
row of the table has a folder, except in folders that share names of the table. Paths of another
machine are read below one new root, the same for all rows. Where a field such as the speaker names
folders, it says in which one a name is. Anything else is missing: speakers' folders often hold
files of the same names.
"""

import operator
import os
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.names import home_expanded, real_path
from moonshine_tune.importers.base import Row


class RecordingFinder:
    """Finds recordings by their names in a table: a path, a name, or a name without ending.

    Attributes:
        remarks: what was decided about the paths of all rows, a sentence each.
    """

    def __init__(self, folder: Path, table_folder: Path, recordings: Sequence[Path]) -> None:
        self._roots = tuple(dict.fromkeys((folder, table_folder)))
        self._folder = folder
        self._recordings = recordings
        self._known = {str(path): path for path in recordings}
        self._folders: dict[Path, Path] = {}
        self._index: _NameIndex | None = None
        self.remarks: list[str] = []

    def with_folders(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows, with a folder in front of a name where one of their fields names folders.

        A field does so if it is the only one with a value that is the name of a recording's folder,
        and no path of the table has a folder.
        """
        parents = set(map(os.path.dirname, self._known)) - {str(self._folder)}
        bare = [row for row in rows if row.problem is None] if parents else []
        if not bare or any("/" in row.audio or "\\" in row.audio for row in bare):
            return rows
        folders: dict[str, set[Path]] = defaultdict(set)
        for parent in map(Path, parents):
            folders[_composed(parent.name).casefold()].add(parent)
        fields = {
            name
            for row in bare
            for name, value in _labels(row).items()
            if value.casefold() in folders
        }
        if len(fields) != 1:
            return rows
        field = fields.pop()
        result = list(rows)
        for index, row in enumerate(rows):
            value = _labels(row).get(field)
            if row.problem is None and value and self._direct(row.audio) is None:
                homes = folders.get(value.casefold(), set())
                home = next(iter(homes)) if len(homes) == 1 else self._folder / value
                if len(homes) < 2:
                    audio = f"{home.relative_to(self._folder).as_posix()}/{row.audio}"
                    result[index] = replace(row, audio=audio)
        if all(map(operator.is_, result, rows)):
            return rows
        self.remarks.append(f"the recordings are in the folders that {field!r} names")
        return result

    def find_all(self, rows: Iterable[Row]) -> dict[str, Path | str]:
        """Name → recording, or the problem in a sentence; rows with a problem decide nothing."""
        by_name: dict[str, Row] = {}
        results: dict[str, Path | str] = {}
        for row in rows:
            if row.problem is None:
                by_name[row.audio] = row
            elif row.audio:
                results[row.audio] = self._direct(row.audio) or f"no such recording: {row.audio}"
        missing: dict[str, str] = {}
        for name in by_name:
            direct = self._direct(name)
            if direct is None:
                missing[name] = _plain(name)
            else:
                results[name] = direct
        if not missing:
            return results
        index = self._index = _NameIndex(self._folder, self._recordings)
        for name, plain in missing.items():
            paths = index.at(plain)
            if paths:
                results[name] = self._only(name, paths)
                missing[name] = ""
        plain_names = {name: plain for name, plain in missing.items() if plain}
        has_folders = any("/" in _plain(name) for name in by_name)
        if not has_folders:
            sharing = index.folders_that_share(map(_plain, by_name))
            for name, plain in plain_names.items():
                paths = index.called(plain)
                if len(paths) == 1 and paths[0].parent in sharing:
                    paths = []
                results[name] = self._only(name, paths) if paths else self._missing(name, plain)
            return results
        moved: Mapping[str, Path] = {}
        if not any("/" in _plain(name) for name in by_name if name in results):
            moved = self._below_a_new_root(
                {name: plain for name, plain in plain_names.items() if "/" in plain}, by_name
            )
        for name, plain in plain_names.items():
            results[name] = (
                self._resolved(moved[name]) if name in moved else self._missing(name, plain)
            )
        return results

    def _direct(self, name: str) -> Path | str | None:
        """The recording at this path, from the working directory or below a root."""
        known = self._known.get(name)
        if known is not None:
            return self._resolved(known)
        try:
            for written in (name, _plain(name)) if "\\" in name else (name,):
                for root in self._roots:
                    path = root / home_expanded(written) if name[:1] == "~" else root / written
                    if str(path) in self._known or path.is_file():
                        return self._resolved(path)
        except (OSError, ValueError, RuntimeError):
            return f"{name!r} is not a path"
        return None

    def _resolved(self, path: Path) -> Path:
        """The path with links followed; each folder is resolved once."""
        if path.name in ("", ".."):
            return real_path(path)
        folder = self._folders.get(path.parent)
        if folder is None:
            folder = self._folders[path.parent] = real_path(path.parent)
        resolved = folder / path.name
        try:
            is_link = stat.S_ISLNK(os.lstat(resolved).st_mode)
        except OSError:
            return resolved
        return real_path(resolved) if is_link else resolved

    def _only(self, name: str, paths: Sequence[Path]) -> Path | str:
        if len(paths) == 1:
            return self._resolved(paths[0])
        return f"{len(paths)} recordings are called {name}: {paths[0]}, {paths[1]}"

    def _missing(self, name: str, plain: str) -> str:
        near = self._index.near(plain) if self._index is not None else ""
        return f"no such recording: {name}{near}"

    def _below_a_new_root(
        self, names: Mapping[str, str], by_name: Mapping[str, Row]
    ) -> Mapping[str, Path]:
        """Recordings of paths that all begin with a folder of another machine; empty if unclear.

        The longest ending of the paths that exists decides. Where it still has a folder, rows
        that are not there are missing. Where only the names are left, all of them must be in the
        folder that was given, and the folder that they had must be no speaker.
        """
        index = self._index
        if not names or index is None:
            return {}
        parts = {name: plain.split("/") for name, plain in names.items()}
        common = _common_folders([item[:-1] for item in parts.values()])
        for depth in range(len(common) + 1):
            rests = {name: "/".join(item[depth:]) for name, item in parts.items()}
            roots = Counter(
                root for rest in rests.values() if "/" in rest for root in index.roots_of(rest)
            )
            is_bare = not any("/" in rest for rest in rests.values())
            if is_bare and not self._is_speaker(common[-1], names, by_name):
                roots = Counter([""])
            if not roots:
                continue
            complete = [root for root, count in roots.items() if count >= len(names)]
            if "" in complete:
                complete = [""]
            if len(complete) != 1 and len(roots) > 1:
                return {}
            root = complete[0] if complete else next(iter(roots))
            moved = {
                name: paths[0]
                for name, rest in rests.items()
                if len(paths := index.at(f"{root}/{rest}" if root else rest)) == 1
            }
            if is_bare and len(moved) < len(names):
                return {}
            old, new = "/".join(common[:depth]), self._folder / root
            self.remarks.append(
                f"the folder {old!r} of the table is read as {str(new)!r}"
                if old
                else f"paths of the table are read below {str(new)!r}"
            )
            return moved
        return {}

    def _is_speaker(
        self, folder: str, names: Mapping[str, str], by_name: Mapping[str, Row]
    ) -> bool:
        """Whether the rows also have their common folder as a value: a person, and not a root."""
        if folder.casefold() == self._folder.resolve().name.casefold():
            return False
        return all(
            folder.casefold()
            in {
                str(value).strip().casefold()
                for value in (*by_name[name].values.values(), *by_name[name].extra.values())
            }
            for name in names
        )


class _NameIndex:
    """Recordings of a folder by relative path and by name, with and without their endings."""

    def __init__(self, folder: Path, recordings: Sequence[Path]) -> None:
        self._by_path: dict[str, list[Path]] = defaultdict(list)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._relative: dict[Path, str] = {}
        self._near: dict[str, list[str]] | None = None
        for path in recordings:
            relative = _composed(path.relative_to(folder).as_posix())
            self._relative[path] = relative
            for key in {relative, _without_ending(relative)}:
                self._by_path[key].append(path)
            name = relative.rpartition("/")[2]
            for key in {name, _without_ending(name)}:
                self._by_name[key].append(path)

    def at(self, plain: str) -> list[Path]:
        """Recordings with this path relative to the folder."""
        return self._by_path.get(plain, [])

    def called(self, name: str) -> list[Path]:
        """Recordings with this name in any folder."""
        return self._by_name.get(name, [])

    def folders_that_share(self, names: Iterable[str]) -> set[Path]:
        """Folders in which one of these names occurs that another folder has, too."""
        folders: set[Path] = set()
        for name in names:
            if len(paths := self.called(name)) > 1:
                folders |= {path.parent for path in paths}
        return folders

    def roots_of(self, ending: str) -> list[str]:
        """Relative folders below which a recording has this path; "" is the folder itself."""
        roots = []
        for path in self._by_name.get(ending.rpartition("/")[2], []):
            relative = self._relative[path]
            for spelled in (relative, _without_ending(relative)):
                if spelled == ending:
                    roots.append("")
                elif spelled.endswith(f"/{ending}"):
                    roots.append(spelled[: -len(ending) - 1])
        return roots

    def near(self, plain: str) -> str:
        """`; did you mean 'take1.wav'?` for another case, ending or folder; else empty."""
        if self._near is None:
            self._near = defaultdict(list)
            for relative in sorted(self._relative.values()):
                self._near[_without_ending(relative).casefold()].append(relative)
                name = relative.rpartition("/")[2]
                if name != relative:
                    self._near[f"*/{_without_ending(name).casefold()}"].append(relative)
        stem = _without_ending(plain).casefold()
        same = self._near.get(stem)
        if same:
            return f"; did you mean {same[0]!r}?"
        elsewhere = self._near.get(f"*/{stem.rpartition('/')[2]}")
        return f"; {elsewhere[0]!r} has that name in another folder" if elsewhere else ""


def _labels(row: Row) -> dict[str, str]:
    """The fields of a row that may name a folder, in composed characters."""
    fields = {**row.extra, **row.values}
    return {
        name: _composed(value.strip())
        for name, value in fields.items()
        if name not in ("text", "id") and isinstance(value, str) and value.strip()
    }


def _common_folders(folders: Sequence[Sequence[str]]) -> Sequence[str]:
    """The folders that all paths begin with."""
    first, last = min(folders, key=tuple), max(folders, key=tuple)
    depth = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first if depth is None else first[:depth]


def _plain(name: str) -> str:
    """A name as the index has it: tables of Windows have backslashes, macOS splits accents."""
    return _composed(name.strip().replace("\\", "/").removeprefix("./"))


def _without_ending(name: str) -> str:
    """The name without its ending; a name that begins with its only point has none."""
    folder, slash, last = name.rpartition("/")
    stem, dot, _ = last.rpartition(".")
    return f"{folder}{slash}{stem}" if dot and stem else name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
