"""What a speech recognizer writes about one recording, as JSON: a text, or segments with times.

Whisper and its relatives, YouTube, AssemblyAI, Deepgram and others differ in names and nesting:
segments are the list of objects with a text and a start that has the longest texts.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_tune.importers.transcripts.captions import unrolled_transcript
from moonshine_tune.importers.transcripts.cue import Cue, TranscriptFile

_TEXT = ("text", "transcript", "transcription", "sentence", "utf8", "content", "utterance",
         "display")  # fmt: skip
_ALTERNATIVES = ("alternatives", "nBest")
_MARKS = frozenset(".,;:!?…。、，！？")
# Key → seconds of its unit; None if the other numbers of the file decide.
_START = {"start": None, "start_time": None, "startTime": None, "begin": None, "offset": None,
          "from": None, "t0": None, "tStartMs": 1e-3, "start_ms": 1e-3,
          "startMs": 1e-3}  # fmt: skip
_END = {"end": None, "end_time": None, "endTime": None, "stop": None, "to": None, "t1": None,
        "end_ms": 1e-3, "endMs": 1e-3}  # fmt: skip
_LENGTH = {"duration": None, "dur": None, "dDurationMs": 1e-3, "duration_ms": 1e-3}
_FIELDS = {"speaker": ("speaker", "speaker_id", "spk"), "language": ("language", "lang")}
# Lists of single words with their times.
_WORDS = frozenset(("words", "word_segments", "tokens", "items", "characters", "char_segments"))
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)(?:[.,](\d+))?")
_DEEPEST = 6


def json_transcript(file: Path, document: Any, seconds: float) -> TranscriptFile:
    """The text or the cues of a document; neither if it has none.

    Args:
        seconds: of the recording, to tell milliseconds from seconds; 0 if it is not known.
    """
    candidates = [cues for cues in _lists(document) if any(cue.text.strip() for cue in cues)]
    if candidates:
        best = max(candidates, key=lambda cues: sum(len(c.text) for c in cues) / len(cues))
        last = max(cue.end or cue.start for cue in best)
        if seconds and last > seconds + 1 and last / 1000 <= seconds + 1:
            best = [
                Cue(c.number, c.start / 1000, None if c.end is None else c.end / 1000, c.text,
                    c.speaker) for c in best
            ]  # fmt: skip
        return unrolled_transcript(file, best)
    if not isinstance(document, dict):
        return TranscriptFile(file, text="")
    fields = tuple(
        (field, str(document[key]))
        for field, keys in _FIELDS.items()
        for key in keys
        if isinstance(document.get(key), str | int)
    )
    return TranscriptFile(file, text=_text(document) or _nested_text(document), fields=fields)


def _nested_text(value: Any, depth: int = 0) -> str:
    """The texts of a document without times, in its order; of alternatives, the first."""
    if depth > _DEEPEST:
        return ""
    if isinstance(value, list):
        items = [text for item in value if (text := _nested_text(item, depth + 1))]
        # Recognizers list marks as words of their own.
        return "".join(f"{'' if set(text) <= _MARKS else ' '}{text}" for text in items).strip()
    if not isinstance(value, dict):
        return ""
    if text := _text(value):
        return text
    parts = (
        _nested_text(item[:1] if key in _ALTERNATIVES else item, depth + 1)
        for key, item in value.items()
        if isinstance(item, list | dict)
    )
    return next((part for part in parts if part), "")


def _text(record: dict[str, Any]) -> str:
    for key in _TEXT:
        if isinstance(value := record.get(key), str):
            return value
    for key in ("segs", "words", "tokens"):
        parts = record.get(key)
        if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
            return "".join(_text(part) for part in parts)
    return ""


def _lists(value: Any, depth: int = 0) -> Iterator[list[Cue]]:
    """The cues of every list of objects with times, at any depth."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        records = [item for item in value if isinstance(item, dict)]
        cues = [cue for n, item in enumerate(records, start=1) if (cue := _cue(n, item))]
        if cues and 2 * len(cues) >= len(records):
            yield cues
        for item in records:
            yield from _lists(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, list | dict) and key not in _WORDS:
                yield from _lists(item, depth + 1)


def _cue(number: int, record: dict[str, Any]) -> Cue | None:
    """The cue of an object, with the times as they are written."""
    times = dict(record)
    for key in ("offsets", "timestamps", "timestamp"):
        if isinstance(inner := record.get(key), dict):
            scale = 1e-3 if key == "offsets" else 1.0
            times |= {k: v * scale if isinstance(v, int | float) else v for k, v in inner.items()}
            break
        if isinstance(inner, list) and len(inner) == 2:
            times |= {"start": inner[0], "end": inner[1]}
            break
    start = _seconds(times, _START)
    if start is None:
        return None
    end, length = _seconds(times, _END), _seconds(times, _LENGTH)
    if end is None and length is not None:
        end = start + length
    speaker = next(
        (str(record[key]) for key in _FIELDS["speaker"] if isinstance(record.get(key), str | int)),
        None,
    )
    return Cue(number, start, end, _text(record), speaker)


def _seconds(record: dict[str, Any], keys: dict[str, float | None]) -> float | None:
    for key, scale in keys.items():
        value = record.get(key)
        if isinstance(value, str):
            match = _CLOCK.fullmatch(value.strip())
            if match:
                hours, minutes, rest, fraction = match.groups()
                total = 3600 * int(hours or 0) + 60 * int(minutes) + int(rest)
                return total + float(f"0.{fraction or 0}")
            try:
                value = float(value.strip().removesuffix("s"))
            except ValueError:
                continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) * (scale or 1.0)
    return None
