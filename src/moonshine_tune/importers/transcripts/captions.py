"""Captions: SubRip, WebVTT, SBV, ASS, TTML and SAMI. pysubs2 reads them.

Rolling captions, as YouTube writes them, show each phrase twice: as the new line, and again above
the next one. It is spoken once.
"""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.importers.transcripts.cue import (
    Cue,
    TranscriptFile,
    spoken_transcript,
)

_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")
_INNER_TIME = re.compile(r"<(?:\d+:)?\d+:\d\d[.,]\d+>")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_SEPARATOR = "\u2063"
_SBV_TIMES = re.compile(r"^(\d+:\d\d:\d\d[.,]\d{1,3}),(\d+:\d\d:\d\d[.,]\d{1,3})\s*$", re.MULTILINE)
_CUE_TIMES = re.compile(r"^\s*(?:\d+:)?\d+:\d\d[.,]\d+\s*-->\s*(?:\d+:)?\d+:\d\d[.,]\d+")
_COMMENT = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
# How many cues continue the one before in rolling captions: two where most cues repeat something,
# else three, and this share. And how close they follow.
_SHOWN_S = 0.05
_FEWEST_OF_MOST, _MOST, _FEWEST_OF_MANY, _MANY, _ROLLING_GAP_S = 2, 0.5, 3, 0.3, 1.0


def is_sbv(content: str) -> bool:
    """Whether the text begins as YouTube's SBV: `0:00:01.000,0:00:03.000`."""
    return _SBV_TIMES.match(content.lstrip()) is not None


def captions(file: Path, content: str, name: str) -> TranscriptFile:
    """The cues of captions.

    Args:
        name: the format, as pysubs2 names it, or `sbv`.

    Raises:
        RequestError: not such captions.
    """
    # Here: loading it takes a fiftieth of the import of a small corpus that has no captions.
    import pysubs2

    if name == "sbv":
        content = _SBV_TIMES.sub(lambda match: f"\n0\n{match[1]} --> {match[2]}", content)
        name = "srt"
    # Two times within a text, as YouTube writes them, are times of a cue to pysubs2, and it
    # drops the tags in which WebVTT names voices.
    content = _INNER_TIME.sub("", content)
    if name in ("srt", "vtt"):
        content = _numbered_anew(content, is_vtt=name == "vtt")
    content = _VOICE.sub(lambda match: f"{_SEPARATOR}{match.group(1).strip()}{_SEPARATOR}", content)
    try:
        events = pysubs2.SSAFile.from_string(content, format_=name).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError, SyntaxError, KeyError, AttributeError,
            TypeError, NotImplementedError) as error:  # fmt: skip
        # pysubs2 lets through what its parsers meet in odd files, such as TTML with `dur`.
        raise RequestError(
            f"cannot be read as cues ({type(error).__name__}: {error})",
            where=file,
            hint="save it again as SubRip (.srt) or WebVTT (.vtt)",
        ) from error
    cues = []
    for number, event in enumerate(events, start=1):
        if event.is_comment:
            continue
        _, mark, rest = event.plaintext.partition(_SEPARATOR)
        speaker, _, text = rest.partition(_SEPARATOR) if mark else ("", "", event.plaintext)
        text = _TAG.sub("", text).replace(_SEPARATOR, " ")
        cues.append(
            Cue(number, event.start / 1000, event.end / 1000, text, speaker or event.name or None)
        )
    return unrolled_transcript(file, cues)


def _numbered_anew(content: str, *, is_vtt: bool) -> str:
    """SubRip or WebVTT with a number of our own above each cue, and without comments.

    pysubs2 takes a last line of digits for the number of the next cue, which `call 911` on two
    lines loses where cues have no numbers, and the identifiers of WebVTT, such as those of Teams,
    for words of the cue before.
    """
    lines: list[str] = []
    num_cues, is_comment = 0, False
    for line in content.splitlines():
        is_after_blank = not lines or not lines[-1].strip()
        if _CUE_TIMES.search(line):
            if lines and _is_identifier(lines, is_vtt=is_vtt):
                lines.pop()
            num_cues += 1
            lines += ["", str(num_cues), line]
            is_comment = False
        elif is_vtt and is_after_blank and _COMMENT.match(line):
            is_comment = True
        elif is_comment and line.strip():
            continue
        else:
            is_comment = False
            lines.append(line)
    return "\n".join([*lines, "", str(num_cues + 1), ""])


def _is_identifier(lines: list[str], *, is_vtt: bool) -> bool:
    """Whether the last of the lines, directly above the times of a cue, is its number or name."""
    above = lines[-1].strip()
    is_first = len(lines) == 1 or not lines[-2].strip()
    return bool(above) and (above.isdecimal() if not is_vtt else is_first)


def unrolled_transcript(file: Path, cues: list[Cue]) -> TranscriptFile:
    """The transcript of cues, without silence and without the repetitions of rolling captions."""
    transcript = spoken_transcript(file, cues)
    unrolled, repeated = _without_repetitions(list(transcript.cues))
    if not repeated:
        return transcript
    remark = "rolling captions: a phrase that repeats the end of the cue before is left out"
    return replace(transcript, cues=tuple(unrolled), remarks=(*transcript.remarks, remark))


def _without_repetitions(cues: list[Cue]) -> tuple[list[Cue], int]:
    """The cues of rolling captions, each phrase once; and how many cues repeated one.

    Captions roll if many cues begin with the end of the cue before and go on. A cue that only
    equals the one before it is left as it is elsewhere: `yes`, `yes` may be spoken twice.
    """
    overlaps = [0, *(_overlap(before, after) for before, after in pairwise(cues))][: len(cues)]
    continued = sum(
        0 < overlap < len(cue.text.split()) for cue, overlap in zip(cues, overlaps, strict=True)
    )
    pairs, repeating = len(cues) - 1, sum(map(bool, overlaps))
    is_most = continued >= _FEWEST_OF_MOST and repeating >= _MOST * pairs
    # YouTube shows the finished line for a hundredth of a second: nobody speaks it in that time.
    is_shown = any(
        overlap > 1 and cue.end is not None and cue.end - cue.start <= _SHOWN_S
        for cue, overlap in zip(cues, overlaps, strict=True)
    )
    if not (is_most or is_shown) and continued < max(_FEWEST_OF_MANY, _MANY * pairs):
        return cues, 0
    kept = []
    for cue, overlap in zip(cues, overlaps, strict=True):
        if text := " ".join(cue.text.split()[overlap:]):
            kept.append(Cue(cue.number, cue.start, cue.end, text, cue.speaker))
    return kept, repeating


def _overlap(before: Cue, after: Cue) -> int:
    """Number of words at the start of a cue that end the cue before it; 0 after a pause.

    One word is no phrase, unless it is the whole cue.
    """
    first, second = before.text.split(), after.text.split()
    if before.end is not None and after.start > before.end + _ROLLING_GAP_S:
        return 0
    for size in range(min(len(first), len(second)), 0, -1):
        if first[-size:] == second[:size] and (size > 1 or size == len(first)):
            return size
    return 0
