"""What is wrong with one manifest: its lines, clips, texts, speech rates and repeated audio."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moonshine_tune.audio.measure import ClipMeasures
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.corpus.manifest import LineProblem, Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.checks.rules import (
    CLIPPED_FRACTION,
    DURATION_SLACK,
    DURATION_SLACK_S,
    LONG_S,
    LONG_SILENCE_S,
    SHORT_S,
    SHORTEST_S,
)

# Below this many clips a median says little about what is usual.
_FEWEST_FOR_RATES = 20
# Speech rates are outliers beyond this many robust standard deviations of their logarithm, by this
# factor at least, and by this many characters: one word more or less is no sign of a mix-up, and in
# a corpus of single words it makes rates differ sixfold. With three texts exchanged in clean
# corpora of 50 to 948 clips, this named every exchanged text of read sentences that is 2.5 times
# too long or short, 60 % of those of spelled letters and numbers, and no other clip.
_RATE_DEVIATIONS, _RATE_FACTOR, _RATE_CHARACTERS = 3.0, 1.7, 10
# A spelled letter takes as long as a short word; a digit stands for a word.
_LETTER_CHARACTERS, _DIGIT_CHARACTERS = 3, 4
_SHOWN_CHARACTERS = 60

# What was seen, by kind: pairs of an utterance's id and a detail.
Seen = dict[str, list[tuple[str, str]]]
See = Callable[[str, str, str], None]


@dataclass(frozen=True)
class CheckedClip:
    """What was read of one utterance.

    Attributes:
        sample_rate_hz: of the file, before it was resampled.
        digest: of its samples as 16-bit numbers at 16 kHz.
    """

    utterance: Utterance
    sample_rate_hz: int
    measures: ClipMeasures
    digest: str


def recorder(seen: Seen) -> See:
    """A function that adds (kind, id, detail) to what was seen."""

    def see(kind: str, identifier: str, detail: str) -> None:
        seen.setdefault(kind, []).append((identifier, detail))

    return see


def see_lines(problems: Sequence[LineProblem], see: See) -> None:
    """Lines that gave no usable utterance."""
    for problem in problems:
        if problem.id is None:
            see(problem.kind, f"line {problem.line}", problem.message)
        else:
            see(problem.kind, problem.id, f"line {problem.line}: {problem.message}")


def see_places(utterances: Sequence[Utterance], folder: Path, see: See) -> None:
    """Recordings outside the manifest's folder."""
    for utterance in utterances:
        if not utterance.audio.is_relative_to(folder):
            see("outside_folder", utterance.id, str(utterance.audio))


def see_clip(clip: CheckedClip, see: See) -> None:
    """Length, loudness, clipping, silence, rate and told duration of one clip."""
    identifier, measures = clip.utterance.id, clip.measures
    length = f"{measures.seconds:.2f} s"
    if measures.seconds < SHORTEST_S:
        see("far_too_short", identifier, length)
    elif measures.is_silent:
        see("silent", identifier, f"loudest 10 ms at {measures.loudest_dbfs:.0f} dBFS")
    elif measures.seconds < SHORT_S:
        see("too_short", identifier, length)
    if measures.seconds > LONG_S:
        see("too_long", identifier, length)
    if measures.clipped_fraction > CLIPPED_FRACTION:
        see("clipped", identifier, f"{measures.clipped_fraction:.1%} of the samples")
    silence = max(measures.leading_silence_s, measures.trailing_silence_s)
    if silence > LONG_SILENCE_S and not measures.is_silent:
        see("long_silence", identifier, f"{silence:.1f} s")
    if clip.sample_rate_hz != SAMPLE_RATE_HZ:
        see("sample_rate", identifier, f"{clip.sample_rate_hz} Hz")
    told = clip.utterance.known_seconds
    slack = max(DURATION_SLACK_S, DURATION_SLACK * measures.seconds)
    if told is not None and abs(told - measures.seconds) > slack:
        see("wrong_duration", identifier, f"{told:g} s told, {length} measured")


