"""Whether a recording of a prompt can be kept: the checks of `data check` and `data audit`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moonshine_tune.audio.io import audio_info, load_utterance, write_audio
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import AudioError
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import ManifestScan, Utterance
from moonshine_tune.corpus.normalizers import normalizer_for
from moonshine_tune.data.checks.base import Check, Drop, all_checks
from moonshine_tune.data.checks.checked_manifest import (
    CheckedClip,
    CheckedManifest,
    ModelEvidence,
    ModelTranscript,
    read_clip,
)
from moonshine_tune.data.checks.rules.model_transcripts import (
    FEWEST,
    MIN_CONFIDENCE,
    contradiction,
    recognized,
    suspicious_transcripts,
)

if TYPE_CHECKING:
    from moonshine_tune.inference.timed_text import TimedText
    from moonshine_tune.registry.open import OpenedModel

# What a person can do something about before the next sentence, in the order of the answer.
_CHECKS = ("unreadable", "empty_audio", "far_too_short", "silent", "clipped", "too_quiet", "noisy",
           "dc_offset", "too_short", "too_long")  # fmt: skip
# Until enough takes say what is usual: the loss of a prompt in nats per token, for another text and
# for one that is far longer or shorter. Tiny has a median of 0.8 to 2.8 on what is spoken, and of
# 5.7 to 7.9 on another text. `benchmarks/studio_mismatch.py`: of 200 read sentences of AN4,
# LibriSpeech and accented adults and children none is refused, and 191 of 200 with another text
# are; of 50 single letters 9 and 49.
_OTHER_TEXT, _OTHER_LENGTH = 4.0, 2.5
_MAX_CLIP_S = 30.0
_MAX_READ_S = 120.0
_AGAIN = "Record it again."


@dataclass(frozen=True)
class TakeFinding:
    """Why a recording is refused.

    Attributes:
        name: the kind of the check.
        message, action: what it means with the detail, and what to do.
        can_keep: whether a person may keep the recording nevertheless.
    """

    name: str
    message: str
    action: str
    can_keep: bool


@dataclass(frozen=True)
class TakeJudgment:
    """What a recording is like.

    Attributes:
        transcript: what the model recognizes; None where it was not asked.
        evidence: of the model about the prompt; None where it was not asked.
        remark: why the model was not asked although it should be.
    """

    findings: tuple[TakeFinding, ...]
    seconds: float = 0.0
    transcript: "TimedText | None" = None
    evidence: ModelTranscript | None = None
    remark: str = ""


def judge_take(
    path: Path,
    prompt: str,
    earlier: Sequence[ModelTranscript],
    open_model: "Callable[[], OpenedModel | str]",
    out: Path,
) -> TakeJudgment:
    """Judge the recording of a prompt, and write it as the model reads it.

    Args:
        earlier: what the model made of the accepted recordings.
        open_model: the model, or why there is none.
        out: FLAC file, written where the recording can be kept.
    """
    utterance = Utterance("take", path, prompt)
    with suppress(AudioError):
        # Hours would be decoded into memory; what cannot be read is judged below.
        if (seconds := audio_info(path).seconds) > _MAX_READ_S:
            message = f"Clip is far too long for a prompt ({seconds:.0f} s)"
            return TakeJudgment((TakeFinding("too_long", message, _AGAIN, False),), seconds)
    clip = read_clip(utterance, {}, with_quality=True)
    findings = tuple(_findings(utterance, clip))
    if not isinstance(clip, CheckedClip) or not all(item.can_keep for item in findings):
        seconds = clip.measures.seconds if isinstance(clip, CheckedClip) else 0.0
        return TakeJudgment(findings, seconds)
    samples = load_utterance(utterance)
    write_audio(out, samples)
    judgment = TakeJudgment(findings, clip.measures.seconds)
    if clip.measures.seconds > _MAX_CLIP_S:
        return judgment
    opened = open_model()
    if isinstance(opened, str):
        return TakeJudgment(findings, clip.measures.seconds, remark=opened)
    transcript, evidence = recognize(utterance, samples, opened)
    mismatch = other_text(evidence, earlier, opened)
    return TakeJudgment(
        (*findings, mismatch) if mismatch else findings, clip.measures.seconds, transcript, evidence
    )


def _findings(utterance: Utterance, clip: CheckedClip | tuple[str, str]) -> Iterator[TakeFinding]:
    is_read = isinstance(clip, CheckedClip)
    manifest = CheckedManifest(
        "take",
        ManifestScan(utterance.audio, (utterance,), (), ""),
        (clip,) if isinstance(clip, CheckedClip) else (),
        {} if isinstance(clip, CheckedClip) else {clip[0]: [(utterance.id, clip[1])]},
    )
    for name in _CHECKS:
        check = all_checks()[name]
        if check.in_manifest is None or (name in ("unreadable", "empty_audio")) == is_read:
            continue
        for _, detail in check.in_manifest(manifest):
            yield _finding(check, detail)


def _finding(check: Check, detail: str) -> TakeFinding:
    (finding,) = check.report("take", [("take", detail)])
    # "1 clip has …": there is only this one.
    message = finding.explanation.removeprefix("1 ")
    fix = check.declared.fix
    can_keep = finding.severity != "error" and (not isinstance(fix, Drop) or fix.on_request)
    return TakeFinding(
        check.kind,
        f"{message[:1].upper()}{message[1:]} ({detail})",
        "Record it again, or keep it if it cannot be better." if can_keep else _AGAIN,
        can_keep,
    )


def recognize(
    utterance: Utterance, samples: Samples, opened: "OpenedModel"
) -> "tuple[TimedText, ModelTranscript]":
    """The transcript with its words, and what the model thinks of the prompt."""
    # Here: a silent recording is refused before torch is loaded.
    from moonshine_tune.data.checks.transcribe import transcribe_corpus
    from moonshine_tune.inference.dataset import build_dataset
    from moonshine_tune.inference.transcribe import TorchTranscriber

    (transcript,) = TorchTranscriber(opened.model, opened.limits).transcribe_timed([samples])
    dataset = build_dataset(
        [utterance], opened.model, name="take", max_clip_s=_MAX_CLIP_S, needs_text=True
    )
    normalizer = normalizer_for(None, opened.language)
    (evidence,) = transcribe_corpus(dataset, opened, normalizer, SilentProgress())
    return transcript, evidence


def other_text(
    item: ModelTranscript, earlier: Sequence[ModelTranscript], opened: "OpenedModel"
) -> TakeFinding | None:
    """The finding that the prompt is not what was spoken."""
    normalizer = normalizer_for(None, opened.language)
    if len(earlier) + 1 >= FEWEST:
        evidence = ModelEvidence(opened.model.tokenizer.encode, (), normalizer, (*earlier, item))
        kinds = [
            (kind, detail)
            for kind, (identifier, detail) in suspicious_transcripts(evidence)
            if identifier == item.id
        ]
        return _finding_of(*kinds[0]) if kinds else None
    kind = contradiction(item, normalizer)
    bound = _OTHER_TEXT if kind == "doubtful_text" else _OTHER_LENGTH
    if kind is None or item.confidence < MIN_CONFIDENCE or item.reference_loss <= bound:
        return None
    return _finding_of(kind, recognized(item))


_MISMATCHES = {
    "words_missing": "More is spoken than the prompt has",
    "words_not_said": "Less is spoken than the prompt has",
}


def _finding_of(kind: str, detail: str) -> TakeFinding:
    message = _MISMATCHES.get(kind, "What is spoken is not the prompt")
    return TakeFinding(
        kind,
        f"{message} ({detail})",
        "Read the prompt again, or keep the recording if it is right.",
        can_keep=True,
    )
