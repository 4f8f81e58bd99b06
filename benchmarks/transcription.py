"""`transcribe`: long recordings against clip by clip, times of words, and their confidence.

    python -m benchmarks.transcription joined --out D [--minutes 20] [--seed 0]
    python -m benchmarks.transcription speed --out D [--minutes 4]
    python -m benchmarks.transcription words --out D
    python -m benchmarks.transcription fit --out D
    python -m benchmarks.transcription confidence --out D
    python -m benchmarks.transcription noise --out D

`joined` puts clips of LibriSpeech test-other, accented speech and AN4 one after the other, and
compares the WER of the one recording with that of the clips; once more with numbers as digits that
are words of their own, however they are grouped. `speed` transcribes the clips with `transcribe`
and with `evaluate`, alternating in one process, and gives the ratio of their times. `words` joins
clips of single words with silence between them; where a word starts and ends is known by its
energy. `fit` prints the numbers of `inference/confidence.py`, from LJ Speech and the training parts
of AN4, of accented adults and of children. `confidence` measures them on LibriSpeech test-other and
on the accented test speakers. `noise` measures them on the half of the noise clips by which nothing
was chosen, and on speech that is 40 dB softer. Transcripts of clips are kept in D and not made
again. Prints one line of JSON at the end; exit code 1 if a goal is missed.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acceptance import SHARED
from moonshine_tune.audio.io import load_audio, load_utterance, write_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.corpus.manifest import Utterance, read_manifest, write_manifest
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.metrics.alignment import align
from moonshine_tune.metrics.wer import score_utterance

# Manifest, most clips of it.
FITTED = {"ljspeech/manifest": 32, "an4/train": 80, "accent/train": 110, "children/train": 80}
MEASURED = {"librispeech_other/manifest": 50, "accent/test": 110}
JOINED = {"librispeech_other/manifest": 50, "accent/test": 110, "an4/test": 130}
# Goals: points of WER; share of words whose borders are within 80 ms; share of words with a
# confidence of 0.9 or more, and share of these that are right.
MOST_POINTS, LEAST_WITHIN, LEAST_SURE, LEAST_RIGHT = 0.5, 0.9, 0.3, 0.9
# Confidence of what is made up on noise, and of soft speech.
MOST_OF_NOISE, LEAST_OF_SOFT_SPEECH = 0.5, 0.7
# `transcribe` is as fast as `evaluate`, within what times vary by.
MOST_TIME = 1.05
_TOLERANCE_S, _SURE = 0.08, 0.9
_BATCH = 12
# A word lasts from the first to the last 10 ms that are this near to its loudest ones.
_WORD_DB = 25.0
_WORD_NORMALIZER = normalizer_for("english-1")
_AS_IT_IS = Normalizer("as it is", lambda text: text)


def clips_of(name: str, most: int) -> list[Utterance]:
    """Clips of a manifest, evenly spread over it, so over its speakers."""
    utterances = read_manifest(SHARED / f"{name}.jsonl").utterances
    chosen = np.linspace(0, len(utterances) - 1, min(most, len(utterances))).round().astype(int)
    return [utterances[index] for index in chosen]


class Evidence:
    """Transcripts of clips with the log probabilities of each word, kept in a folder."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._opened: Any = None

    def of(self, name: str, most: int) -> list[dict[str, Any]]:
        """A record of each clip: id, reference, text, words, clip_log_prob."""
        path = self._out / f"{name.replace('/', '-')}-{most}.jsonl"
        done = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        clips = clips_of(name, most)
        with path.open("a", encoding="utf-8") as file:
            for start in range(len(done), len(clips), _BATCH):
                for record in self._transcribed(clips[start : start + _BATCH]):
                    file.write(json.dumps(record) + "\n")
                file.flush()
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def _transcribed(self, clips: Sequence[Utterance]) -> Iterator[dict[str, Any]]:
        from moonshine_tune.inference.batching import encode_clips, fit_clip
        from moonshine_tune.inference.greedy import greedy_tokens
        from moonshine_tune.inference.token_evidence import token_evidence
        from moonshine_tune.inference.word_times import words_of
        from moonshine_tune.registry.open import open_model

        if self._opened is None:
            self._opened = open_model("tiny", dtype="float32", progress=TerminalProgress())
        model, limits = self._opened.model, self._opened.limits
        samples = [fit_clip(model, load_utterance(clip)) for clip in clips]
        states = encode_clips(model, samples)
        tokens = greedy_tokens(
            model, states, [limits.tokens(len(clip) / SAMPLE_RATE_HZ) for clip in samples]
        )
        for clip, ids, item in zip(
            clips, tokens, token_evidence(model, states, tokens), strict=True
        ):
            words = [
                {"text": word.text, "log_probs": [float(item.log_probs[n]) for n in word.spoken]}
                for word in words_of(model.tokenizer, ids)
            ]
            yield {
                "id": clip.id,
                "reference": clip.reference,
                "text": model.tokenizer.decode(ids),
                "words": words,
                "clip_log_prob": float(item.log_probs.mean()) if ids else 0.0,
            }