def see_texts(utterances: Sequence[Utterance], see: See) -> None:
    """Missing, empty, capital and repeated texts."""
    if all(utterance.text is None for utterance in utterances):
        for utterance in utterances:
            see("no_texts", utterance.id, "no text")
        return
    same: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        if utterance.text is None:
            see("missing_text", utterance.id, "no text")
        elif not (plain := plain_text(utterance)):
            see("empty_text", utterance.id, repr(utterance.text))
        else:
            same[plain].append(utterance.id)
            if in_capitals(utterance.text):
                see("capitals", utterance.id, shortened(utterance.text))
    for plain, ids in same.items():
        if len(ids) > 1:
            for identifier in ids:
                see("same_text", identifier, f"{len(ids)} times: {shortened(plain)}")


def see_rates(clips: Sequence[CheckedClip], see: See) -> None:
    """Characters a second between the silences at both ends, against the corpus's median."""
    counts: dict[str, tuple[int, float]] = {}
    for clip in clips:
        num_characters = spoken_length(plain_text(clip.utterance))
        seconds = clip.measures.active_s
        if num_characters and seconds >= SHORTEST_S and not clip.measures.is_silent:
            counts[clip.utterance.id] = (num_characters, seconds)
    if len(counts) < _FEWEST_FOR_RATES:
        return
    logs = {key: math.log(number / seconds) for key, (number, seconds) in counts.items()}
    middle = statistics.median(logs.values())
    spread = 1.4826 * statistics.median(abs(value - middle) for value in logs.values())
    bound = max(_RATE_DEVIATIONS * spread, math.log(_RATE_FACTOR))
    usual = math.exp(middle)
    for identifier in sorted(logs, key=lambda key: -abs(logs[key] - middle)):
        number, seconds = counts[identifier]
        if abs(logs[identifier] - middle) <= bound:
            break
        if abs(number - usual * seconds) >= _RATE_CHARACTERS:
            detail = f"{number / seconds:.1f} characters a second, usual {usual:.1f}"
            see("speech_rate", identifier, detail)


def spoken_length(text: str) -> int:
    """Roughly how long a plain text takes to say, in characters of ordinary words."""
    digits = sum(character.isdigit() for character in text)
    words = "".join(" " if character.isdigit() else character for character in text).split()
    return _DIGIT_CHARACTERS * digits + sum(max(len(word), _LETTER_CHARACTERS) for word in words)


def see_copies(clips: Sequence[CheckedClip], see: See) -> None:
    """The same audio more than once, with the same text or with others."""
    for group in by_digest(clips).values():
        if len(group) < 2:
            continue
        texts = {plain_text(clip.utterance) for clip in group}
        kind = "conflicting_texts" if len(texts) > 1 else "duplicate_audio"
        for clip in group:
            others = ", ".join(one.utterance.id for one in group if one is not clip)
            see(kind, clip.utterance.id, f"the same audio as {shortened(others)}")


def by_digest(clips: Sequence[CheckedClip]) -> dict[str, list[CheckedClip]]:
    """Clips by content; silent ones are all alike and left out."""
    same: dict[str, list[CheckedClip]] = defaultdict(list)
    for clip in clips:
        if not clip.measures.is_silent:
            same[clip.digest].append(clip)
    return same


def in_capitals(text: str) -> bool:
    """Whether a text is all capitals: no small letter, and a word that is not spelled letters.

    Words of one or two letters do not count: `A`, `B C`, `OK` are written so in any corpus.
    """
    if any(character.islower() for character in text):
        return False
    return any(sum(letter.isupper() for letter in word) > 2 for word in text.split())


def plain_text(utterance: Utterance) -> str:
    """The text without case and punctuation; empty where there is none."""
    return normalizer_for("basic-1")(utterance.text) if utterance.text else ""


def shortened(text: str) -> str:
    """The text's beginning, for a line of a report."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
