"""`data align`: long recordings and their transcripts become a manifest of utterances."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moonshine_tune.audio.blocks import BlockReader
from moonshine_tune.audio.io import audio_info
from moonshine_tune.audio.pauses import Breaks, Span, cut_at_pauses
from moonshine_tune.core.errors import (
    AudioError,
    NegativeAnswerError,
    ProblemsError,
    RequestError,
)
from moonshine_tune.core.files import holds_out, write_jsonl_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, write_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.corpus.transcript_form import clean_text
from moonshine_tune.data.alignment.hypotheses import WordLikelihoods, transcribe_spans
from moonshine_tune.data.alignment.join import absorb_faults, join_segments
from moonshine_tune.data.alignment.judge import judge_segments
from moonshine_tune.data.alignment.match import SpokenPiece
from moonshine_tune.data.alignment.pairs import TextPair, find_pairs, transcript_text
from moonshine_tune.data.alignment.segments import AlignedSegment, divide_text
from moonshine_tune.data.alignment.text_words import text_words
from moonshine_tune.registry.open import OpenedModel, open_model

# The model makes fewer errors on single sentences, and more borders are found between them.
_PIECE_S, _PAUSE_S, _SHORTEST_S = 12.0, 0.5, 1.0


@dataclass(frozen=True)
class AlignRequest:
    """What to align.

    Attributes:
        audio: a recording, or a folder of recordings with texts of the same names.
        transcript: of the one recording; None takes the text of its name.
        out: the manifest to write.
        model: that transcribes the pieces.
        language: of the manifest, and of the normalizer; None for the model's.
        encoding: of the transcripts, such as cp1252; None for UTF-8 or UTF-16.
        max_clip_s: longest utterance, in seconds.
        min_agreement: segments with less are kept only if the model finds no other text likelier.
        skip_bad: leave out pairs that do not fit, instead of refusing all.
        force: replace existing files.
    """

    audio: Path
    out: Path
    transcript: Path | None = None
    model: str = "tiny"
    language: str | None = None
    encoding: str | None = None
    max_clip_s: float = 30.0
    min_agreement: float = 0.75
    device: str = "auto"
    skip_bad: bool = False
    force: bool = False

    @property
    def left_out(self) -> Path:
        """The file that lists what is not in the manifest, with the reasons."""
        return self.out.with_name(f"{self.out.stem}-left-out.jsonl")


@dataclass(frozen=True)
class AlignedPair:
    """A recording and what became of its transcript.

    Attributes:
        agreement: share of the shorter of speech and text that agrees in segments, 0 to 1.
        kept, left_out: segments.
        kept_s, speech_s, seconds: of the kept segments, of all with speech, of the recording.
        unread: passages of the text that nobody reads.
        problem: why no segment is kept; None if some are.
    """

    audio: Path
    transcript: Path
    seconds: float
    speech_s: float = 0.0
    agreement: float = 0.0
    kept: int = 0
    kept_s: float = 0.0
    left_out: int = 0
    unread: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class AlignResult:
    """What was aligned.

    Attributes:
        left_out_file: lists what is in no utterance, with reasons; None if all is used.
        reasons: why parts are listed there → how many.
        without_text: recordings of the folder without a transcript.
    """

    manifest: Path
    left_out_file: Path | None
    reasons: dict[str, int]
    pairs: tuple[AlignedPair, ...]
    without_text: tuple[Path, ...]

    @property
    def kept(self) -> int:
        """Utterances of the manifest."""
        return sum(pair.kept for pair in self.pairs)

    @property
    def kept_s(self) -> float:
        """Their seconds."""
        return sum(pair.kept_s for pair in self.pairs)

    @property
    def speech_s(self) -> float:
        """Seconds with speech of all recordings."""
        return sum(pair.speech_s for pair in self.pairs)

    def to_record(self) -> dict[str, Any]:
        """The JSON document."""
        return asdict(self) | {
            "kept": self.kept,
            "kept_s": round(self.kept_s, 3),
            "speech_s": round(self.speech_s, 3),
        }


@dataclass(frozen=True)
class _Judged:
    """One pair, its utterances, and what is in none of them."""

    pair: AlignedPair
    utterances: tuple[Utterance, ...] = ()
    left_out: tuple[dict[str, Any], ...] = ()


@holds_out(lambda request, progress: request.out)
def align_recordings(request: AlignRequest, progress: Progress) -> AlignResult:
    """Write a manifest of the utterances of long recordings, with their parts of the transcripts.

    Raises:
        RequestError: no recording, no transcript, an existing manifest, or an unknown model.
        ProblemsError: pairs that cannot be read; all are listed.
        NegativeAnswerError: transcripts that are not those of their recordings.
    """
    _check_out(request)
    pairs, missing = find_pairs(request.audio, request.transcript)
    texts = _read_all(pairs, request)
    spans = _speech_of(pairs, request, progress)
    opened = open_model(request.model, device=request.device, dtype="float32", progress=progress)
    normalizer = normalizer_for(None, request.language or opened.language)
    judged = [
        _align_pair(pair, text, pieces, normalizer, request, opened, progress)
        for pair, text, pieces in zip(pairs, texts, spans, strict=True)
    ]
    _refuse_other_texts([item.pair for item in judged], request)
    left_out = [record for item in judged for record in item.left_out]
    if left_out:
        write_jsonl_atomic(request.left_out, left_out)
    elif request.force:
        request.left_out.unlink(missing_ok=True)
    utterances = [utterance for item in judged for utterance in item.utterances]
    write_manifest(request.out, utterances, replace=request.force)
    return AlignResult(
        request.out,
        request.left_out if left_out else None,
        dict(Counter(str(record["reason"]) for record in left_out).most_common()),
        tuple(item.pair for item in judged),
        tuple(missing),
    )


def _check_out(request: AlignRequest) -> None:
    """Refuse outputs that are in the way, before hours of work."""
    for path in (request.out, request.left_out):
        if path.is_dir():
            raise RequestError(
                "a folder, but the manifest is a file",
                where=path,
                hint=f"name a file, such as --out {quoted(path / 'train.jsonl')}",
            )
        if path.exists() and not request.force:
            raise RequestError(
                "the file exists already",
                where=path,
                hint="choose another name with --out, or replace it with --force",
            )
    for source in (request.transcript, request.audio):
        if source and source.is_file() and request.out.exists() and request.out.samefile(source):
            raise RequestError(
                "the manifest would replace what it is made from",
                where=request.out,
                hint="choose another name with --out",
            )


def _read_all(pairs: Sequence[TextPair], request: AlignRequest) -> list[str]:
    """The text of each pair.

    Raises:
        RequestError: a single one that cannot be read.
        ProblemsError: some of several.
    """
    if len(pairs) == 1:
        return [transcript_text(pairs[0].transcript, request.encoding)]
    texts, problems = [], []
    hint = None
    for pair in pairs:
        try:
            texts.append(transcript_text(pair.transcript, request.encoding))
        except RequestError as error:
            problems.append(str(error))
            hint = error.hint
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(pairs)} transcripts cannot be used", problems, hint=hint
        )
    return texts


def _speech_of(
    pairs: Sequence[TextPair], request: AlignRequest, progress: Progress
) -> list[list[Span]]:
    """The pieces with speech of each recording.

    Raises:
        ProblemsError: recordings that cannot be read, or hold nothing but silence.
    """
    longest = min(_PIECE_S, request.max_clip_s)
    result, problems = [], []
    for pair in pairs:
        try:
            spans = cut_at_pauses(
                BlockReader.of_file(pair.audio),
                max_s=longest,
                min_s=min(_SHORTEST_S, longest / 2),
                breaks=Breaks(_PAUSE_S, min(_SHORTEST_S, longest / 2)),
                progress=progress,
            )
            spoken = [span for span in spans if span.has_speech]
        except AudioError as error:
            problems.append(str(error))
            continue
        if not spoken:
            problems.append(f"{pair.audio}: silence from its start to its end")
        result.append(spoken)
    if problems:
        raise ProblemsError(
            f"{len(problems)} of {len(pairs)} recordings cannot be aligned",
            problems,
            hint="play them; leave out what is damaged or silent",
        )
    return result


def _align_pair(
    pair: TextPair,
    text: str,
    spans: Sequence[Span],
    normalizer: Normalizer,
    request: AlignRequest,
    opened: OpenedModel,
    progress: Progress,
) -> _Judged:
    """Divide one transcript among the segments of its recording, and judge these."""
    times = [(span.start_s, span.end_s) for span in spans]
    hypotheses = transcribe_spans(pair.audio, times, opened, progress)
    pieces = [
        SpokenPiece(span.start_s, span.end_s, hypothesis, span.pause_s)
        for span, hypothesis in zip(spans, hypotheses, strict=True)
    ]
    words = text_words(text, normalizer)
    rate = WordLikelihoods(
        pair.audio, times, [text[word.start : word.end] for word in words], opened
    )
    divided = divide_text(pieces, text, words, normalizer, rate, progress)
    fit = divided.fit
    aligned = AlignedPair(
        pair.audio,
        pair.transcript,
        seconds=round(audio_info(pair.audio).seconds, 3),
        speech_s=round(sum(span.length_s for span in spans), 3),
        agreement=round(fit, 4),
        unread=len(divided.unread),
    )
    if not divided.num_letters or not divided.num_spoken:
        side = "the text has no words" if divided.num_spoken else "the model recognizes no words"
        return _Judged(replace(aligned, problem=side))
    if not divided.is_fitting:
        return _Judged(replace(aligned, problem=f"the text is another: {fit:.0%} agrees"))
    segments = judge_segments(
        divided.segments,
        pair.audio,
        opened,
        progress,
        max_s=request.max_clip_s,
        min_agreement=request.min_agreement,
    )
    segments = absorb_faults(segments, text, words, request.max_clip_s)
    segments = join_segments(segments, text, words, request.max_clip_s)
    kept = [item for item in segments if item.problem is None]
    name = _name_of(pair.audio, request.audio)
    records = [_left_out_record(pair, item) for item in segments if item.problem is not None]
    records += [
        {"transcript": str(pair.transcript), "reason": "not read", "text": clean_text(text[a:b])}
        for a, b in divided.unread
    ]
    return _Judged(
        replace(
            aligned,
            kept=len(kept),
            kept_s=round(sum(item.length_s for item in kept), 3),
            left_out=len(segments) - len(kept),
        ),
        tuple(
            _utterance(item, f"{name}-{number:05d}", name, pair.audio, request.language)
            for number, item in enumerate(kept, start=1)
        ),
        tuple(records),
    )


def _name_of(audio: Path, location: Path) -> str:
    """The name of a recording for ids, with its path in a folder of recordings."""
    name = audio.relative_to(location) if location.is_dir() else Path(audio.name)
    return name.with_suffix("").as_posix()


def _utterance(
    segment: AlignedSegment, identifier: str, name: str, audio: Path, language: str | None
) -> Utterance:
    start, end = round(segment.start_s, 3), round(segment.end_s, 3)
    return Utterance(
        id=identifier,
        audio=audio,
        text=segment.text,
        start=start,
        end=end,
        duration=round(end - start, 3),
        language=language,
        session=name,
        extra={"agreement": round(segment.agreement, 3)},
    )


def _left_out_record(pair: TextPair, segment: AlignedSegment) -> dict[str, Any]:
    return {
        "audio": str(pair.audio.resolve()),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "reason": segment.problem,
        "agreement": round(segment.agreement, 3),
        "text": segment.text,
        "hypothesis": segment.hypothesis,
    }


def _refuse_other_texts(pairs: Sequence[AlignedPair], request: AlignRequest) -> None:
    """Refuse pairs that do not belong together; `skip_bad` leaves them out.

    Raises:
        NegativeAnswerError: there are some, or nothing is left.
    """
    bad = [pair for pair in pairs if pair.problem is not None]
    if bad and (not request.skip_bad or len(bad) == len(pairs)):
        shown = "".join(f"\n  - {pair.audio} and {pair.transcript}: {pair.problem}" for pair in bad)
        more = "" if len(bad) == len(pairs) else "; or leave them out with --skip-bad"
        raise NegativeAnswerError(
            f"{len(bad)} of {len(pairs)} transcripts are not those of their recordings:{shown}",
            hint=f"check which text belongs to which recording, and the --language{more}",
        )
    if not any(pair.kept for pair in pairs):
        raise NegativeAnswerError(
            "no segment has enough agreement with its text",
            hint="lower --min-agreement, or name a better --model",
        )
