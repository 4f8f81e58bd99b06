"""A segment of a transcript, and its line in a manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.timed_text import TimedText, TimedWord

# Seconds in files: encoder frames are 20 ms or more.
_DIGITS = 3
# A caption: two lines of 42 characters, and as long as one reads them.
_CAPTION_CHARACTERS, _CAPTION_S = 84, 7.0
# A pause after which a new caption starts.
_CAPTION_PAUSE_S = 0.8
_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")
_SENTENCE_CHARACTERS = 42


@dataclass(frozen=True)
class Segment:
    """What is spoken between two moments of a recording, in seconds from the start of its file.

    Attributes:
        confidence: share of its words that are expected to be right; None where it is unknown.
        words: empty where they are unknown.
    """

    start: float
    end: float
    text: str
    confidence: float | None = None
    words: tuple[TimedWord, ...] = ()

    @classmethod
    def of(cls, start: float, end: float, transcript: TimedText) -> "Segment":
        """The segment of a clip between two moments."""
        words = tuple(
            TimedWord(
                word.text,
                round(start + word.start, _DIGITS),
                round(min(start + word.end, end), _DIGITS),
                round(word.confidence, _DIGITS),
            )
            for word in transcript.words
        )
        confidence = transcript.confidence
        return cls(
            round(start, _DIGITS),
            round(end, _DIGITS),
            transcript.text,
            None if confidence is None else round(confidence, _DIGITS),
            words,
        )

    def to_record(self, *, with_words: bool) -> dict[str, Any]:
        """Its keys in JSON."""
        record: dict[str, Any] = {"start": self.start, "end": self.end, "text": self.text}
        if self.confidence is not None:
            record["confidence"] = self.confidence
        if with_words:
            record["words"] = [
                {"text": w.text, "start": w.start, "end": w.end, "confidence": w.confidence}
                for w in self.words
            ]
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Segment":
        """Read what `to_record` made.

        Raises:
            KeyError, TypeError, ValueError: not such a record.
        """
        words = tuple(
            TimedWord(
                str(word["text"]), float(word["start"]), float(word["end"]),
                float(word["confidence"]),
            )
            for word in record.get("words", ())
        )  # fmt: skip
        confidence = record.get("confidence")
        return cls(
            float(record["start"]),
            float(record["end"]),
            str(record["text"]),
            None if confidence is None else float(confidence),
            words,
        )


def manifest_record(
    utterance: Utterance, number: int, segment: Segment, *, with_words: bool
) -> dict[str, Any]:
    """The line of a segment in a manifest; `number` counts the segments of a recording from 1."""
    record: dict[str, Any] = {
        "id": f"{utterance.id}-{number:05d}",
        "audio": str(utterance.audio),
    }
    for name in ("speaker", "language", "split", "session"):
        if (value := getattr(utterance, name)) is not None:
            record[name] = value
    own = segment.to_record(with_words=with_words)
    return record | own | {key: value for key, value in utterance.extra.items() if key not in own}


def captions_of(segments: Sequence[Segment]) -> Iterator[Segment]:
    """Segments short enough to be read as captions; those without words stay as they are."""
    for segment in segments:
        if not segment.words:
            yield segment
            continue
        first = 0
        words = segment.words
        for index in range(1, len(words) + 1):
            if index == len(words) or _ends_caption(words[first:index], words[index]):
                part = words[first:index]
                text = " ".join(word.text for word in part)
                yield Segment(part[0].start, part[-1].end, text, words=part)
                first = index


def _ends_caption(words: Sequence[TimedWord], following: TimedWord) -> bool:
    """Whether a caption of some words ends before the next one."""
    length = sum(len(word.text) + 1 for word in words)
    return (
        following.start - words[-1].end >= _CAPTION_PAUSE_S
        or following.end - words[0].start > _CAPTION_S
        or length + len(following.text) > _CAPTION_CHARACTERS
        or (length >= _SENTENCE_CHARACTERS and words[-1].text.endswith(_SENTENCE_ENDS))
    )
