"""What `data check` can find: each kind with its severity, its reason and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass

# The encoder's first layers see 127 samples and more at once; below this it has hardly a frame,
# and no word is this short.
SHORTEST_S = 0.1
# Moonshine tiny makes up words for clips below about a second.
SHORT_S = 1.0
# Training leaves longer clips out: memory grows with the square of the length, and the models
# were trained on clips up to here.
LONG_S = 30.0
# In a loud but whole recording a few samples touch full scale; from here on it can be heard.
CLIPPED_FRACTION = 0.001
# Silence at one end beyond this is more pause than a speaker makes.
LONG_SILENCE_S = 3.0
# A manifest's duration may be rounded to tenths of a second, or measured before trimming.
DURATION_SLACK_S, DURATION_SLACK = 0.15, 0.05
# `data audit` also sees: speech hardly above its noise, a level that 16 bits hold badly, a
# converter with an offset, and a line or codec that cut off the upper band.
NOISY_SNR_DB = 6.0
QUIET_DBFS = -42.0
OFFSET = 0.02
NARROW_HZ = 4_200.0


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    Attributes:
        severity: `error` where training or scoring would be wrong; `warning` where it would
            suffer; `note` where a person may want to know.
        explanation: what it means.
        action: what to do.
    """

    severity: str
    explanation: str
    action: str


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one manifest, or between several, with all utterances that have it.

    Attributes:
        manifest: as it was named; None where the finding lies between sides of a split.
        count: utterances, or lines.
        ids: one for each; `line N` where a line has no id, `side:id` between sides.
        details: what was seen, one for each.
    """

    kind: str
    severity: str
    manifest: str | None
    count: int
    ids: tuple[str, ...]
    details: tuple[str, ...]
    explanation: str
    action: str


RULES: dict[str, Rule] = {
    "bad_line": Rule("error", "lines that are no utterance", "mend or remove these lines"),
    "duplicate_id": Rule(
        "error",
        "ids that an earlier line has: scores and hypotheses would be mixed up",
        "give each line an id of its own",
    ),
    "missing_recording": Rule(
        "error", "recordings that are not there", "mend the path or remove the line"
    ),
    "unreadable": Rule(
        "error",
        "recordings that cannot be decoded to their end",
        "play them once; replace what is damaged, or remove the line",
    ),
    "empty_audio": Rule("error", "recordings without samples", "remove the line"),
    "silent": Rule(
        "error",
        "nothing rises above the noise of a muted microphone: the model would learn to make "
        "these words up",
        "record again or remove the line",
    ),
    "span_outside": Rule(
        "error",
        "spans that end after their recording: words of the text are missing in the audio",
        "mend start and end",
    ),
    "far_too_short": Rule(
        "error", f"clips below {SHORTEST_S:g} s: no word fits in", "remove the line"
    ),
    "missing_text": Rule(
        "error",
        "no transcript, in a manifest that has some",
        "add the text or remove the line",
    ),
    "empty_text": Rule(
        "error",
        "empty transcripts: whatever is spoken there would count as wrong",
        "add the text or remove the line",
    ),
    "conflicting_texts": Rule(
        "error",
        "the same audio with different texts: one of them is wrong",
        "listen, and keep the right one",
    ),
    "leaked_speakers": Rule(
        "error",
        "voices on more than one side of the split: the score overstates what was gained",
        "split again by speaker: moonshine-tune data split MANIFEST --out DIR",
    ),
    "leaked_recordings": Rule(
        "error",
        "the same recording, or the same audio, on more than one side of the split",
        "remove it from one side, or split again: moonshine-tune data split MANIFEST --out DIR",
    ),
    "leaked_texts": Rule(
        "warning",
        "texts on more than one side of the split: right for commands, too easy for sentences",
        "where sentences should be new: moonshine-tune data split MANIFEST --out DIR "
        "--disjoint-texts",
    ),
    "no_texts": Rule(
        "warning",
        "no line has a transcript: good for replay and transcribing, not for training or scoring",
        "add texts where you mean to train or score",
    ),
    "too_short": Rule(
        "warning",
        f"clips below {SHORT_S:g} s: Moonshine tends to make up words for them",
        "keep them if such short commands are your domain, else cut with more context",
    ),
    "too_long": Rule(
        "warning",
        f"clips above {LONG_S:g} s: training leaves them out",
        "cut them at pauses and give each piece its text",
    ),
    "clipped": Rule(
        "warning",
        f"more than {CLIPPED_FRACTION:.1%} of the samples are cut off at full scale",
        "record at a lower level where you can",
    ),
    "capitals": Rule(
        "warning",
        "texts in capitals: they teach typography, not words",
        "write them as you want to read them: Turn left heading one two zero",
    ),
    "speech_rate": Rule(
        "warning",
        "far more or less text a second than the other clips: text and audio may not belong "
        "together, or words are missing",
        "listen to these, the first ones first",
    ),
    "duplicate_audio": Rule(
        "warning", "the same audio more than once", "keep one, unless you mean to weigh it more"
    ),
    "wrong_duration": Rule(
        "warning",
        "the manifest's duration is not that of the recording",
        "import again, or remove the key duration",
    ),
    "swapped_text": Rule(
        "warning",
        "what the base model hears is the text of another utterance, and this text is not said",
        "listen to both; exchange their texts, or remove them",
    ),
    "doubtful_text": Rule(
        "warning",
        "the base model is sure of hearing something else, far more so than in this corpus as a "
        "rule",
        "listen to these; mend the text or remove the line",
    ),
    "words_missing": Rule(
        "warning",
        "far more is said than the transcript has",
        "listen; complete the text, or cut the recording",
    ),
    "words_not_said": Rule(
        "warning",
        "the transcript has far more than is said",
        "listen; shorten the text, or look for the rest of the recording",
    ),
    "markup": Rule(
        "warning",
        "brackets, tags, links or placeholders: nobody says them",
        "take them out of the text",
    ),
    "repeated_words": Rule(
        "warning",
        "a phrase three times in a row, as recognizers write when they lose their way",
        "listen; mend the text",
    ),
    "mixed_numbers": Rule(
        "warning",
        "numbers written otherwise than in the rest of the corpus: two ways to learn for one sound",
        "write them as the others are written",
    ),
    "odd_characters": Rule(
        "warning",
        "characters that the tokenizer has no piece for and spells byte by byte",
        "write them in another way where they carry nothing: ’ as ', ﬁ as fi",
    ),
    "noisy": Rule(
        "warning",
        f"speech less than {NOISY_SNR_DB:g} dB above the noise (estimated)",
        "keep them if such noise is your domain; else record closer to the mouth",
    ),
    "too_quiet": Rule(
        "warning",
        f"not even the loudest 10 ms reach {QUIET_DBFS:g} dBFS: little more than rounding is left",
        "record at a higher level",
    ),
    "dc_offset": Rule(
        "warning",
        f"the samples lie {OFFSET:.0%} of full scale and more beside zero: a converter's fault",
        "mend the recorder; the offset can be filtered out",
    ),
    "narrow_band": Rule(
        "note",
        f"nothing above {NARROW_HZ:g} Hz: recorded over a telephone, or by a codec",
        "nothing, if your microphone will be the same; else record again",
    ),
    "unknown_speakers": Rule(
        "note",
        "no speaker and no session: a voice on two sides of the split cannot be seen",
        "add a speaker to each line where you can",
    ),
    "same_text": Rule("note", "texts that were said more than once", "nothing, if you mean it"),
    "sample_rate": Rule(
        "note",
        "not 16 kHz: resampled when read; what is above half of a lower rate is not there",
        "nothing",
    ),
    "outside_folder": Rule(
        "note",
        "recordings outside the manifest's folder: it cannot be moved with its audio",
        "nothing, or put the manifest above its audio",
    ),
    "long_silence": Rule(
        "note",
        f"more than {LONG_SILENCE_S:g} s of silence at one end",
        "trim them: silence costs training time",
    ),
}


def make_finding(kind: str, manifest: str | None, seen: Iterable[tuple[str, str]]) -> Finding:
    """A finding of that kind; `seen` pairs an utterance's id with what was seen of it."""
    rule, pairs = RULES[kind], tuple(seen)
    return Finding(
        kind=kind,
        severity=rule.severity,
        manifest=manifest,
        count=len(pairs),
        ids=tuple(identifier for identifier, _detail in pairs),
        details=tuple(detail for _identifier, detail in pairs),
        explanation=rule.explanation,
        action=rule.action,
    )
