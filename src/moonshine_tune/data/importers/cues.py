"""Long recordings with cues beside them: SubRip, WebVTT and TextGrid files, cut at the cues.

pysubs2 reads the subtitles and praatio the TextGrids, both small and without dependencies that are
not here already.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pysubs2
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier
from praatio.utilities.errors import PraatioException

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.importers.tables import Row, Source, decoded

CUE_ENDINGS = (".srt", ".vtt", ".textgrid")
# Cues are timed by hand: so much of an overlap is no sign that a time is wrong.
_OVERLAP_S = 0.05
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_USUAL_TIERS = ("utterances", "utterance", "sentences", "sentence", "text", "transcript",
                "transcription", "phrases", "phrase")  # fmt: skip


@dataclass(frozen=True)
class Cue:
    """A span of a recording with what is said in it; seconds."""

    number: int
    start: float
    end: float
    text: str
    speaker: str | None = None


def rows_beside_cues(
    folder: Path, audio: Sequence[Path], *, tier: str | None = None
) -> Source | None:
    """A row for each cue of the cue files beside recordings; None where no recording has one.

    A cue that ends before it begins, or that overlaps the one before it, becomes a row with a
    problem: what is heard in it would not be its text.

    Raises:
        RequestError: a cue file cannot be read, or has no tier that can be taken for the texts.
    """
    rows: list[Row] = []
    found = 0
    for path in audio:
        file = _beside(path)
        if file is not None:
            found += 1
            rows += _rows_of(path, file, tier)
    description = f"{len(rows)} cues beside {found} of {len(audio)} recordings"
    return Source(description, folder, tuple(rows)) if found else None


def _beside(path: Path) -> Path | None:
    """The cue file of a recording: the same name with another ending, in any case."""
    for ending in CUE_ENDINGS:
        for spelled in (ending, ending.upper(), ".TextGrid" if ending == ".textgrid" else ending):
            file = path.with_suffix(spelled)
            if file.is_file():
                return file
    return None


def _rows_of(audio: Path, file: Path, tier: str | None) -> Iterator[Row]:
    cues = read_cues(file, tier=tier)
    if not cues:
        yield Row(str(file), str(audio), problem="no cue with a text")
    last = 0.0
    for cue in cues:
        place = f"{file}, cue {cue.number}"
        problem = None
        if cue.end <= cue.start:
            problem = f"ends at {cue.end:g} s, and begins at {cue.start:g} s"
        elif cue.start < last - _OVERLAP_S:
            problem = f"begins at {cue.start:g} s, and the cue before it ends at {last:g} s"
        values = {
            "id": f"{audio.stem}-{cue.number:05d}",
            "start": max(cue.start, 0.0),
            "end": cue.end,
            "text": cue.text,
            "session": audio.stem,
        }
        if cue.speaker:
            values["speaker"] = cue.speaker
        yield Row(place, str(audio), values, problem=problem)
        last = max(last, cue.end)


def read_cues(file: Path, *, tier: str | None = None) -> list[Cue]:
    """The cues of a file that have a text, in its order.

    Raises:
        RequestError: not such a file, not text, or no such tier.
    """
    if file.suffix.lower() == ".textgrid":
        return _textgrid(file, tier)
    content = decoded(file)
    # WebVTT names voices in tags, which the reader would drop.
    voices = _VOICE.sub(lambda match: f"\u2063{match.group(1).strip()}\u2063", content)
    try:
        events = pysubs2.SSAFile.from_string(voices, format_=file.suffix.lower()[1:]).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise RequestError(
            f"cannot be read as cues ({error or type(error).__name__})",
            where=file,
            hint="save it again as SubRip (.srt) or WebVTT (.vtt)",
        ) from error
    cues = []
    for number, event in enumerate(events, start=1):
        _, mark, rest = event.plaintext.partition("\u2063")
        speaker, _, text = rest.partition("\u2063") if mark else ("", "", event.plaintext)
        spoken = " ".join(_TAG.sub("", text).replace("\u2063", " ").split())
        if spoken:
            cues.append(Cue(number, event.start / 1000, event.end / 1000, spoken, speaker or None))
    return cues


def _textgrid(file: Path, tier: str | None) -> list[Cue]:
    try:
        grid = textgrid.openTextgrid(str(file), includeEmptyIntervals=False)
    except (PraatioException, ValueError, IndexError, KeyError, OSError, AssertionError) as error:
        raise RequestError(
            f"cannot be read as a TextGrid ({error or type(error).__name__})",
            where=file,
            hint="open it in Praat and save it again as a text file, in UTF-8",
        ) from error
    tiers = {
        name: grid.getTier(name)
        for name in grid.tierNames
        if isinstance(grid.getTier(name), IntervalTier)
    }
    wanted = tier or next(
        (name for name in tiers if name.lower() in _USUAL_TIERS),
        next(iter(tiers)) if len(tiers) == 1 else None,
    )
    if wanted not in tiers:
        what = f"no interval tier is called {tier!r}" if tier else "which tier holds the texts?"
        raise RequestError(
            f"{what} Its tiers: {', '.join(tiers) or 'none'}",
            where=file,
            hint="name it with: --tier NAME",
        )
    return [
        Cue(number, float(entry.start), float(entry.end), " ".join(entry.label.split()))
        for number, entry in enumerate(tiers[wanted].entries, start=1)
        if entry.label.strip()
    ]
