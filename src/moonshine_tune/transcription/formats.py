"""Forms of transcripts: text, JSON Lines, captions and TextGrid."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.inference.timed_text import TimedWord
from moonshine_tune.transcription.segments import Segment, captions_of, manifest_record


class Document(NamedTuple):
    """The transcript of a recording.

    Attributes:
        end_s: where the recording ends in its file.
        segments: in order; those without text are left out.
    """

    utterance: Utterance
    end_s: float
    segments: tuple[Segment, ...]
    with_words: bool = False


class Format(NamedTuple):
    """A form of transcripts.

    Attributes:
        ending: of its files.
        render: the content of a file.
        is_timed: whether it needs the times or the confidence of words.
        has_words: whether it can hold each word.
        is_joinable: whether one file can hold several recordings.
    """

    ending: str
    render: Callable[[Document], str]
    is_timed: bool
    has_words: bool
    is_joinable: bool


def _text(document: Document) -> str:
    return "".join(f"{segment.text}\n" for segment in document.segments)


def _jsonl(document: Document) -> str:
    records = (
        manifest_record(document.utterance, number, segment, with_words=document.with_words)
        for number, segment in enumerate(document.segments, start=1)
    )
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _captions(form: str) -> Callable[[Document], str]:
    def render(document: Document) -> str:
        # Here: most commands need no captions.
        import pysubs2

        file = pysubs2.SSAFile()
        for caption in captions_of(document.segments):
            times = (round(1000 * moment) for moment in (caption.start, caption.end))
            file.append(pysubs2.SSAEvent(*times, text=caption.text))
        content: str = file.to_string(form)
        return content

    return render


def _textgrid(document: Document) -> str:
    """A tier of utterances, and with words a tier of words."""
    from praatio.utilities import textgrid_io

    end_s = max([document.end_s, *(segment.end for segment in document.segments)])
    tiers = {"utterances": _intervals(document.segments)}
    if document.with_words:
        tiers["words"] = _intervals([w for segment in document.segments for w in segment.words])
    content = {
        "xmin": 0.0,
        "xmax": end_s,
        "tiers": [
            {"class": "IntervalTier", "name": name, "xmin": 0.0, "xmax": end_s, "entries": entries}
            for name, entries in tiers.items()
        ],
    }
    text: str = textgrid_io.getTextgridAsStr(content, "long_textgrid", includeBlankSpaces=True)
    return text


def _intervals(spans: Sequence[Segment | TimedWord]) -> list[tuple[float, float, str]]:
    """Intervals as Praat takes them: none is empty, and none overlaps the one before."""
    entries: list[tuple[float, float, str]] = []
    for span in spans:
        start = max(span.start, entries[-1][1] if entries else 0.0)
        if span.end > start:
            entries.append((start, span.end, span.text))
    return entries


FORMATS = {
    "text": Format(".txt", _text, is_timed=False, has_words=False, is_joinable=True),
    "jsonl": Format(".jsonl", _jsonl, is_timed=True, has_words=True, is_joinable=True),
    "srt": Format(".srt", _captions("srt"), is_timed=True, has_words=False, is_joinable=False),
    "vtt": Format(".vtt", _captions("vtt"), is_timed=True, has_words=False, is_joinable=False),
    "textgrid": Format(".TextGrid", _textgrid, is_timed=False, has_words=True, is_joinable=False),
}