def judged_words(record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """The words of a record, and whether each is right; those that normalize to nothing aside."""
    texts = [_WORD_NORMALIZER(word["text"]).split() for word in record["words"]]
    right = [
        word for text in record["reference"].split() for word in _WORD_NORMALIZER(text).split()
    ]
    owners = [number for number, parts in enumerate(texts) for _ in parts]
    hypothesis = " ".join(part for parts in texts for part in parts)
    tokens = [t for t in align(" ".join(right), hypothesis, _AS_IT_IS) if t.kind != "deleted"]
    is_right = [True] * len(texts)
    for owner, token in zip(owners, tokens, strict=True):
        is_right[owner] = is_right[owner] and token.kind == "same"
    for number, word in enumerate(record["words"]):
        if texts[number]:
            yield word, is_right[number]


def features_of(records: Sequence[dict[str, Any]]) -> tuple[Any, Any]:
    """Features of all words, and whether each is right."""
    from moonshine_tune.inference.confidence import word_features

    rows, right = [], []
    for record in records:
        for word, is_right in judged_words(record):
            rows.append(word_features(word["log_probs"], record["clip_log_prob"]))
            right.append(is_right)
    return np.array(rows), np.array(right, dtype=float)


def fit(out: Path) -> dict[str, Any]:
    """Logistic regression with a little decay, by Newton's method."""
    evidence = Evidence(out)
    parts = [features_of(evidence.of(name, most)) for name, most in FITTED.items()]
    rows = np.concatenate([part[0] for part in parts])
    right = np.concatenate([part[1] for part in parts])
    # Each corpus counts the same, however many words it has.
    weights = np.concatenate([np.full(len(part[1]), 1 / len(part[1])) for part in parts])
    weights *= len(right) / weights.sum()
    rows = np.column_stack([np.ones(len(rows)), rows])
    solution = np.zeros(rows.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-rows @ solution))
        gradient = rows.T @ (weights * (right - expected)) - 0.1 * solution
        spread = rows * (weights * expected * (1 - expected))[:, None]
        solution += np.linalg.solve(rows.T @ spread + 0.1 * np.eye(len(solution)), gradient)
    return {"words": len(right), "right": float(right.mean()),
            "bias": float(solution[0]), "weights": solution[1:].tolist()}  # fmt: skip


def confidence(out: Path) -> dict[str, Any]:
    """How many words are sure, and how many of these are right, on speech not fitted on."""
    from moonshine_tune.inference.confidence import word_confidence

    evidence, figures = Evidence(out), {}
    for name, most in MEASURED.items():
        values, right = [], []
        for record in evidence.of(name, most):
            for word, is_right in judged_words(record):
                values.append(word_confidence(word["log_probs"], record["clip_log_prob"]))
                right.append(is_right)
        sure = np.array(values) >= _SURE
        figures[name] = {
            "words": len(values),
            "right": float(np.mean(right)),
            "mean_confidence": float(np.mean(values)),
            "sure": float(sure.mean()),
            "right_of_sure": float(np.mean(np.array(right)[sure])),
        }
    passed = all(
        item["sure"] >= LEAST_SURE and item["right_of_sure"] >= LEAST_RIGHT
        for item in figures.values()
    )
    return {**figures, "passed": passed}


def transcribed(recording: Path) -> list[dict[str, Any]]:
    """The lines that `transcribe` writes for a recording."""
    from moonshine_tune.transcription.output import output_request
    from moonshine_tune.transcription.run import TranscribeRequest, transcribe

    lines: list[str] = []
    output = output_request(None, ["jsonl"], with_words=True, resume=False, overwrite=False)
    request = TranscribeRequest((str(recording),), output, model="tiny")
    transcribe(request, TerminalProgress(), (), lines.append)
    return [json.loads(line) for line in lines]


