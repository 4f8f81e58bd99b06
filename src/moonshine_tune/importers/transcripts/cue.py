"""A cue, and what one transcript file holds."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from moonshine_tune.corpus.transcript_form import is_silence_label

# Cues are timed by hand: a smaller overlap is no sign of a wrong time.
OVERLAP_S = 0.05
# An alignment of words or of phones has many cues of one word, one directly after the other.
_FEWEST_ALIGNED, _ALIGNED_SHARE, _ALIGNED_GAP_S, _LONGEST_ALIGNED_S = 3, 0.8, 0.02, 0.7


@dataclass(frozen=True)
class Cue:
    """A span of a recording in seconds, with its text.

    Attributes:
        number: position in its file, from 1.
        end: None if the file does not say it.
    """

    number: int
    start: float
    end: float | None
    text: str
    speaker: str | None = None


@dataclass(frozen=True)
class TranscriptFile:
    """What a file says about one recording: a text, or cues.

    Attributes:
        text: of the whole recording; None if the file has cues.
        remarks: what was decided by content, a few words each.
        problem: why the file cannot be used, in a sentence.
        fields: other fields of a manifest, by name.
        is_by_line: whether the numbers of cues are those of lines.
        silence: labels of the cues without words, which are left out.
        is_doubtful: whether the times may be words, if they are not within the recording.
    """

    file: Path
    text: str | None = None
    cues: tuple[Cue, ...] = ()
    remarks: tuple[str, ...] = ()
    problem: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    is_by_line: bool = False
    silence: tuple[str, ...] = ()
    is_doubtful: bool = False

    @property
    def words(self) -> str:
        """All words, as they are."""
        return " ".join(cue.text for cue in self.cues) if self.text is None else self.text


def spoken_transcript(
    file: Path, cues: list[Cue], remarks: tuple[str, ...] = (), *, is_by_line: bool = False
) -> TranscriptFile:
    """The transcript of cues, without those that mark silence."""
    spoken, silent = without_silence(cues)
    return TranscriptFile(
        file,
        cues=tuple(spoken),
        remarks=remarks,
        is_by_line=is_by_line,
        silence=tuple(dict.fromkeys(silent)),
    )


def without_silence(cues: list[Cue]) -> tuple[list[Cue], list[str]]:
    """The cues that have words, with single spaces; and the labels of the others."""
    kept, silent = [], []
    for cue in cues:
        text = " ".join(cue.text.split())
        # Punctuation alone is no word either.
        if not any(map(str.isalnum, text)) or is_silence_label(text):
            silent.append(text)
        else:
            kept.append(replace(cue, text=text))
    return kept, silent


def is_alignment(cues: list[Cue]) -> bool:
    """Whether cues are words or phones one after the other, as a forced aligner writes them.

    Commands of one word are no alignment: there are pauses between them.
    """
    spoken = without_silence(cues)[0]
    if len(spoken) < _FEWEST_ALIGNED or any(" " in cue.text for cue in spoken):
        return False
    lengths = [cue.end - cue.start for cue in spoken if cue.end is not None]
    joined = sum(
        before.end is not None and abs(after.start - before.end) <= _ALIGNED_GAP_S
        for before, after in pairwise(spoken)
    )
    return joined >= _ALIGNED_SHARE * (len(spoken) - 1) and sum(
        lengths
    ) <= _LONGEST_ALIGNED_S * len(lengths)
