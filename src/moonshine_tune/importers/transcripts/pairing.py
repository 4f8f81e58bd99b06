"""Which transcript file belongs to which recording: by their names and folders alone."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.io import AUDIO_ENDINGS

# Folders that divide a corpus by kind of file, and not by person or session.
_KIND_WORDS = """
    audio audios clip clips flac flacs mp3 ogg record recorded recording recordings sound sounds
    speech voice wav wave waves wavs
    align aligned alignment alignments annotation annotations caption captions eaf elan json lab
    label labels labs praat prompt prompts script scripts srt subtitle subtitles text textgrid
    textgrids texts trans transcript transcription transcriptions transcripts trn txt txts vtt
"""
_KINDS = frozenset(_KIND_WORDS.split())


@dataclass(frozen=True)
class Pairing:
    """Transcript files of recordings.

    Attributes:
        files: recording → its files; a recording without any is not a key.
        shared: recording → a file that several recordings of different folders could have.
        elsewhere: pairs of folders, of recordings and of their transcripts, that differ.
        doubtful: such pairs that may be of two people: their files are not paired.
    """

    files: dict[Path, list[Path]]
    shared: dict[Path, Path]
    elsewhere: tuple[tuple[Path, Path], ...]
    doubtful: tuple[tuple[Path, Path], ...] = ()


def pair(
    recordings: Collection[Path],
    files: Collection[Path],
    endings: Collection[str],
    named: str | None = None,
) -> Pairing:
    """Transcripts of recordings: beside them, else in a folder of transcripts.

    Names count without endings, in any case: `SA1.WAV` and `sa1.txt`, `a.wav` and `a.wav.srt`,
    `a.wav` and `a.en.vtt`. Folders count as parallel where their paths differ in one name that says
    what kind of files they have (`wav/1` and `txt/1`), or where one is inside of the other; a
    folder that has recordings holds the transcripts of these alone. Two folders of other names
    (`anna` and `ben`) may hold two people's files of the same names.

    Args:
        named: a folder that the user has named as that of transcripts.
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
    doubtful: dict[tuple[Path, Path], None] = {}
    if missing and index.has_folders_without(homes):
        for path, names in missing:
            folder = path.parent
            for file in index.anywhere(names):
                home = file.parent
                if home in homes or (difference := _difference(folder, home)) is None:
                    continue
                if home.name == named or _are_kinds(*difference):
                    claims[file].append(path)
                else:
                    doubtful[folder, home] = None
    # A recording with a transcript beside it may have the same name in a parallel folder.
    rivals: dict[Path, set[Path]] = defaultdict(set)
    for path in paired if claims else ():
        for file in index.anywhere(_names(path)):
            if file in claims and _difference(path.parent, file.parent) is not None:
                rivals[file].add(path.parent)
    shared: dict[Path, Path] = {}
    elsewhere: dict[tuple[Path, Path], None] = {}
    for file, claimants in claims.items():
        if len({path.parent for path in claimants} | rivals[file]) > 1:
            shared |= dict.fromkeys(claimants, file)
            continue
        for path in claimants:
            paired.setdefault(path, []).append(file)
            elsewhere[path.parent, file.parent] = None
    return Pairing(paired, shared, tuple(elsewhere), tuple(doubtful))


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


def _difference(first: Path, second: Path) -> tuple[str, str] | None:
    """The one name in which two folders differ, which one of them may lack; None if in more."""
    a, b = first.parts, second.parts
    start = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                 min(len(a), len(b)))  # fmt: skip
    a, b = a[start:], b[start:]
    end = next((n for n, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y),
               min(len(a), len(b)))  # fmt: skip
    a, b = a[: len(a) - end], b[: len(b) - end]
    return ("".join(a), "".join(b)) if max(len(a), len(b)) <= 1 else None


def _are_kinds(first: str, second: str) -> bool:
    """Whether two names of folders say the kind of their files, and nothing else that differs."""
    if not first or not second:
        return True
    words = [re.findall(r"[^\W\d_]+|\d+", name.casefold()) for name in (first, second)]
    others = [[word for word in name if word not in _KINDS] for name in words]
    return words != others and (not all(others) or others[0] == others[1])
