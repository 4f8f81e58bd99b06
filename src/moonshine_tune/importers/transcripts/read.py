"""One transcript file, of any form: its content decides, its ending does not."""

import re
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.json_text import JsonError, parse_json
from moonshine_tune.importers.transcripts.captions import captions, is_sbv
from moonshine_tune.importers.transcripts.cue import TranscriptFile, spoken_transcript
from moonshine_tune.importers.transcripts.json_transcript import json_transcript
from moonshine_tune.importers.transcripts.label_tracks import (
    LabelTrack,
    clock_cues,
    is_table_of_times,
    label_track,
)
from moonshine_tune.importers.transcripts.tiers import elan, textgrid

# Endings of files that may be the transcript of a recording of the same name.
ENDINGS = frozenset(
    (".txt", ".lab", ".label", ".labels", ".srt", ".vtt", ".sbv", ".ass", ".ssa", ".ttml", ".smi",
     ".lrc", ".textgrid", ".eaf", ".json", ".json3", ".tsv",
     ".csv")
)  # fmt: skip
# Files beside recordings that are no transcripts, and what they are.
NO_TRANSCRIPTS = {
    ".rttm": "who speaks when, without words", ".uem": "spans to score, without words",
    ".phn": "phones", ".wrd": "single words with their times",
    ".trs": "Transcriber files; export them as TextGrid or SubRip",
    ".cha": "CHAT files; export them as TextGrid or SubRip",
    ".docx": "Word files; save them as plain text", ".pdf": "PDF files; save them as plain text",
    ".rtf": "rich text; save it as plain text", ".doc": "Word files; save them as plain text",
    ".odt": "text documents; save them as plain text",
}  # fmt: skip
TABLE_OF_TIMES = "a table of times in a form that is not known; export it as SubRip or TextGrid"
_TIMES_HEADING = re.compile(r"\s*start\W+end\W+(?:speaker\W+)?text\W*", re.IGNORECASE)
_TIMES_ROW = re.compile(r"\d+([.,]\d+)?\t\d+([.,]\d+)?\t")
# Files of one recording that cannot be named as a table.
CUE_ENDINGS = (".srt", ".vtt", ".sbv", ".ass", ".ssa", ".ttml", ".smi", ".lrc", ".textgrid",
               ".eaf", ".ctm", ".stm")  # fmt: skip
_LAB_HEADER = re.compile(r"\A(?:[^\n]*\n){0,9}?\s*#\s*\n")
_LINE_NAME = re.compile(
    r"\s*(?P<name>[^\W\d_][\w.'’-]*(?: [\w.'’-]+){0,2}) ?(?:: |:\t|：)\s*(?P<words>\S.*)"
)
_ARROW = re.compile(r"^\s*(?:\d+:)?\d+:\d\d[.,]\d+ -->", re.MULTILINE)


def read_transcript(
    file: Path,
    content: str,
    *,
    tier: str | None = None,
    seconds: float = 0.0,
    as_words: bool = False,
) -> TranscriptFile | LabelTrack:
    """What a file holds: a text, cues, or lines whose numbers the whole corpus must explain.

    Args:
        file: for its ending, and for messages.
        content: its text.
        tier: of files with several tiers, the one to read.
        seconds: of the recording, if it is known.
        as_words: whether numbers in front of texts are words, whatever they look like.

    Raises:
        RequestError: a form that cannot be read.
    """
    start = content.lstrip()
    first = start[:1]
    ending = file.suffix.lower()
    heading = start.partition("\n")[0]
    has_times = _TIMES_HEADING.match(heading) is not None
    # Nearly all files are plain text, which begins with a letter.
    if (
        ending == ".txt"
        and first.isalpha()
        and not (has_times or start.startswith(("WEBVTT", "File type")) or "-->" in content)
    ):
        return _plain(file, content, as_words=as_words)
    for read in (_captions, _tiers, _json):
        if (transcript := read(file, content, tier, seconds)) is not None:
            return transcript
    if start.startswith("{\\rtf"):
        raise RequestError("rich text", where=file, hint="save it again as plain text (.txt)")
    if has_times:
        # A heading, as in Whisper's table of milliseconds, is a line without numbers.
        content = content.replace(heading, "", 1)
    if ending == ".lab":
        # Festival's label files have a header up to a line with `#`.
        content = _LAB_HEADER.sub("", content)
    if not as_words and (track := label_track(file, content)) is not None:
        return track
    if ending in (".tsv", ".csv"):
        problem = "a table without start, end and text; name it with --table if it lists recordings"
        return TranscriptFile(file, problem=problem)
    return _plain(file, content, as_words=as_words)


