"""Which column of a table has which role: as the user named it, by its name, or by its content.

Content decides where one reading is certain. Where two remain, the import stops and shows both.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import AUDIO_ENDINGS
from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.importers.base import ColumnNames
from moonshine_tune.importers.times import seconds_of_cell

# Common names of columns, the likeliest first; compared without case, spaces, "_" and "-".
_NAMES = {
    "audio": ("audio", "audiofilepath", "audiopath", "audiofile", "audiofilename", "path", "file",
              "filepath", "filename", "wav", "wavpath", "wavfile", "wavfilename", "recording",
              "clip"),
    "text": ("text", "transcript", "transcription", "sentence", "rawtranscription",
             "normalizedtext", "utterance", "reference", "words", "prompt"),
    "speaker": ("speaker", "speakerid", "speakername", "clientid", "spk", "spkid", "reader",
                "readerid", "userid", "user", "who", "voice"),
    "id": ("id", "uttid", "utteranceid", "uid"),
    "start": ("start", "starttime", "offset", "begin", "onset", "startms", "startsec"),
    "end": ("end", "endtime", "stop", "endms", "endsec"),
    "duration": ("duration", "durationms", "durationsec"),
    "language": ("language", "locale", "lang"),
    "split": ("split", "subset"),
    "session": ("session", "sessionid"),
}  # fmt: skip
_KNOWN = frozenset(name for names in _NAMES.values() for name in names)
# Names of text columns that other fields have too: their content must be words.
_WEAK_TEXT_NAMES = ("utterance", "reference", "words", "prompt")
# Names of the transcript itself; the others are a version of it, or what was to be read.
_TRANSCRIPT_NAMES = ("text", "transcript", "transcription", "sentence", "reference")
# Words for the two ends of a span in names such as `start_sample` and `end_sample`.
_FIRST = frozenset(("start", "begin", "beginning", "from", "onset", "tmin", "xmin"))
_LAST = frozenset(("end", "stop", "to", "until", "finish", "tmax", "xmax"))
_LEAST_WORDS = 4  # a column of speakers with phrases of so many words has no names
TIMES = ("start", "end", "duration")
_SAMPLED_ROWS = 1000
_LANGUAGES = """
    ar bg bn ca cs da de el en es et fa fi fr gu he hi hr hu hy id is it ja jp ka kk ko kr
    lt lv mk ml mn mr ms ne nl no pa pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur uz
    vi yue zh cmn eng deu ger fra fre spa ita jpn kor zho rus por english german french
    spanish italian japanese korean chinese russian portuguese all_zh all_ja all_ko all_yue
    auto
