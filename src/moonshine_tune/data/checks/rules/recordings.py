"""Recordings that cannot be decoded, or whose length is a problem."""

from collections.abc import Iterator
from dataclasses import replace

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.checks.base import Drop, Edit, clip_check, manifest_check
from moonshine_tune.data.checks.checked_manifest import (
    DURATION_SLACK_S,
    SHORTEST_S,
    CheckedClip,
    CheckedManifest,
    Sighting,
)

# Moonshine tiny often makes up words for clips below about a second.
_SHORT_S = 1.0
# Training leaves longer clips out: memory grows with the square of the length, and the models
# were trained on clips up to this length.
_LONG_S = 30.0
_DURATION_SLACK = 0.05


@manifest_check(
    severity="error",
    rank=40,
    text="[recording|recordings] cannot be decoded to the end",
    hint="play them; replace damaged recordings, or remove their lines",
    fix=Drop(),
)
def unreadable(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.unread_as("unreadable")


@manifest_check(
    severity="error",
    rank=50,
    text="[recording has|recordings have] no samples",
    hint="remove the line",
    fix=Drop(),
)
def empty_audio(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.unread_as("empty_audio")


@manifest_check(
    severity="error",
    rank=70,
    text="[span ends after its recording|spans end after their recordings]: the audio lacks words "
    "of the text",
    hint="fix start and end",
    fix=Drop(),
)
def span_outside(manifest: CheckedManifest) -> Iterator[Sighting]:
    return manifest.unread_as("span_outside")


@clip_check(
    severity="error",
    rank=80,
    text=f"[clip is|clips are] shorter than {SHORTEST_S:g} s: too short for a word",
    hint="remove the line",
    fix=Drop(),
)
def far_too_short(clip: CheckedClip) -> str | None:
    return _length(clip) if clip.measures.seconds < SHORTEST_S else None


@clip_check(
    severity="warning",
    rank=30,
    text=f"[clip is|clips are] shorter than {_SHORT_S:g} s: Moonshine often makes up words for "
    "[it|them]",
    hint="keep them if such short commands are your domain, else cut with more context",
    fix=Drop(on_request=True),
)
def too_short(clip: CheckedClip) -> str | None:
    is_short = SHORTEST_S <= clip.measures.seconds < _SHORT_S
    return _length(clip) if is_short and not clip.measures.is_silent else None


@clip_check(
    severity="warning",
    rank=40,
    text=f"[clip is|clips are] longer than {_LONG_S:g} s: training leaves [it|them] out",
    hint="cut them at pauses, and give each piece its text",
    fix=Drop(),
)
def too_long(clip: CheckedClip) -> str | None:
    return _length(clip) if clip.measures.seconds > _LONG_S else None


def _set_duration(utterance: Utterance, seconds: float | None) -> Utterance:
    return replace(utterance, duration=seconds)


@clip_check(
    severity="warning",
    rank=90,
    text="[duration|durations] in the manifest [differs|differ] from the recording",
    hint="import again, or remove the key duration",
    fix=Edit("set_duration", _set_duration, 9, lambda clip: round(clip.measures.seconds, 4)),
)
def wrong_duration(clip: CheckedClip) -> str | None:
    stated, measured = clip.utterance.known_seconds, clip.measures.seconds
    slack = max(DURATION_SLACK_S, _DURATION_SLACK * measured)
    if stated is None or abs(stated - measured) <= slack:
        return None
    return f"{stated:g} s in the manifest, {_length(clip)} measured"


@clip_check(
    severity="note",
    rank=40,
    text="[recording is|recordings are] not at 16 kHz: resampled when read; a lower rate has no "
    "frequencies above half of it",
    hint="do nothing",
)
def sample_rate(clip: CheckedClip) -> str | None:
    return f"{clip.sample_rate_hz} Hz" if clip.sample_rate_hz != SAMPLE_RATE_HZ else None


def _length(clip: CheckedClip) -> str:
    return f"{clip.measures.seconds:.2f} s"
