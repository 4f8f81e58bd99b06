"""Which transcript file belongs to which recording: by their names and folders alone."""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS


@dataclass(frozen=True)
class Pairing:
    """TranscriptFile files of recordings.

    Attributes:
        files: recording → its files; a recording without any is not a key.
        shared: recording → a file that several recordings of different folders could have.
        elsewhere: pairs of folders, of recordings and of their transcripts, that differ.
    """

    files: dict[Path, list[Path]]
    shared: dict[Path, Path]
    elsewhere: tuple[tuple[Path, Path], ...]


def pair(
    recordings: Collection[Path], files: Collection[Path], endings: Collection[str]
) -> Pairing:
    """Transcripts of recordings: beside them, else in a folder of transcripts.

    Names count without endings, in any case: `SA1.WAV` and `sa1.txt`, `a.wav` and `a.wav.srt`,
    `a.wav` and `a.en.vtt`. Folders count as parallel where their paths differ in one name (`wav/1`
    and `txt/1`), or where one is inside of the other; a folder that has recordings holds the
    transcripts of these alone.
    """
    index = _Index(files, endings)
    homes = {path.parent for path in recordings}
    paired: dict[Path, list[Path]] = {}
    missing: list[tuple[Path, list[str]]] = []
    for path in recordings:
        names = _names(path)
        beside = index.beside(path.parent, names)
        if beside:
            paired[path] = beside
        else:
            missing.append((path, names))
    claims: dict[Path, list[Path]] = defaultdict(list)
    if missing and index.has_folders_without(homes):
        for path, names in missing:
            folder = path.parent
            for file in index.anywhere(names):
                home = file.parent
                if home not in homes and _are_parallel(folder, home):
                    claims[file].append(path)
    shared: dict[Path, Path] = {}
    elsewhere: dict[tuple[Path, Path], None] = {}
    for file, claimants in claims.items():
        if len({path.parent for path in claimants}) > 1:
            shared |= dict.fromkeys(claimants, file)
            continue
        for path in claimants:
            paired.setdefault(path, []).append(file)
            elsewhere[path.parent, file.parent] = None
    return Pairing(paired, shared, tuple(elsewhere))


class _Index:
    """Files by folder and name without ending."""

    def __init__(self, files: Collection[Path], endings: Collection[str]) -> None:
        self._exact: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        self._variants: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        self._anywhere: dict[str, list[Path]] = defaultdict(list)
        self._folders: set[Path] = set()
        for path in files:
            if path.suffix.lower() not in endings:
                continue
            folder, key = path.parent, _folded(path.stem)
            self._folders.add(folder)
            self._exact[folder, key].append(path)
            self._anywhere[key].append(path)
            # `a.en.vtt`, `a.normalized.txt`
            base, _, variant = key.rpartition(".")
            if base and variant[:1].isalpha():
                self._variants[folder, base].append(path)

    def beside(self, folder: Path, names: list[str]) -> list[Path]:
        """Files of the folder with one of these names; those with a longer name only if none."""
        for index in (self._exact, self._variants):
            matches = [path for name in names for path in index.get((folder, name), ())]
            if matches:
                return matches
        return []

    def anywhere(self, names: list[str]) -> Iterator[Path]:
        """Files of any folder with one of these names."""
        for name in names:
            yield from self._anywhere.get(name, ())

    def has_folders_without(self, homes: set[Path]) -> bool:
        """Whether a folder of transcripts has no recordings."""
        return not self._folders <= homes


def _names(path: Path) -> list[str]:
    """What the transcript of a recording may be called, without its ending: `a`, and `a.wav`."""
    names, inner = [_folded(path.stem), _folded(path.name)], Path(path.stem)
    # Kaggle's TIMIT has `SA1.WAV.wav` beside `SA1.TXT`.
    return [*names, _folded(inner.stem)] if inner.suffix.lower() in AUDIO_ENDINGS else names


def _folded(name: str) -> str:
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold()


def _are_parallel(first: Path, second: Path) -> bool:
    """Whether two folders are the same but for one name, which one of them may lack."""
    a, b = first.parts, second.parts
    start = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                 min(len(a), len(b)))  # fmt: skip
    a, b = a[start:], b[start:]
    end = next((n for n, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y),
               min(len(a), len(b)))  # fmt: skip
    return max(len(a), len(b)) - end <= 1