def by_digits(texts: Sequence[str]) -> str:
    """Texts, each normalized for itself, whose digits are words."""
    lines = [re.sub(r"(\d)", r" \1 ", _WORD_NORMALIZER(text)) for text in texts]
    return " ".join(" ".join(lines).split())


def errors_by_digits(references: Sequence[str], hypotheses: Sequence[str]) -> int:
    """Errors of some lines against others."""
    return score_utterance("", by_digits(references), by_digits(hypotheses), _AS_IT_IS).words.errors


def joined(out: Path, minutes: float, seed: int) -> dict[str, Any]:
    """WER of one long recording and of its clips."""
    evidence, rng = Evidence(out), np.random.default_rng(seed)
    pairs = [
        (clip, record)
        for name, most in JOINED.items()
        for clip, record in zip(clips_of(name, most), evidence.of(name, most), strict=True)
    ]
    # Recordings of several people: their clips are mixed.
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    parts: list[Samples] = []
    seconds, used = 0.0, 0
    for clip, _ in pairs:
        if seconds >= 60 * minutes:
            break
        pause = rng.normal(0, 3e-4, rng.integers(1600, 16_000)).astype(np.float32)
        parts += [load_utterance(clip), pause]
        seconds += (len(parts[-2]) + len(pause)) / SAMPLE_RATE_HZ
        used += 1
    recording = out / "joined.wav"
    write_audio(recording, np.concatenate(parts))
    lines = [line["text"] for line in transcribed(recording)]
    records = [record for _, record in pairs[:used]]
    references = [item["reference"] for item in records]
    whole = score_utterance("joined", " ".join(references), " ".join(lines), _WORD_NORMALIZER).words
    single = [
        score_utterance(item["id"], item["reference"], item["text"], _WORD_NORMALIZER).words
        for item in records
    ]
    errors, words = sum(item.errors for item in single), sum(item.reference for item in single)
    points = whole.rate - 100 * errors / words
    more = errors_by_digits(references, lines) - sum(
        errors_by_digits([item["reference"]], [item["text"]]) for item in records
    )
    return {
        "seconds": seconds,
        "clips": used,
        "wer": whole.rate,
        "wer_of_clips": 100 * errors / words,
        "points": points,
        "points_by_digits": 100 * more / len(by_digits(references).split()),
        "passed": points <= MOST_POINTS,
    }


def word_limits(samples: Samples) -> tuple[int, int]:
    """First sample and end of the only word of a clip."""
    count = len(samples) // 160
    levels = 10 * np.log10(
        np.square(samples[: count * 160].reshape(count, 160)).mean(axis=1) + 1e-12
    )
    loud = np.flatnonzero(levels > levels.max() - _WORD_DB)
    return int(loud[0]) * 160, int(loud[-1] + 1) * 160


def single_words() -> list[tuple[str, Samples]]:
    """Clips of single words: AN4's, and spelled letters and digits."""
    manifests = [SHARED / name / "manifest.jsonl" for name in ("an4", "alphanumeric")]
    utterances = [item for path in manifests for item in read_manifest(path).utterances]
    chosen = [item for item in utterances if len(item.reference.split()) == 1]
    return [(item.reference, load_audio(item.audio)) for item in chosen]


