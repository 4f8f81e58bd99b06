"""What became of each recording of an import: all of them are counted once."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecordingCounts:
    """Every recording of the folder and of the rows, once.

    Attributes:
        total: the sum of the four others.
        used: with an utterance in the manifest.
        left_out: with rows, none of which can be used.
        without_transcript: with rows, none of which has a text.
        in_no_row: of the folder, but in no row.
        names: of those without a transcript or in no row, in the folder; sorted.
    """

    total: int
    used: int
    left_out: int
    without_transcript: int
    in_no_row: int
    names: tuple[str, ...]

    def summary(self) -> str:
        """`100 recordings: 97 used, 2 left out, 1 without a transcript`."""
        parts = [f"{self.used:,} used"]
        for count, name in (
            (self.left_out, "left out"),
            (self.without_transcript, "without a transcript"),
            (self.in_no_row, "in no row"),
        ):
            if count:
                parts.append(f"{count:,} {name}")
        return f"{self.total:,} recordings: {', '.join(parts)}"


def count_recordings(
    folder: Path,
    recordings: Collection[Path],
    used: Collection[Path],
    left_out: Collection[Path],
    without_text: Collection[Path],
) -> RecordingCounts:
    """Count recordings by the best thing that became of any of their rows.

    Args:
        recordings: of the folder; all paths are resolved.
        used, left_out, without_text: recordings of the rows, by what became of them.
    """
    home = folder.resolve()
    kept, bad = set(used), set(left_out)
    bad -= kept
    silent = set(without_text) - kept - bad
    unlisted = set(recordings) - kept - bad - silent
    names = (
        str(path.relative_to(home)) if path.is_relative_to(home) else str(path)
        for path in sorted(silent | unlisted)
    )
    return RecordingCounts(
        total=len(kept) + len(bad) + len(silent) + len(unlisted),
        used=len(kept),
        left_out=len(bad),
        without_transcript=len(silent),
        in_no_row=len(unlisted),
        names=tuple(names),
    )
