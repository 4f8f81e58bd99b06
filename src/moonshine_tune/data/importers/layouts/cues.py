"""Long recordings with cues beside them (SubRip, WebVTT, TextGrid), cut at the cues.

pysubs2 reads the subtitles and praatio the TextGrids.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pysubs2
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier
from praatio.utilities.errors import PraatioException

from moonshine_tune.core.errors import RequestError
from moonshine_tune.data.importers.base import Importer, ImportSource, Row, Rows, read_text

_ENDINGS = (".srt", ".vtt", ".textgrid")
# Cues are timed by hand: a smaller overlap is no sign of a wrong time.
_OVERLAP_S = 0.05
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_SEPARATOR = "\u2063"
_USUAL_TIERS = ("utterances", "utterance", "sentences", "sentence", "text", "transcript",
                "transcription", "phrases", "phrase")  # fmt: skip


@dataclass(frozen=True)
class Cue:
    """A span of a recording in seconds, with its text."""

    number: int
    start: float
    end: float
    text: str
    speaker: str | None = None


def _recognizes(source: ImportSource) -> bool:
    return any(_cue_file(path) for path in source.recordings)


def _read(source: ImportSource) -> Rows:
    """A row for each cue.

    A cue that ends before it starts, or that overlaps the one before it, becomes a row with a
    problem: its text would not match its audio.
    """
    rows: list[Row] = []
    count = 0
    for path in source.recordings:
        file = _cue_file(path)
        if file is not None:
            count += 1
            rows += _rows_of(path, file, source.request.tier)
    description = f"{len(rows)} cues beside {count} of {len(source.recordings)} recordings"
    return Rows(description, source.folder, tuple(rows))


def _cue_file(path: Path) -> Path | None:
    """The cue file of a recording: the same name with another ending, in any case."""
    for ending in _ENDINGS:
        for spelled in (ending, ending.upper(), ".TextGrid" if ending == ".textgrid" else ending):
            file = path.with_suffix(spelled)
            if file.is_file():
                return file
    return None


def _rows_of(audio: Path, file: Path, tier: str | None) -> Iterator[Row]:
    cues = read_cues(file, tier=tier)
    if not cues:
        yield Row(str(file), str(audio), problem="no cue with a text")
    last_end = 0.0
    for cue in cues:
        problem = None
        if cue.end <= cue.start:
            problem = f"ends at {cue.end:g} s, but starts at {cue.start:g} s"
        elif cue.start < last_end - _OVERLAP_S:
            problem = f"starts at {cue.start:g} s, but the cue before it ends at {last_end:g} s"
        values = {
            "id": f"{audio.stem}-{cue.number:05d}",
            "start": max(cue.start, 0.0),
            "end": cue.end,
            "text": cue.text,
            "session": audio.stem,
        }
        if cue.speaker:
            values["speaker"] = cue.speaker
        yield Row(f"{file}, cue {cue.number}", str(audio), values, problem=problem)
        last_end = max(last_end, cue.end)


def read_cues(file: Path, *, tier: str | None = None) -> list[Cue]:
    """The cues of a file that have a text, in its order.

    Raises:
        RequestError: not such a file, not text, or no such tier.
    """
    if file.suffix.lower() == ".textgrid":
        return _textgrid(file, tier)
    # WebVTT names voices in tags, which pysubs2 drops.
    content = _VOICE.sub(
        lambda match: f"{_SEPARATOR}{match.group(1).strip()}{_SEPARATOR}", read_text(file)
    )
    try:
        events = pysubs2.SSAFile.from_string(content, format_=file.suffix.lower()[1:]).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError) as error:
        raise RequestError(
            f"cannot be read as cues ({error or type(error).__name__})",
            where=file,
            hint="save it again as SubRip (.srt) or WebVTT (.vtt)",
        ) from error
    cues = []
    for number, event in enumerate(events, start=1):
        _, mark, rest = event.plaintext.partition(_SEPARATOR)
        speaker, _, text = rest.partition(_SEPARATOR) if mark else ("", "", event.plaintext)
        text = " ".join(_TAG.sub("", text).replace(_SEPARATOR, " ").split())
        if text:
            cues.append(Cue(number, event.start / 1000, event.end / 1000, text, speaker or None))
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
        problem = f"no interval tier is called {tier!r}." if tier else "which tier has the texts?"
        raise RequestError(
            f"{problem} Its tiers: {', '.join(tiers) or 'none'}",
            where=file,
            hint="name it with: --tier NAME",
        )
    return [
        Cue(number, float(entry.start), float(entry.end), " ".join(entry.label.split()))
        for number, entry in enumerate(tiers[wanted].entries, start=1)
        if entry.label.strip()
    ]


IMPORTER = Importer("cues", 70, _recognizes, _read)