def words(out: Path) -> dict[str, Any]:
    """How near the borders of recognized words are to their energy."""
    rng, starts, ends, spoken = np.random.default_rng(0), [], [], 0
    clips = single_words()
    order = rng.permutation(len(clips))[:120]
    parts: list[Samples] = []
    truth: list[tuple[str, float, float]] = []
    length = 0
    for index in order:
        text, samples = clips[index]
        first, stop = word_limits(samples)
        truth.append((text, (length + first) / SAMPLE_RATE_HZ, (length + stop) / SAMPLE_RATE_HZ))
        pause = np.zeros(rng.integers(3200, 12_800), dtype=np.float32)
        parts += [samples, pause]
        length += len(samples) + len(pause)
    recording = out / "words.wav"
    write_audio(recording, np.concatenate(parts))
    found = [word for line in transcribed(recording) for word in line["words"]]
    texts = [_WORD_NORMALIZER(word["text"]) or "-" for word in found]
    right = [_WORD_NORMALIZER(text) or "-" for text, _, _ in truth]
    one = [text.replace(" ", "_") for text in texts]
    position = number = 0
    for token in align(" ".join(right), " ".join(one), _AS_IT_IS):
        if token.kind == "same":
            spoken += 1
            starts.append(found[number]["start"] - truth[position][1])
            ends.append(found[number]["end"] - truth[position][2])
        position += token.kind != "inserted"
        number += token.kind != "deleted"
    near = [float(np.mean(np.abs(errors) <= _TOLERANCE_S)) for errors in (starts, ends)]
    return {"words": len(truth), "recognized": spoken, "starts_within": near[0],
            "ends_within": near[1], "median_start_ms": 1000 * float(np.median(starts)),
            "median_end_ms": 1000 * float(np.median(ends)),
            "passed": min(near) >= LEAST_WITHIN}  # fmt: skip


def noise(out: Path) -> dict[str, Any]:
    """Confidence of what is made up on noise, and of soft speech against the same as it is."""
    from moonshine_tune.inference.transcribe import TorchTranscriber
    from moonshine_tune.registry.open import open_model

    manifest = read_manifest(SHARED / "noise" / "manifest.jsonl", require_text=False)
    speech = [load_utterance(clip) for clip in clips_of("librispeech_other/manifest", 12)]
    opened = open_model("tiny", dtype="float32", progress=TerminalProgress())
    transcriber = TorchTranscriber(opened.model, opened.limits)

    def confidences(clips: Sequence[Samples]) -> list[float]:
        return [item.confidence or 0.0 for item in transcriber.transcribe_timed(clips)]

    values = confidences([load_utterance(clip) for clip in manifest.utterances[1::2]])
    soft = float(np.mean(confidences([np.float32(0.01) * clip for clip in speech])))
    return {
        "clips": len(values),
        "mean": float(np.mean(values)),
        "most": max(values),
        "speech": float(np.mean(confidences(speech))),
        "soft_speech": soft,
        "passed": max(values) < MOST_OF_NOISE and soft >= LEAST_OF_SOFT_SPEECH,
    }


def speed(out: Path, minutes: float) -> dict[str, Any]:
    """Time of `transcribe` against that of `evaluate`, on the same clips."""
    from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
    from moonshine_tune.transcription.output import output_request
    from moonshine_tune.transcription.run import TranscribeRequest, transcribe

    clips: list[Utterance] = []
    for name, most in JOINED.items():
        clips += [clip for clip in clips_of(name, most) if clip.duration]
    rng = np.random.default_rng(0)
    clips = [clips[index] for index in rng.permutation(len(clips))]
    ends = np.cumsum([clip.duration or 0.0 for clip in clips])
    clips = clips[: int(np.searchsorted(ends, 60 * minutes)) + 1]
    manifest = out / "speed.jsonl"
    write_manifest(manifest, clips, replace=True)
    ratios: dict[str, list[float]] = {"text": [], "jsonl": []}
    for _ in range(3):
        start = time.process_time()
        evaluate(EvaluateRequest(manifest, model="tiny"), None, TerminalProgress())
        expected = time.process_time() - start
        for name, found in ratios.items():
            output = output_request(None, [name], with_words=False, resume=False, overwrite=False)
            start = time.process_time()
            request = TranscribeRequest((str(manifest),), output, model="tiny")
            transcribe(request, TerminalProgress(), (), lambda line: None)
            found.append((time.process_time() - start) / expected)
    medians = {name: float(np.median(found)) for name, found in ratios.items()}
    return {"clips": len(clips), "ratios": ratios, **medians,
            "passed": medians["text"] <= MOST_TIME}  # fmt: skip


def main() -> int:
    """Run one part."""
    apply_environment_defaults()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("joined", "speed", "words", "fit", "confidence", "noise"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part == "joined":
        figures = joined(options.out, options.minutes or 20.0, options.seed)
    elif options.part == "speed":
        figures = speed(options.out, options.minutes or 4.0)
    else:
        figures = {"words": words, "fit": fit, "confidence": confidence, "noise": noise}[
            options.part
        ](options.out)
    print(json.dumps({"part": options.part, **figures}))
    return 0 if figures.get("passed", True) else 1


if __name__ == "__main__":
    sys.exit(main())
