"""Lines with times: label tracks of Audacity, HTK and TIMIT, and lines such as `[01:15] text`.

The numbers alone do not say what they are: `0 46797 She had` are samples, `0 5 1` may be spoken
digits. Their length, their order and the length of the recording decide; where they do not, the
import stops.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.importers.transcripts.cue import Cue

# Seconds of each unit; samples depend on the recording.
UNITS: Mapping[str, float | None] = {
    "seconds": 1.0, "milliseconds": 1e-3, "samples": None, "100ns": 1e-7,
}  # fmt: skip
WORDS = "none"
_NUMBER = r"(-?\d+(?:[.,]\d+)?)"
_LINE = re.compile(
    rf"\s*[\[(]?\s*{_NUMBER}(\t|\s+|\s*(?:-->|[-–—])\s*){_NUMBER}\s*[\])]?:?(?:(\t|\s+)(.*))?\s*"
)
# With commas or semicolons, numbers must have fractions: `1, 2, 3` is counting.
_CSV_LINE = re.compile(r"\s*(\d+\.\d+)\s*[;,|]\s*(\d+\.\d+)\s*[;,|]\s*(.*)")
# What two times and some columns look like in a form that is not known.
_TIME = re.compile(r"(?<![\d.:])\d+[.,:]\d+")
_TWO_FRACTIONS = re.compile(r"\s*[\[(]?\d+[.]\d+[\s,;|–—-]+\d+[.]\d+\b")
_TAG_LINE = re.compile(r"\s*\[[a-z#]+:.*\]\s*", re.IGNORECASE)
_CLOCK = r"(?:(\d{1,2}):)?(\d{1,3}):(\d{2})(?:[.,:](\d{1,3}))?"
_CLOCK_LINE = re.compile(
    rf"\s*([\[(<{{]*)\s*{_CLOCK}\s*[\])>}}]*(?:\s*(?:-->|[-–—,]|to)\s*[\[(]?{_CLOCK}\s*[\])]?)?"
    r"\s*[-–—:|]?\s*(.*)"
)
# `Anna  0:03` above what Anna says.
_SPEAKER_LINE = re.compile(rf"\s*([^\d\[\]():.!?]{{1,40}}?(?:\s\d{{1,2}})?)[\s,(]+{_CLOCK}\)?:?\s*")
# A name or two, without a mark at its end.
_NAME_ALONE = re.compile(r"[^\W\d_][\w'’-]*\.?(?: [\w'’-]+\.?){0,2}:?")
_SLACK_S = 0.25
# Letters a second: nobody speaks faster.
_FASTEST = 40.0
# An alignment names few words a line.
_NEAR_END = (0.9, 1.05)
_LEAST_LARGE_NUMBER = 1000.0
_SHARE_OF_LINES = 0.8
_MANY_TEXTS = 20


@dataclass(frozen=True)
class LabelLine:
    """Line number, the two numbers, whether a tab separates them, and the rest."""

    number: int
    start: float
    end: float
    has_fraction: bool
    has_tab: bool
    text: str


@dataclass(frozen=True)
class LabelTrack:
    """A file whose lines begin with two numbers, which are times or words.

    Attributes:
        seconds, rate: of the recording; 0 if its header cannot be read.
        broken: numbers of the lines that do not have this form.
    """

    file: Path
    lines: tuple[LabelLine, ...]
    broken: tuple[int, ...]
    seconds: float
    rate: int

    def scale(self, unit: str) -> float:
        """Seconds of the unit."""
        return UNITS[unit] or 1 / (self.rate or 1)

    def cues(self, unit: str) -> list[Cue]:
        """The lines as cues."""
        scale = self.scale(unit)
        return [
            Cue(line.number, round(line.start * scale, 6), round(line.end * scale, 6), line.text)
            for line in self.lines
        ]

    def units(self) -> list[str]:
        """Units in which the numbers can be times of spoken words in this recording."""
        return [unit for unit in UNITS if self._fits(unit)]

    def _fits(self, unit: str) -> bool:
        if unit != "seconds" and any(line.has_fraction for line in self.lines):
            return False
        scale, last = self.scale(unit), 0.0
        letters = spoken = 0.0
        for line in self.lines:
            start, end = line.start * scale, line.end * scale
            if not 0 <= start <= end or start < last or (unit != "seconds" and start == end):
                return False
            if self.seconds and end > self.seconds + _SLACK_S:
                return False
            last = start
            if end > start:
                letters += sum(map(str.isalnum, line.text))
                spoken += end - start
        return letters <= _FASTEST * spoken or (spoken == 0 and unit == "seconds")

    def certain_unit(self) -> str | None:
        """The unit, if the numbers are times beyond doubt."""
        units = self.units()
        if len(units) != 1:
            return None
        unit, count = units[0], len(self.lines)
        end = self.lines[-1].end * self.scale(unit)
        lowest, highest = _NEAR_END
        is_complete = lowest * self.seconds <= end <= highest * self.seconds
        has_columns = all(line.has_tab and "\t" not in line.text for line in self.lines)
        has_words = any(character.isalpha() for line in self.lines for character in line.text)
        if all(line.has_fraction for line in self.lines):
            is_certain = count > 1 or has_columns or is_complete
        elif self.lines[-1].end >= _LEAST_LARGE_NUMBER:
            is_certain = count > 1 or is_complete
        else:
            is_certain = has_words and count > 1 and (has_columns or count > 2)
        return unit if is_certain else None

    def is_never_words(self) -> bool:
        """Whether the lines are a table of numbers, times or not."""
        has_columns = all(line.has_tab and "\t" not in line.text for line in self.lines)
        return all(line.has_fraction for line in self.lines) and (
            has_columns or len(self.lines) > 2
        )


def label_track(file: Path, content: str) -> LabelTrack | None:
    """The lines of a file, if nearly all begin with two numbers; its recording is not known yet."""
    lines: list[LabelLine] = []
    broken: list[int] = []
    for number, line in enumerate(content.splitlines(), start=1):
        # Audacity writes the frequencies of a label into a line of its own; Fisher and STM have
        # comments.
        if not line.strip() or line.startswith(("\\", "#", ";;")):
            continue
        if (match := _LINE.fullmatch(line)) is not None:
            first, between, second, after, text = match.groups()
        elif (match := _CSV_LINE.fullmatch(line)) is not None:
            first, second, text = match.groups()
            between = after = "\t"
        else:
            broken.append(number)
            continue
        lines.append(
            LabelLine(
                number,
                float(first.replace(",", ".")),
                float(second.replace(",", ".")),
                has_fraction=not (first + second).isdecimal(),
                has_tab=between == "\t" and after in ("\t", None),
                text=(text or "").strip(),
            )
        )
    if not lines or len(lines) < _SHARE_OF_LINES * (len(lines) + len(broken)):
        return None
    if broken and not all(line.has_fraction for line in lines):
        return None
    return LabelTrack(file, tuple(lines), tuple(broken), 0.0, 0)


def units_of(
    tracks: Sequence[LabelTrack], wanted: str | None, num_texts: int = 0
) -> list[str | None]:
    """The unit of each track: a key of `UNITS`, `WORDS`, or None where its times are wrong.

    All files of a corpus count: where some are certainly times, doubtful ones are too; numbers that
    are no times in many files are words, as are those of a few texts among many that begin with
    words.

    Args:
        wanted: the unit that the user names.
        num_texts: number of the other files with a text.

    Raises:
        RequestError: the numbers may be times or words, and the user has not chosen.
    """
    if wanted is not None:
        return [wanted] * len(tracks)
    certain = [track.certain_unit() for track in tracks]
    known = {unit for unit in certain if unit}
    possible = [track.units() for track in tracks]
    units: list[str | None] = []
    impossible = sum(not options for options in possible)
    are_words = 3 * impossible >= len(tracks) or num_texts >= _MANY_TEXTS * len(tracks)
    for track, sure, options in zip(tracks, certain, possible, strict=True):
        shared = [unit for unit in options if unit in known]
        if sure:
            units.append(sure)
        elif len(shared) == 1:
            units.append(shared[0])
        elif not options and (known or track.is_never_words()):
            units.append(None)
        elif not options or (not known and are_words):
            units.append(WORDS)
        else:
            raise _ambiguous(track, options)
    return units


def _ambiguous(track: LabelTrack, options: list[str]) -> RequestError:
    line = track.lines[0]
    unit = options[0]
    start, end = line.start * track.scale(unit), line.end * track.scale(unit)
    text = f"{line.start:g} {line.end:g} {line.text}"
    choices = ", or ".join(f"--times {name}" for name in options)
    return RequestError(
        f"two numbers begin the text: {text[:60]!r} may be words, or the span from {start:g} to "
        f"{end:g} s with the text {line.text[:60]!r}",
        where=track.file,
        line=line.number,
        hint=f"choose: --times {WORDS} if they are words, {choices} if they are times",
    )


def is_table_of_times(content: str) -> bool:
    """Whether nearly all of several lines have two times and tabs, or two begin with two fractions.

    No sentences do.
    """
    lines = [line for line in content.splitlines() if line.strip()]
    count = sum(line.count("\t") > 1 and len(_TIME.findall(line)) > 1 for line in lines)
    if count > 1 and count >= _SHARE_OF_LINES * len(lines):
        return True
    return sum(_TWO_FRACTIONS.match(line) is not None for line in lines) > 1


def clock_cues(content: str) -> list[Cue] | None:
    """The cues of lines such as `[01:15] text`, which end where the next begins; None if not such.

    A text may be in the lines below its time. One line without brackets is no such file:
    `12:30 is fine` is a text.
    """
    cues: list[_ClockCue] = []
    has_brackets = False
    for line in content.splitlines():
        if not line.strip() or (not cues and _TAG_LINE.fullmatch(line)):
            continue
        speaker = _SPEAKER_LINE.fullmatch(line)
        match = _CLOCK_LINE.fullmatch(line)
        if speaker is not None:
            start = _clock(speaker.groups()[1:5])
            cues.append(_ClockCue(start, None, [], speaker.group(1).strip()))
        elif match is not None:
            groups = match.groups()
            has_brackets |= bool(groups[0])
            end = _clock(groups[5:9]) if groups[6] is not None else None
            cues.append(_ClockCue(_clock(groups[1:5]), end, [groups[9]], None))
        elif not cues:
            return None
        else:
            cues[-1].lines.append(line)
    starts = [cue.start for cue in cues]
    if not cues or starts != sorted(starts) or not (has_brackets or len(cues) > 1):
        return None
    _name_speakers(cues)
    # `Meet me at 1:30` is no speaker with a time.
    if 2 * sum(not any(map(str.strip, cue.lines)) for cue in cues) > len(cues):
        return None
    following = [*starts[1:], None]
    return [
        Cue(
            number,
            cue.start,
            following[number - 1] if cue.end is None else cue.end,
            " ".join(cue.lines),
            cue.speaker,
        )
        for number, cue in enumerate(cues, start=1)
    ]


@dataclass
class _ClockCue:
    """A time, and the lines up to the next one."""

    start: float
    end: float | None
    lines: list[str]
    speaker: str | None


def _name_speakers(cues: Sequence[_ClockCue]) -> None:
    """Take `Anna` of `[00:03] Anna` for the speaker of the lines below.

    Where all cues are such, and a name comes again: a first line may be short by chance.
    """
    own = [cue for cue in cues if cue.speaker is None]
    names = {cue.lines[0].strip() for cue in own}
    if 1 < len(names) < len(own) and all(
        any(map(str.strip, cue.lines[1:])) and _NAME_ALONE.fullmatch(cue.lines[0].strip())
        for cue in own
    ):
        for cue in own:
            cue.speaker = cue.lines.pop(0).strip().rstrip(":")


def _clock(groups: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = groups
    whole_seconds = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return whole_seconds + float(f"0.{fraction or 0}")
