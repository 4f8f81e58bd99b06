"""Recordings that cannot be decoded, or whose length is a problem."""

from collections.abc import Iterable
from dataclasses import replace

from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.data.checks.base import Drop, Edit, clip_check, manifest_check
from moonshine_tune.data.checks.checked_manifest import (
    DURATION_SLACK_S,
    SHORTEST_S,
    CheckedClip,
    CheckedManifest,
    Occurrence,
)

# Moonshine tiny often makes up words for clips below about a second.
_SHORT_S = 1.0
# Training leaves longer clips out: memory grows with the square of the length, and the models
# were trained on clips up to this length.
_LONG_S = 30.0
_DURATION_SLACK = 0.05


@manifest_check("error", rank=40, fix=Drop())
def unreadable(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[recording|recordings] cannot be decoded to the end.

    Play [it|them]; replace what is damaged, or remove [the line|the lines].
    """
    return manifest.unusable.get("unreadable", [])


@manifest_check("error", rank=50, fix=Drop())
def empty_audio(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[recording has|recordings have] no samples.

    Remove [the line|the lines].
    """
    return manifest.unusable.get("empty_audio", [])


@manifest_check("error", rank=70, fix=Drop())
def span_outside(manifest: CheckedManifest) -> Iterable[Occurrence]:
    """[span ends after its recording|spans end after their recordings]: the audio lacks words of
    the text.

    Fix start and end.
    """
    return manifest.unusable.get("span_outside", [])


@clip_check("error", rank=80, fix=Drop(), limit=f"{SHORTEST_S:g}")
def far_too_short(clip: CheckedClip) -> str | None:
    """[clip is|clips are] shorter than {limit} s: too short for a word.

    Remove [the line|the lines].
    """
    return _length(clip) if clip.measures.seconds < SHORTEST_S else None


@clip_check("warning", rank=30, fix=Drop(on_request=True), limit=f"{_SHORT_S:g}")
def too_short(clip: CheckedClip) -> str | None:
    """[clip is|clips are] shorter than {limit} s: Moonshine often makes up words for [it|them].

    Keep [it|them] if such short commands are your domain, else cut with more context.
    """
    is_short = SHORTEST_S <= clip.measures.seconds < _SHORT_S
    return _length(clip) if is_short and not clip.measures.is_silent else None


@clip_check("warning", rank=40, fix=Drop(), limit=f"{_LONG_S:g}")
def too_long(clip: CheckedClip) -> str | None:
    """[clip is|clips are] longer than {limit} s: training leaves [it|them] out.

    Divide [its transcript|their transcripts] among pieces: moonshine-tune data align AUDIO TEXT.
    Without a transcript: moonshine-tune data import AUDIO --no-text --cut.
    """
    return _length(clip) if clip.measures.seconds > _LONG_S else None


def _set_duration(utterance: Utterance, seconds: float | None) -> Utterance:
    return replace(utterance, duration=seconds)


@clip_check(
    "warning",
    rank=90,
    fix=Edit("set_duration", _set_duration, 9, lambda clip: round(clip.measures.seconds, 4)),
)
def wrong_duration(clip: CheckedClip) -> str | None:
    """[duration|durations] in the manifest [differs|differ] from the recording.

    Import again, or remove the key duration.
    """
    stated, measured = clip.utterance.known_seconds, clip.measures.seconds
    slack = max(DURATION_SLACK_S, _DURATION_SLACK * measured)
    if stated is None or abs(stated - measured) <= slack:
        return None
    return f"{stated:g} s in the manifest, {_length(clip)} measured"


@clip_check("warning", rank=100)
def joined_recordings(clip: CheckedClip) -> str | None:
    """[recording consists|recordings consist] of several files, one after the other; all are read.

    Listen whether the text is that of all of them.
    """
    return _remark(clip, "joined")


@clip_check("warning", rank=105)
def left_out_tracks(clip: CheckedClip) -> str | None:
    """[recording has|recordings have] several audio tracks, of which the first is read.

    Listen; write another one with: ffmpeg -i OLD -map 0:a:1 NEW.wav.
    """
    return _remark(clip, "tracks")


@clip_check("warning", rank=110)
def left_out_channels(clip: CheckedClip) -> str | None:
    """[recording has|recordings have] channels that would spoil their mean, and are left out.

    Choose another channel with: moonshine-tune data import FOLDER --audio-out DIR --channel N.
    """
    return _remark(clip, "channels")


@clip_check("warning", rank=120)
def float_scale(clip: CheckedClip) -> str | None:
    """[recording stores|recordings store] floats at the scale of integers; brought to ±1 when read.

    Write floats within ±1, or 16-bit integers, for other programs.
    """
    return _remark(clip, "scale")


def _remark(clip: CheckedClip, kind: str) -> str | None:
    return next((remark.text for remark in clip.remarks if remark.kind == kind), None)


@clip_check("note", rank=40)
def sample_rate(clip: CheckedClip) -> str | None:
    """[recording is|recordings are] not at 16 kHz: resampled when read; a lower rate has no
    frequencies above half of it.

    Do nothing.
    """
    return f"{clip.sample_rate_hz} Hz" if clip.sample_rate_hz != SAMPLE_RATE_HZ else None


def _length(clip: CheckedClip) -> str:
    return f"{clip.measures.seconds:.2f} s"