"""
_LANGUAGE_CODES = frozenset(_LANGUAGES.split())
_PERSON = re.compile(r"spk|speaker|reader|voice|narrator|talker|client", re.IGNORECASE)
_TEXT_FILE = re.compile(r"\.(txt|lab|trn|json|textgrid|srt|vtt)$", re.IGNORECASE)


def simple_name(name: str) -> str:
    """A name of a column without case, spaces, "_" and "-"."""
    return "".join(character for character in name.casefold() if character not in " _-")


def num_known_names(cells: Sequence[str]) -> int:
    """Number of cells that are common names of columns."""
    return sum(simple_name(cell.strip().strip('"')) in _KNOWN for cell in cells)


def is_audio_name(cell: object, stems: Collection[str]) -> bool:
    """Whether a cell names a recording: by its ending, or as one of `stems` (without ending)."""
    if not isinstance(cell, str):
        return False
    name = cell.strip().replace("\\", "/").rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    if dot and stem and f".{ending.lower()}" in AUDIO_ENDINGS:
        return True
    return bool(name) and name in stems


def choose_columns(
    heading: Sequence[str],
    names: ColumnNames,
    path: Path,
    *,
    want_text: bool,
    records: Sequence[Mapping[str, Any]] = (),
    stems: Collection[str] = (),
) -> dict[str, str]:
    """Field of the manifest → column: as the user named it, else by common names.

    Args:
        records: rows of the table, against which names are checked; without any, names decide.
        stems: names of recordings without their endings.

    Raises:
        RequestError: a named column does not exist, none is likely for audio (or text), or the
            content contradicts a name and another column would fit.
    """
    by_simple = {simple_name(name): name for name in reversed(heading)}
    columns: dict[str, str] = {}
    for field, known in _NAMES.items():
        named = named_column(heading, getattr(names, field, None), path)
        guess = next((by_simple[name] for name in known if name in by_simple), None)
        if named is not None:
            columns[field] = named
        elif guess is not None and guess not in columns.values():
            columns[field] = guess
    if by_simple.keys() >= {"onset", "offset"} and columns.get("start") == by_simple["offset"]:
        columns |= {"start": by_simple["onset"], "end": by_simple["offset"]}
    profiles = column_profiles(heading, records, stems)
    if not {"start", "end"} & columns.keys():
        columns |= _span_by_names(heading, columns, profiles)
    for field in ("audio", "text") if want_text else ("audio",):
        if field not in columns:
            raise RequestError(
                f"no column looks like {field}; the columns are: {', '.join(heading)}",
                where=path,
                hint=_naming_hint(field, columns, profiles),
            )
    _check_content(columns, names, path, profiles, want_text=want_text)
    return columns


def other_texts(columns: Mapping[str, str], heading: Sequence[str]) -> list[str]:
    """A sentence on each column that is called like a transcript and is not the one."""
    return [
        f"column {name!r} is kept as a field; if it is the transcript: --text-column "
        + quoted(name)
        for name in heading
        if simple_name(name) in _NAMES["text"] and name not in columns.values()
    ]


def named_column(heading: Sequence[str], name: str | None, path: Path) -> str | None:
    """The column that the user named, by its name or its number."""
    if name is None or name in heading:
        return name
    if name.isdecimal() and 1 <= int(name) <= len(heading):
        return heading[int(name) - 1]
    raise RequestError(
        f"no column is called {name!r}", where=path, hint=f"its columns: {', '.join(heading)}"
    )


# --- content


@dataclass(frozen=True)
class _Profile:
    """What the cells of a column are, in a sample of the rows; looked at when it is asked.

    Attributes:
        values: the cells that are not empty.
        stems: names of recordings without their endings.
    """

    values: tuple[Any, ...]
    stems: Collection[str]

    @cached_property
    def num_files(self) -> int:
        return sum(is_audio_name(value, ()) for value in self.values)

    @cached_property
    def num_audio(self) -> int:
        return sum(is_audio_name(value, self.stems) for value in self.values)

    @cached_property
    def num_phrases(self) -> int:
        return sum(_is_phrase(value) for value in self.values)

    @property
    def distinct(self) -> int:
        return len({str(value) for value in self.values})

    @property
    def repeats(self) -> bool:
        """Whether few values repeat: a speaker, a tag, or prompts that many people read."""
        return 2 * self.distinct <= len(self.values) and len(self.values) > 1

    @property
    def is_file(self) -> bool:
        """Whether the cells have endings of recordings."""
        return self.num_files > 0.8 * len(self.values) > 0

    @property
    def is_audio(self) -> bool:
        """Whether the cells name recordings, with endings or without."""
        return self.num_audio > 0.8 * len(self.values) > 0

    @cached_property
    def is_time(self) -> bool:
        return bool(self.values) and all(
            seconds_of_cell(value) is not None for value in self.values
        )

    @property
    def is_integer(self) -> bool:
        return bool(self.values) and all(str(value).strip().isdecimal() for value in self.values)

    @property
    def is_language(self) -> bool:
        codes = {str(value).strip().casefold() for value in self.values}
        return 0 < len(codes) <= 8 and all(
            code in _LANGUAGE_CODES or re.split("[-_]", code)[0] in _LANGUAGE_CODES
            for code in codes
        )

    @property
    def is_phrases(self) -> bool:
        """Whether most cells have several words, or a script without spaces."""
        return 2 * self.num_phrases > len(self.values) and not self.is_file

    @property
    def is_sentences(self) -> bool:
        """Whether most cells have more words than a name."""
        long = sum(len(str(value).split()) >= _LEAST_WORDS for value in self.values)
        return 2 * long > len(self.values)

    @cached_property
    def words(self) -> list[str]:
        """The words of each cell, however they are written."""
        return [" ".join(re.findall(r"\w+", str(value).casefold())) for value in self.values]

    def shown(self) -> str:
        """The first values, for a message."""
        values = list(dict.fromkeys(str(value).strip() for value in self.values))
        cut = [value if len(value) <= 40 else value[:37] + "…" for value in values[:3]]
        return ", ".join(repr(value) for value in cut)


def column_profiles(
    heading: Sequence[str], records: Sequence[Mapping[str, Any]], stems: Collection[str] = ()
) -> dict[str, _Profile]:
    """What the columns hold, in a sample of the records."""
    sample = records[:: max(1, len(records) // _SAMPLED_ROWS)]
    return {name: _profile([record.get(name) for record in sample], stems) for name in heading}


def _profile(cells: Sequence[Any], stems: Collection[str]) -> _Profile:
    values = tuple(cell for cell in cells if cell is not None and str(cell).strip())
    return _Profile(values, stems)


def _is_phrase(value: object) -> bool:
    """Whether a cell has two words or more, or some characters of a script without spaces."""
    if not isinstance(value, str) or seconds_of_cell(value) is not None:
        return False
    words = [word for word in value.split() if any(map(str.isalpha, word))]
    return len(words) >= 2 or (
        not value.isascii() and sum(character >= "\u0e00" for character in value) >= 2
    )


def _naming_hint(field: str, columns: Mapping[str, str], profiles: Mapping[str, _Profile]) -> str:
    """The flags that name the columns that fit by content, or how to name one."""
    free = [name for name in profiles if name not in columns.values() and len(profiles) > 1]
    fits = {
        "audio": [name for name in free if profiles[name].is_audio],
        "text": [name for name in free if profiles[name].is_phrases],
    }
    proposal = fits[field][0] if len(fits[field]) == 1 else "NAME"
    hint = f"name it with --{field}-column {quoted(proposal)}"
    if field == "audio" and "text" not in columns and len(fits["text"]) == 1:
        hint += f" --text-column {quoted(fits['text'][0])}"
    return hint + (", or import without texts: --no-text" if field == "text" else "")


def _check_content(
    columns: dict[str, str],
    names: ColumnNames,
    path: Path,
    profiles: Mapping[str, _Profile],
    *,
    want_text: bool,
) -> None:
    """Compare what names promise with what the columns hold.

    A recording column that names no recording gives way to the only one that does. Texts that are
    no words are refused where another column has words.
    """
    free = {name: profile for name, profile in profiles.items() if name not in columns.values()}
    audio = profiles[columns["audio"]]
    if names.audio is None and audio.values and not audio.num_audio:
        others = [name for name, profile in free.items() if profile.is_audio]
        if len(others) == 1:
            columns["audio"] = others[0]
        elif others:
            _refuse_readings(path, f"column {columns['audio']!r} names no recordings", "audio",
                             {name: free[name] for name in others})  # fmt: skip
    for field in ("audio", "text", "speaker"):
        same = {
            name: profile
            for name, profile in profiles.items()
            if field in columns and simple_name(name) == simple_name(columns[field])
        }
        if len(same) > 1 and getattr(names, field) is None:
            _refuse_readings(path, "columns of the same name", field, same)
    if want_text and names.text is None:
        _check_text(columns, names, path, profiles, free)
    if "speaker" in columns and names.speaker is None:
        _check_speaker(columns["speaker"], path, profiles, free)
    if profiles[columns["audio"]].repeats:
        if "start" not in columns:
            _refuse_unnamed_times(path, free)
        elif not {"end", "duration"} & columns.keys():
            _refuse_unnamed_ends(path, columns["start"], profiles, free)


def _check_text(
    columns: Mapping[str, str],
    names: ColumnNames,
    path: Path,
    profiles: Mapping[str, _Profile],
    free: Mapping[str, _Profile],
) -> None:
    """Refuse a text column, chosen by its name, whose content is something else."""
    column = columns["text"]
    text = profiles[column]
    if text.values and all(_TEXT_FILE.search(str(value).strip()) for value in text.values):
        raise RequestError(
            f"column {column!r} has names of files ({text.shown()}), not transcripts",
            where=path,
            hint="put the transcripts themselves into the table, or name another column with "
            "--text-column NAME",
        )
    name = simple_name(column)
    candidates: dict[str, _Profile] = {}
    if text.values and (name in _WEAK_TEXT_NAMES or text.is_time) and not text.is_phrases:
        candidates = {name: profile for name, profile in free.items() if profile.is_phrases}
    elif text.repeats:
        # A tag, such as a mood; or few sentences that many people read.
        candidates = {
            name: profile
            for name, profile in free.items()
            if not profile.repeats and profile.is_phrases
        }
        speaker = columns.get("speaker")
        if speaker and names.speaker is None and profiles[speaker].is_sentences:
            candidates[speaker] = profiles[speaker]
    elif name in _TRANSCRIPT_NAMES:
        candidates = {
            name: profile
            for name, profile in free.items()
            if simple_name(name) in _TRANSCRIPT_NAMES
            and profile.is_phrases
            and profile.words != text.words
        }
    if candidates:
        _refuse_readings(path, "more than one column may be the transcript", "text",
                         {column: text} | candidates)  # fmt: skip


def _check_speaker(
    column: str, path: Path, profiles: Mapping[str, _Profile], free: Mapping[str, _Profile]
) -> None:
    """Refuse a speaker column with another value in each row beside one of few people."""
    speaker = profiles[column]
    if speaker.distinct < len(speaker.values) or len(speaker.values) < 4:
        return
    people = {
        name: profile
        for name, profile in free.items()
        if profile.repeats and (_PERSON.search(name) or simple_name(name) in _NAMES["speaker"])
    }
    if people:
        _refuse_readings(path, "more than one column may be the speaker", "speaker",
                         {column: speaker} | people)  # fmt: skip


def _span_by_names(
    heading: Sequence[str], columns: Mapping[str, str], profiles: Mapping[str, _Profile]
) -> dict[str, str]:
    """The only two columns whose names differ in the end of a span, and that hold one."""
    words = {
        name: tuple(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
        for name in heading
        if name not in columns.values()
    }
    pairs = [
        (first, last)
        for first, before in words.items()
        for last, after in words.items()
        if _differ_in_the_end(before, after)
        and profiles[first].is_time
        and _are_spans(profiles[first], profiles[last])
    ]
    return dict(zip(("start", "end"), pairs[0], strict=True)) if len(pairs) == 1 else {}


def _differ_in_the_end(first: tuple[str, ...], last: tuple[str, ...]) -> bool:
    """Whether two names differ in one word, which is a start in one and an end in the other."""
    different = [pair for pair in zip(first, last, strict=False) if pair[0] != pair[1]]
    return (
        len(first) == len(last)
        and len(different) == 1
        and different[0][0] in _FIRST
        and different[0][1] in _LAST
    )


def _are_spans(first: _Profile, last: _Profile) -> bool:
    """Whether every value of a column is a time before that of another."""
    starts, ends = ([seconds_of_cell(value) for value in item.values] for item in (first, last))
    return len(starts) == len(ends) and all(
        start is not None and end is not None and start < end
        for start, end in zip(starts, ends, strict=True)
    )


def _refuse_readings(
    path: Path, title: str, field: str, candidates: Mapping[str, _Profile]
) -> None:
    raise ProblemsError(
        f"{path}: {title}",
        [
            f"--{field}-column {quoted(name)}: {profile.shown()}"
            for name, profile in candidates.items()
        ],
        hint="run again with one of these options",
    )


def _refuse_unnamed_times(path: Path, free: Mapping[str, _Profile]) -> None:
    """Refuse several rows of one recording beside two columns that look like start and end."""
    times = [name for name, profile in free.items() if profile.is_time]
    for first, second in pairwise(times):
        if _are_spans(free[first], free[second]) and not free[second].repeats:
            raise RequestError(
                f"the same recording has several rows, and columns {first!r} and {second!r} look "
                "like the times of a span, but their names do not say so",
                where=path,
                hint=f"call them start and end in the heading, if {second!r} is an end; start and "
                "duration, if it is a length",
            )


def _refuse_unnamed_ends(
    path: Path, start: str, profiles: Mapping[str, _Profile], free: Mapping[str, _Profile]
) -> None:
    """Refuse several rows of one recording with a start, and a column that may be its end."""
    is_whole = profiles[start].is_integer
    times = [
        name
        for name, profile in free.items()
        if profile.is_time and (is_whole or not profile.is_integer)
    ]
    if times:
        raise RequestError(
            f"the same recording has several rows with a start and no end; column {times[0]!r} "
            f"({free[times[0]].shown()}) may be one",
            where=path,
            hint=f"call {times[0]!r} end or duration in the heading, or another name that is no "
            "time, such as x",
        )


# --- tables without a heading


def columns_by_content(
    heading: Sequence[str],
    names: ColumnNames,
    path: Path,
    *,
    want_text: bool,
    records: Sequence[Mapping[str, Any]],
    stems: Collection[str],
) -> dict[str, str]:
    """Field of the manifest → column of a table without a heading, whose columns are numbers.

    Raises:
        RequestError: a named column does not exist, or no column names recordings.
        ProblemsError: two readings remain; each is shown with the options to type.
    """
    columns = {
        field: column
        for field in ("audio", "text", "speaker")
        if (column := named_column(heading, getattr(names, field), path)) is not None
    }
    decide_labels = want_text and not columns
    profiles = column_profiles(heading, records, stems)
    if "audio" not in columns:
        columns["audio"] = _audio_by_content(path, columns, profiles)
    _refuse_times(path, columns, profiles)
    if want_text and "text" not in columns:
        columns["text"] = _text_by_content(path, columns, profiles)
    if decide_labels:
        columns |= _labels_by_content(path, columns, profiles, records)
    return {field: columns[field] for field in _NAMES if field in columns}


def _audio_by_content(
    path: Path, columns: Mapping[str, str], profiles: Mapping[str, _Profile]
) -> str:
    free = {name: profile for name, profile in profiles.items() if name not in columns.values()}
    fits = [name for name, profile in free.items() if profile.is_file]
    fits = fits or [name for name, profile in free.items() if profile.is_audio]
    if len(fits) == 1 or (fits and len({free[name].values for name in fits}) == 1):
        return fits[0]
    if fits:
        _refuse_readings(path, "no heading, and more than one column names recordings", "audio",
                         {name: free[name] for name in fits})  # fmt: skip
    raise RequestError(
        "no heading, and no column names recordings; the first line is: "
        + ", ".join(str(profile.values[0]) for profile in profiles.values() if profile.values),
        where=path,
        hint="name the columns by their numbers: --audio-column 1 --text-column 2",
    )


def _refuse_times(path: Path, columns: Mapping[str, str], profiles: Mapping[str, _Profile]) -> None:
    """Refuse a table of spans: without a heading, nothing tells an end from a length."""
    times = [
        name
        for name, profile in profiles.items()
        if name not in columns.values() and profile.is_time and not profile.is_integer
    ]
    if times and (len(times) > 1 or profiles[columns["audio"]].repeats):
        shown = "; ".join(f"column {name}: {profiles[name].shown()}" for name in times)
        raise RequestError(
            f"no heading, and numbers that may be times of spans ({shown})",
            where=path,
            hint="add a first line with the names of the columns, such as file, start, end "
            "(or duration), text, speaker",
        )


def _text_by_content(
    path: Path, columns: Mapping[str, str], profiles: Mapping[str, _Profile]
) -> str:
    """The only column of different phrases; or the only other column, if no value repeats."""
    free = {
        name: profile
        for name, profile in profiles.items()
        if name not in columns.values() and profile.values
    }
    phrases = {name: profile for name, profile in free.items() if profile.is_phrases}
    different = {name: profile for name, profile in phrases.items() if not profile.repeats}
    if different and len({profile.values for profile in different.values()}) == 1:
        return next(iter(different))
    words = {
        name: profile
        for name, profile in free.items()
        if not profile.is_time and not profile.is_language and not profile.is_file
    }
    if not different and len(free) == 1 and _are_different_words(*free.values()):
        return next(iter(free))
    candidates = different or words or free
    readings = [
        f"--audio-column {columns['audio']} --text-column {name}: the texts are {profile.shown()}"
        for name, profile in candidates.items()
    ]
    without_text = f"--audio-column {columns['audio']} --no-text: there are no transcripts"
    raise ProblemsError(
        f"{path}: no heading, and "
        + ("more than one column" if len(candidates) > 1 else "no column surely")
        + " has the transcripts",
        readings if different else [*readings, without_text],
        hint="run again with one of these lines"
        + (", and --speaker-column NUMBER for the speakers" if len(free) > 1 else ""),
    )


def _are_different_words(profile: _Profile) -> bool:
    """Whether no value repeats, and none is a number or a code."""
    return profile.distinct == len(profile.values) and not any(
        character.isdigit() for value in profile.values for character in str(value)
    )


def _labels_by_content(
    path: Path,
    columns: Mapping[str, str],
    profiles: Mapping[str, _Profile],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, str]:
    """Speaker and language of a table without a heading; other columns stay fields.

    Raises:
        ProblemsError: a column of few values may be the speaker or a tag.
    """
    free = {name: profile for name, profile in profiles.items() if name not in columns.values()}
    labels = {
        name: profile
        for name, profile in free.items()
        if (profile.repeats or (len(records) < 4 and not profile.is_phrases))
        and (profile.is_integer or not profile.is_time)
        and profile.values
        and not profile.is_file
    }
    speakers = [
        name
        for name, profile in labels.items()
        if profile.repeats
        and (
            all(_PERSON.search(str(value)) for value in profile.values)
            or _is_in_paths(name, columns["audio"], records)
        )
    ]
    if len(speakers) == 1:
        labels = {name: profile for name, profile in labels.items() if profile.is_language}
    languages = [
        name for name, profile in labels.items() if profile.is_language and name not in speakers
    ]
    result = {"speaker": speakers[0]} if len(speakers) == 1 else {}
    if len(languages) == 1:
        result["language"] = languages[0]
    unclear = {
        name: profile for name, profile in labels.items()
        if name not in languages and name not in result.values()
    }  # fmt: skip
    if unclear:
        known = f"--audio-column {columns['audio']} --text-column {columns['text']}"
        readings = [
            f"{known} --speaker-column {name}: the speakers are {profile.shown()}"
            for name, profile in unclear.items()
        ]
        raise ProblemsError(
            f"{path}: no heading, and a column of few values may be the speaker or a tag",
            [*readings, f"{known}: no column is the speaker; they are kept as fields"],
            hint="run again with one of these lines",
        )
    return result


def _is_in_paths(column: str, audio: str, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a value is a folder of its row's recording, or a part of the recording's name."""
    sample = records[:: max(1, len(records) // _SAMPLED_ROWS)]
    for record in sample:
        parts = re.split(r"[\\/_.\- ]", str(record.get(audio, "")).casefold())
        if str(record.get(column, "")).strip().casefold() not in parts:
            return False
    return True
