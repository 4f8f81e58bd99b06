"""TextGrids of Praat and annotations of ELAN: which of their tiers have the texts.

praatio parses the TextGrids, long and short. A tier for each speaker has its intervals where the
others have none; words and phones are inside of the intervals of their utterances.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.importers.transcripts.cue import (
    Cue,
    TranscriptFile,
    is_alignment,
    spoken_transcript,
    without_silence,
)

ALL = "*"
_USUAL_TIERS = ("utterances", "utterance", "sentences", "sentence", "text", "transcript",
                "transcription", "phrases", "phrase")  # fmt: skip
_ALIGNED = re.compile(r"(.*\W)?(words?|phon(e|eme)s?|syllables?|segments?|mau|ort(-mau)?)", re.I)
# Tiers of an annotation and not of a speaker, wherever their intervals are.
_NO_SPEAKER = re.compile(
    r".*\b(words?|phon(e|eme)s?|syllables?|segments?|ort|mau|kan|pos|gloss|translations?|notes?|"
    r"comments?|noises?|events?|music|topics?|pauses?|silences?|tags?|gestures?|emotions?)\b.*",
    re.IGNORECASE,
)
# Of the shorter tier's time, how much two speakers talk at the same time; and how much of a tier is
# inside of the intervals of the tier that it divides, and how much of these it fills.
_MOST_SHARED, _LEAST_INSIDE, _LEAST_FILLED = 0.3, 0.9, 0.6
# What praatio raises for damaged files, beside its own errors.
_FAULTS = (ValueError, IndexError, KeyError, TypeError, AttributeError, AssertionError,
           RecursionError, OverflowError)  # fmt: skip

Tiers = dict[str, list[Cue]]


class TierChoiceError(RequestError):
    """Which tier has the texts is not certain."""


def textgrid(file: Path, content: str, tier: str | None) -> TranscriptFile:
    """The cues of a TextGrid.

    Raises:
        RequestError: not a TextGrid, or which tiers have the texts is not certain.
    """
    # Here, as only TextGrids need it.
    from praatio.utilities import textgrid_io
    from praatio.utilities.errors import PraatioException

    try:
        parsed = textgrid_io.parseTextgridStr(content, includeEmptyIntervals=False)
        tiers: Tiers = {}
        for item in parsed["tiers"]:
            if item["class"] == "IntervalTier":
                name = str(item["name"])
                while name in tiers:
                    name += "'"
                tiers[name] = [
                    Cue(number, float(start), float(end), str(label))
                    for number, (start, end, label) in enumerate(item["entries"], start=1)
                ]
    except (PraatioException, *_FAULTS) as error:
        raise RequestError(
            f"cannot be read as a TextGrid ({error or type(error).__name__})",
            where=file,
            hint="open it in Praat and save it again as a text file, in UTF-8",
        ) from error
    return _transcript(file, tiers, tier)


def elan(file: Path, content: str, tier: str | None) -> TranscriptFile:
    """The cues of an ELAN annotation (`.eaf`); tiers that depend on others have no times.

    Raises:
        RequestError: not such a file, or which tiers have the texts is not certain.
    """
    try:
        root = ElementTree.fromstring(content.encode("utf-8"))
        slots = {
            slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "-1")) / 1000
            for slot in root.iter("TIME_SLOT")
        }
        tiers: Tiers = {}
        for item in root.iter("TIER"):
            cues: list[Cue] = []
            for annotation in item.iter("ALIGNABLE_ANNOTATION"):
                start = slots[annotation.get("TIME_SLOT_REF1")]
                end = slots[annotation.get("TIME_SLOT_REF2")]
                text = annotation.findtext("ANNOTATION_VALUE") or ""
                cues.append(Cue(len(cues) + 1, start, end, text))
            tiers[item.get("TIER_ID") or ""] = cues
    except (ElementTree.ParseError, *_FAULTS) as error:
        raise RequestError(
            f"cannot be read as an ELAN annotation ({error})",
            where=file,
            hint="export it in ELAN as a Praat TextGrid",
        ) from error
    return _transcript(file, tiers, tier)


def _transcript(file: Path, tiers: Tiers, wanted: str | None) -> TranscriptFile:
    spoken = {name: without_silence(cues)[0] for name, cues in tiers.items()}
    names, remarks = _named(file, spoken, wanted) if wanted else _chosen(file, spoken)
    cues = [(cue, name) for name in names for cue in tiers[name]]
    if len(names) == 1:
        name = names[0]
        if wanted is None and (
            is_alignment(tiers[name])
            or (_ALIGNED.fullmatch(name) and not any(" " in cue.text for cue in spoken[name]))
        ):
            raise _choice(file, tiers, "single words or phones, not utterances")
        return spoken_transcript(file, tiers[name], remarks)
    # Numbered anew, in the order of their times: each tier begins with 1.
    cues.sort(key=lambda pair: pair[0].start)
    merged = [
        replace(cue, number=number, speaker=name)
        for number, (cue, name) in enumerate(cues, start=1)
    ]
    return spoken_transcript(file, merged, remarks)


def _named(file: Path, tiers: Tiers, wanted: str) -> tuple[list[str], tuple[str, ...]]:
    """The tiers that the user names."""
    if wanted in tiers:
        return [wanted], ()
    names = [name for name in tiers if tiers[name]] if wanted == ALL else wanted.split(",")
    names = [name.strip() for name in names]
    missing = [name for name in names if name not in tiers]
    if missing or not names:
        raise _choice(file, tiers, f"no interval tier is called {(missing or [wanted])[0]!r}")
    return names, ()


def _chosen(file: Path, tiers: Tiers) -> tuple[list[str], tuple[str, ...]]:
    """The tiers with the texts, by content: one, or one for each speaker."""
    if not tiers:
        raise _choice(file, tiers, "no tier has intervals with times")
    names = [name for name, cues in tiers.items() if cues]
    if len(names) <= 1:
        return names or list(tiers)[:1], ()
    inner = {a for a in names for b in names if a != b and _divides(tiers[a], tiers[b])}
    # Identical intervals divide each other: the name decides.
    utterances = [name for name in names if name not in inner]
    if len(utterances) == 1:
        return utterances, (f"the tier {utterances[0]!r} has the utterances of the other tiers",)
    usual = [name for name in names if name.casefold() in _USUAL_TIERS]
    if len(usual) == 1 and all(
        name in inner or _NO_SPEAKER.fullmatch(name) for name in names if name not in usual
    ):
        return usual, (f"the tier {usual[0]!r} has the texts",)
    pairs = [(a, b) for n, a in enumerate(utterances) for b in utterances[n + 1 :]]
    if (
        utterances
        and not usual
        and not any(map(_NO_SPEAKER.fullmatch, utterances))
        and all(_shared(tiers[a], tiers[b]) <= _MOST_SHARED for a, b in pairs)
    ):
        return utterances, (f"tiers are speakers: {', '.join(utterances)}",)
    raise _choice(file, tiers, "which tier has the texts?")


def _choice(file: Path, tiers: Mapping[str, list[Cue]], problem: str) -> TierChoiceError:
    examples = "; ".join(
        f"{name}: {len(cues)} intervals, {cues[0].text[:30]!r}"
        for name, cues in tiers.items()
        if cues
    )
    separator = " " if problem.endswith("?") else ". "
    names = ", ".join(tiers) or "none"
    return TierChoiceError(
        f"{problem}{separator}Its tiers: {names}" + (f" ({examples})" if examples else ""),
        where=file,
        hint=f"name it with: --tier NAME. If each tier is a speaker: --tier '{ALL}', or "
        "--tier NAME,NAME"
        if tiers
        else "add a tier of intervals with the texts",
    )


def _shared(first: list[Cue], second: list[Cue]) -> float:
    """Time in which both have an interval, as a share of the shorter one's."""
    shared = _common(first, second)
    return shared / max(min(_length(first), _length(second)), 1e-9)


def _divides(inner: list[Cue], outer: list[Cue]) -> bool:
    """Whether the intervals of a tier are parts of the intervals of another, and fill them.

    Short answers of a listener are inside of the speaker's intervals too, but do not fill them.
    Tiers with the same number of intervals do not divide each other: one may be a translation.
    """
    common = _common(inner, outer)
    return (
        len(inner) > len(outer)
        and common >= _LEAST_INSIDE * _length(inner)
        and common >= _LEAST_FILLED * _length(outer)
    )


def _length(cues: list[Cue]) -> float:
    return sum((cue.end or cue.start) - cue.start for cue in cues)


def _common(first: list[Cue], second: list[Cue]) -> float:
    """Seconds in which both have an interval; both are sorted."""
    total, n, m = 0.0, 0, 0
    while n < len(first) and m < len(second):
        a, b = first[n], second[m]
        a_end, b_end = a.end or a.start, b.end or b.start
        total += max(0.0, min(a_end, b_end) - max(a.start, b.start))
        if a_end <= b_end:
            n += 1
        else:
            m += 1
    return total