def _plain(file: Path, content: str, *, as_words: bool) -> TranscriptFile:
    """A text, or lines with a time of day in front."""
    if as_words:
        return TranscriptFile(file, text=content)
    turns = _speaker_turns(file, content)
    if turns is None and "\n" in content and is_table_of_times(content):
        return TranscriptFile(file, problem=TABLE_OF_TIMES)
    return turns or _dialogue(file, content) or TranscriptFile(file, text=content)


def _dialogue(file: Path, content: str) -> TranscriptFile | None:
    """The words of lines that all begin with a name and a colon; None if it is no dialogue.

    A name that comes again is a speaker. Where none does, the words may be spoken, too.
    """
    lines = [line for line in content.splitlines() if line.strip()]
    matches = [_LINE_NAME.match(line) for line in lines] if len(lines) > 1 else [None]
    names = [match["name"] for match in matches if match is not None]
    if len(names) < len(matches):
        return None
    if 1 < len(set(names)) < len(names):
        words = [match["words"] for match in matches if match is not None]
        remark = "names in front of all lines are speakers, and left out"
        return TranscriptFile(file, text="\n".join(words), remarks=(remark,))
    remark = f"all lines begin with a colon after {names[0]!r} and the like, which may be speakers"
    return TranscriptFile(file, text=content, remarks=(remark,))


def _captions(
    file: Path, content: str, _tier: str | None, _seconds: float
) -> TranscriptFile | None:
    start, ending = content.lstrip(), file.suffix.lower()
    if start.startswith("WEBVTT") or ending == ".vtt":
        return captions(file, content, "vtt")
    if start.startswith("[Script Info]") or ending in (".ass", ".ssa"):
        return captions(file, content, "ass")
    if is_sbv(content):
        return captions(file, content, "sbv")
    if ending == ".srt" or _ARROW.search(content):
        return captions(file, content, "srt")
    if start.startswith("<") and "<tt" in start[:2000]:
        return captions(file, content, "ttml")
    if start.upper().startswith("<SAMI"):
        return captions(file, content, "sami")
    return None


def _tiers(file: Path, content: str, tier: str | None, _seconds: float) -> TranscriptFile | None:
    head = content.lstrip()[:400]
    if "ooTextFile" in head or "ooBinaryFile" in head or file.suffix.lower() == ".textgrid":
        return textgrid(file, content, tier)
    if "<ANNOTATION_DOCUMENT" in content[:2000] or file.suffix.lower() == ".eaf":
        return elan(file, content, tier)
    if head.startswith("<?xml"):
        raise RequestError(
            "XML that is neither captions nor an ELAN annotation",
            where=file,
            hint="export it as Praat TextGrid or SubRip",
        )
    return None


def _json(file: Path, content: str, _tier: str | None, seconds: float) -> TranscriptFile | None:
    if content.lstrip()[:1] not in ("{", "[") and file.suffix.lower() != ".json":
        return None
    try:
        document = parse_json(content, with_nan=True)
    except JsonError as error:
        if file.suffix.lower() not in (".json", ".json3"):
            return None
        raise RequestError(
            str(error), where=file, hint="export it again, or move it out of the folder"
        ) from error
    return json_transcript(file, document, seconds)


def _speaker_turns(file: Path, content: str) -> TranscriptFile | None:
    """The cues of lines with a time of day in front, if the text consists of such."""
    if ":" not in content:
        return None
    cues = clock_cues(content)
    if cues is None:
        return None
    has_ends = all(cue.end is not None for cue in cues)
    remark = "times in front of a text are its cues" + (
        "" if has_ends else "; one without an end lasts until the next"
    )
    remarks: tuple[str, ...] = (remark,)
    if any(cue.speaker for cue in cues):
        remarks += ("names beside times are speakers",)
    return replace(spoken_transcript(file, cues, remarks), is_doubtful=True)


def is_cue_table(file: Path, *, has_recording: bool) -> bool:
    """Whether a `.tsv` or `.csv` file has the cues of one recording, as Whisper writes them.

    Args:
        has_recording: whether a recording has the same name.
    """
    with file.open("rb") as stream:
        line = stream.readline(200).decode("utf-8", errors="replace")
    if _TIMES_HEADING.match(line) is not None:
        return True
    return has_recording and _TIMES_ROW.match(line) is not None
