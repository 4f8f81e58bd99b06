"""Transcripts beside recordings: texts, captions, label tracks, TextGrids and others.

A long recording is cut at its cues.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import audio_info
from moonshine_tune.core.errors import AudioError, RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.importers.base import Importer, ImportSource, Row, Rows, read_text
from moonshine_tune.importers.transcripts.cue import (
    OVERLAP_S,
    Cue,
    TranscriptFile,
    is_alignment,
    spoken_transcript,
)
from moonshine_tune.importers.transcripts.label_tracks import (
    UNITS,
    WORDS,
    LabelTrack,
    is_table_of_times,
    units_of,
)
from moonshine_tune.importers.transcripts.pairing import Pairing, pair
from moonshine_tune.importers.transcripts.read import ENDINGS, TABLE_OF_TIMES, read_transcript
from moonshine_tune.importers.transcripts.tiers import TierChoiceError

# The transcript of a span that ends this close to the ends of its recording is the recording's.
_COMPLETE_S = 0.1
_SHOWN, _SHOWN_CHARACTERS = 8, 50
_NAME_REMARK = "the name of the recording in front of a text is no part of it"
# A name that is no word: `1688-001`, `arctic_a0001`.
_CODE = re.compile(r"(?=.*\d)(?=.*[^\W\d]|.*[_-]).{4,}")
_FEWEST_NAMES = 3
_WORDS_REMARK = "two numbers in front of a text are words, not its times"


def _recognizes(source: ImportSource) -> bool:
    pairing = _pairing(source)
    return bool(pairing.files or pairing.shared or pairing.doubtful)


def _pairing(source: ImportSource) -> Pairing:
    return _paired(source.recordings, source.files, source.request.transcripts)


@lru_cache(maxsize=1)
def _paired(recordings: tuple[Path, ...], files: tuple[Path, ...], named: str | None) -> Pairing:
    """Paired once for recognizing the layout and for reading it."""
    return pair(recordings, files, ENDINGS, named)


def _read(source: ImportSource) -> Rows:
    """A row for each text and for each cue; a recording without a transcript has one without text.

    A cue that ends before it starts, or that overlaps the one before it, becomes a row with a
    problem: its text would not match its audio.
    """
    times = source.request.times
    if times is not None and times != WORDS and times not in UNITS:
        raise RequestError(
            f"no unit of times is called {times!r}",
            hint=f"choose --times {', '.join(UNITS)}, or {WORDS} if the numbers are words",
        )
    pairing = _pairing(source)
    if not pairing.files and not pairing.shared:
        _, texts = pairing.doubtful[0]
        raise RequestError(
            _doubt(pairing, source.folder),
            where=source.folder,
            hint=f"if they belong together: --transcripts {quoted(texts.name)}; if not, import "
            "the recordings without texts: --no-text",
        )
    transcripts = _transcripts(source, pairing)
    stems = Counter(path.stem for path in source.recordings)
    rows: list[Row] = []
    for path in source.recordings:
        if path in transcripts:
            name = path.stem
            if stems[name] > 1:
                name = path.relative_to(source.folder).with_suffix("").as_posix()
            rows += _rows_of(path, name, transcripts[path])
        elif path in pairing.shared:
            problem = f"{pairing.shared[path]} may be the transcript of several recordings"
            rows.append(Row(str(path), str(path), problem=problem))
        else:
            rows.append(Row(str(path), str(path)))
    used = list(transcripts.values())
    return Rows(
        _description(used, len(source.recordings)),
        source.folder,
        tuple(rows),
        _remarks(used, pairing, source.folder),
    )


def _transcripts(source: ImportSource, pairing: Pairing) -> dict[Path, TranscriptFile]:
    """The transcript of each recording that has one."""
    contents = {
        path: [
            _content(source, path, file, is_only=len(files) == 1)
            for file in _wanted(source, path, files)
        ]
        for path, files in pairing.files.items()
    }
    if contents and not any(contents.values()):
        names = sorted({file.name for files in pairing.files.values() for file in files})
        raise RequestError(
            f"no transcript ends with {source.request.transcripts!r}, or is in such a folder",
            where=source.folder,
            hint=f"choose an ending of: {', '.join(names[:5])}",
        )
    tracks = [item for items in contents.values() for item in items if isinstance(item, LabelTrack)]
    num_texts = sum(
        isinstance(item, TranscriptFile) and bool(item.text)
        for items in contents.values()
        for item in items
    )
    units = units_of(tracks, source.request.times, num_texts)
    unit_of = dict(zip(map(id, tracks), units, strict=True))
    transcripts = {}
    for path, items in contents.items():
        resolved = [
            _of_track(item, unit_of[id(item)], is_asked=source.request.times is not None)
            if isinstance(item, LabelTrack)
            else item
            for item in items
        ]
        if resolved:
            transcripts[path] = _chosen(source, path, resolved)
    return _without_names(transcripts)


def _without_names(transcripts: dict[Path, TranscriptFile]) -> dict[Path, TranscriptFile]:
    """The transcripts; the name of the recording in front of a text is not spoken.

    A name of letters and digits is none by its form; other names where every text has its own.
    """
    rests = {
        path: rest
        for path, item in transcripts.items()
        if item.text is not None and (rest := _behind_name(path.stem, item.text))
    }
    with_text = sum(item.text is not None for item in transcripts.values())
    are_all = len(rests) == with_text >= _FEWEST_NAMES
    named = {path: rest for path, rest in rests.items() if are_all or _CODE.fullmatch(path.stem)}
    return {
        path: replace(item, text=named[path], remarks=(*item.remarks, _NAME_REMARK))
        if path in named
        else item
        for path, item in transcripts.items()
    }


def _behind_name(name: str, text: str) -> str:
    """What follows the name of a recording at the start of a text; empty if it is not there."""
    match = re.match(rf"\s*{re.escape(name)}(?:\.\w+)?[\s|:,;]+(\S.*)", text, re.DOTALL)
    return match[1] if match else ""


def _content(
    source: ImportSource, recording: Path, file: Path, *, is_only: bool
) -> TranscriptFile | LabelTrack:
    """What a file holds; a file that cannot be read is a problem of its row with `--skip-bad`.

    The words and phones that an aligner wrote beside the transcript are a problem too.
    """
    try:
        is_json = file.suffix.lower() in (".json", ".json3")
        seconds = _header(recording)[0] if is_json else 0.0
        content = read_transcript(
            file,
            read_text(file),
            tier=source.request.tier,
            seconds=seconds,
            as_words=source.request.times == WORDS,
        )
    except RequestError as error:
        if not source.request.skip_bad and (is_only or not isinstance(error, TierChoiceError)):
            raise
        return TranscriptFile(file, problem=error.message)
    if isinstance(content, LabelTrack):
        seconds, rate = _header(recording)
        return replace(content, seconds=seconds, rate=rate)
    if content.is_doubtful and content.cues:
        seconds, last = _header(recording)[0], content.cues[-1].start
        if seconds and last >= seconds:
            problem = (
                f"the time {last:g} s in front of {content.cues[-1].text[:40]!r} is not within its "
                f"{seconds:.2f} s; if the times are words: --times {WORDS}"
            )
            return replace(content, problem=problem)
    return content


def _header(recording: Path) -> tuple[float, int]:
    """Seconds and sampling rate of a recording; zeros if its header cannot be read."""
    try:
        info = audio_info(recording)
    except AudioError:
        return 0.0, 0
    return info.seconds, info.sample_rate_hz


def _wanted(source: ImportSource, recording: Path, files: list[Path]) -> list[Path]:
    """Of several transcripts, those with the ending, or in the folder, that the user names."""
    wanted = source.request.transcripts
    if wanted is None:
        return files
    return [
        file
        for file in files
        if file.name.casefold().endswith(wanted.casefold())
        or wanted.casefold() in map(str.casefold, file.relative_to(source.folder).parts[:-1])
    ]


def _of_track(track: LabelTrack, unit: str | None, *, is_asked: bool) -> TranscriptFile:
    """The transcript of lines with two numbers, whose unit is known."""
    if unit == WORDS:
        text = read_text(track.file)
        if not is_asked and is_table_of_times(text):
            return TranscriptFile(track.file, problem=TABLE_OF_TIMES)
        return TranscriptFile(track.file, text=text, remarks=(_WORDS_REMARK,))
    if unit is None:
        first = track.lines[0]
        problem = (
            f"{first.start:g} and {first.end:g} in line {first.number} are no times within its "
            f"{track.seconds:.2f} s; if they are words: --times {WORDS}"
        )
        return TranscriptFile(track.file, problem=problem)
    cues = track.cues(unit)
    remark = f"two numbers in front of a text are its times in {unit.replace('100ns', '100 ns')}"
    if len(cues) == 1 and cues[0].start <= _COMPLETE_S and _is_end(cues[0], track.seconds):
        return TranscriptFile(track.file, text=cues[0].text, remarks=(remark,))
    transcript = spoken_transcript(track.file, cues, (remark,), is_by_line=True)
    if track.broken:
        problem = f"line {track.broken[0]} is not start, end and text"
        return replace(transcript, problem=problem)
    if not is_asked and is_alignment(cues):
        return replace(transcript, problem="single words or phones with their times, no utterances")
    return transcript


def _is_end(cue: Cue, seconds: float) -> bool:
    return cue.end is not None and abs(cue.end - seconds) <= max(_COMPLETE_S, 0.02 * seconds)


def _chosen(
    source: ImportSource, recording: Path, transcripts: list[TranscriptFile]
) -> TranscriptFile:
    """One of the transcripts of a recording: the one with words, with cues if they agree.

    Raises:
        RequestError: they disagree.
    """
    useful = [item for item in transcripts if item.words and item.problem is None] or transcripts
    language = source.request.language
    if len(useful) > 1 and language:
        useful = [item for item in useful if f".{language}." in item.file.name.lower()] or useful
    if len({_plain(item.words) for item in useful}) > 1:
        first, second = (
            useful[0],
            next(item for item in useful if _plain(item.words) != _plain(useful[0].words)),
        )
        choices = [_rest(source, recording, item.file, useful) for item in (first, second)]
        raise RequestError(
            f"two transcripts that differ: {first.file.name} ({_shown(first)}) and "
            f"{second.file.name} ({_shown(second)})",
            where=recording,
            hint=f"choose: --transcripts {quoted(choices[0])}, or "
            f"--transcripts {quoted(choices[1])}",
        )
    chosen = next((item for item in useful if item.cues), useful[0])
    if skipped := [item.file for item in transcripts if item.problem and item is not chosen]:
        endings = ", ".join(dict.fromkeys(file.suffix for file in skipped))
        remark = f"{endings} files of words or phones, or that cannot be read, are not used"
        chosen = replace(chosen, remarks=(*chosen.remarks, remark))
    if len(useful) > 1:
        remark = "several transcripts with the same words: one with times is used, if there is one"
        return replace(chosen, remarks=(*chosen.remarks, remark))
    return chosen


def _rest(source: ImportSource, recording: Path, file: Path, others: list[TranscriptFile]) -> str:
    """What tells a transcript from the others: the end of its name, or its folder."""
    rest = file.name[len(recording.stem) :] or file.suffix
    if sum(item.file.name.endswith(rest) for item in others) == 1:
        return quoted(rest)
    return quoted(file.parent.name)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _shown(transcript: TranscriptFile) -> str:
    text = " ".join(transcript.words.split())
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")


def _rows_of(audio: Path, name: str, transcript: TranscriptFile) -> Iterator[Row]:
    file = transcript.file
    if transcript.problem is not None:
        yield Row(str(file), str(audio), problem=transcript.problem)
    elif transcript.text is not None:
        yield Row(str(audio), str(audio), {"text": transcript.text, **dict(transcript.fields)})
    elif not transcript.cues:
        problem = None if transcript.silence else "no cue with a text"
        yield Row(str(file), str(audio), problem=problem)
    last_end = 0.0
    for cue in transcript.cues if transcript.problem is None else ():
        values: dict[str, Any] = {
            "id": f"{name}-{cue.number:05d}",
            "start": max(cue.start, 0.0),
            "text": cue.text,
            "session": name,
        }
        if cue.end is not None:
            values["end"] = cue.end
        if cue.speaker:
            values["speaker"] = cue.speaker
        mark = ":" if transcript.is_by_line else ", cue "
        location = f"{file}{mark}{cue.number}"
        yield Row(location, str(audio), values, problem=_cue_problem(cue, last_end))
        last_end = max(last_end, cue.end or cue.start)


def _cue_problem(cue: Cue, last_end: float) -> str | None:
    """Why the text of a cue would not match its audio."""
    if cue.end == cue.start:
        return f"a point at {cue.start:g} s and not a span: give it an end, or remove it"
    if cue.end is not None and cue.end < cue.start:
        return f"ends at {cue.end:g} s, but starts at {cue.start:g} s"
    if cue.start < last_end - OVERLAP_S:
        return f"starts at {cue.start:g} s, but the cue before it ends at {last_end:g} s"
    return None


def _description(used: Sequence[TranscriptFile], count: int) -> str:
    """`3 cues beside 1 of 2 recordings, 1 .txt files beside 2 recordings`."""
    parts = []
    with_cues = [item for item in used if item.text is None]
    if with_cues:
        cues = sum(len(item.cues) for item in with_cues)
        parts.append(f"{cues} cues beside {len(with_cues)} of {count} recordings")
    endings = Counter(item.file.suffix.lower() for item in used if item.text is not None)
    parts += [
        f"{number} {ending} files beside {count} recordings"
        for ending, number in endings.most_common()
    ]
    return ", ".join(parts) or f"no transcripts beside {count} recordings"


def _remarks(used: Sequence[TranscriptFile], pairing: Pairing, folder: Path) -> tuple[str, ...]:
    """What was decided by content, each with the number of files and an example."""
    examples: dict[str, list[Path]] = defaultdict(list)
    for item in used:
        for remark in item.remarks:
            examples[remark].append(item.file)
    silent = [item for item in used if item.silence]
    if labels := list(dict.fromkeys(label for item in silent for label in item.silence if label)):
        shown = ", ".join(labels[:_SHOWN]) + (", …" if len(labels) > _SHOWN else "")
        examples[f"labels of silence are no texts: {shown}"] = [item.file for item in silent]
    remarks = [
        f"{remark} ({len(files)} files, such as {files[0].name})"
        for remark, files in examples.items()
    ]
    if len(remarks) > _SHOWN:
        remarks[_SHOWN:] = [f"… and {len(remarks) - _SHOWN} more decisions of these kinds"]
    if pairing.elsewhere:
        recordings, texts = (os.path.relpath(path, folder) for path in pairing.elsewhere[0])
        more = f", and {len(pairing.elsewhere) - 1} more" if len(pairing.elsewhere) > 1 else ""
        remarks.append(f"transcripts of the recordings in {recordings}/ are in {texts}/{more}")
    if pairing.doubtful:
        remarks.append(f"{_doubt(pairing, folder)}; if they belong together, move them there")
    return tuple(remarks)


def _doubt(pairing: Pairing, folder: Path) -> str:
    """A sentence on transcripts in a folder that may be another person's."""
    recordings, texts = (os.path.relpath(path, folder) for path in pairing.doubtful[0])
    return (
        f"{texts}/ has transcripts that are called like recordings in {recordings}/, and may be "
        "of another person: not used"
    )


IMPORTER = Importer("transcripts beside recordings", 70, _recognizes, _read)
