"""`data align` on long recordings of joined utterances, whose borders and texts are known.

    python -m benchmarks.long_recordings --out D [--minutes 30] [--only plain noise tight pauses]

Utterances of `accent`, `children` and `an4` are joined with silences of 0.3 to 1.0 s. Their joined
text has 5 % other words, lacks the words of one stretch of utterances, and has a paragraph that
nobody reads. `noise` adds noise at 15 dB, `tight` joins with 0.05 s, and `pauses` cuts every
utterance once and puts 0.7 s of silence there.

An utterance is recovered if its audio lies in one segment that has its words as the text has them.
A border is right if it is within 0.2 s of the silence between two utterances. A segment is wrong if
it has a word of an utterance that it does not cover, or of the paragraph that nobody reads.
Prints one line of JSON; exit code 1 if a goal is missed.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from benchmarks.acceptance import SHARED
from moonshine_tune.audio.io import load_audio
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.data.alignment.run import AlignRequest, align_recordings

CORPORA = ("accent", "children", "an4")
CASES = ("plain", "noise", "tight", "pauses")
GAPS_S = {"tight": (0.05, 0.05)}
CHANGED, MISSING, EXTRA_WORDS = 0.05, 6, 60
NOISE_DB = 15.0
BORDER_S = 0.2
GOALS = {"recovered": 95.0, "wrong": 0}


@dataclass(frozen=True)
class Spoken:
    """An utterance in the joined recording."""

    start_s: float
    end_s: float
    text: str
    number: int


Written = list[tuple[str, int]]


def choose(minutes: float, rng: random.Random) -> list[Utterance]:
    """Utterances of all corpora in random order, until they fill the time."""
    pool = [
        utterance
        for corpus in CORPORA
        for utterance in read_manifest(SHARED / corpus / "train.jsonl").utterances
    ]
    rng.shuffle(pool)
    chosen: list[Utterance] = []
    seconds = 0.0
    for utterance in pool:
        if seconds > 60 * minutes:
            break
        chosen.append(utterance)
        seconds += (utterance.duration or 0.0) + 0.65
    return chosen


def join(
    utterances: Sequence[Utterance], case: str, rng: random.Random
) -> tuple[Samples, list[Spoken]]:
    """The recording, and where each utterance is."""
    parts: list[Samples] = []
    spoken: list[Spoken] = []
    position = 0
    for number, utterance in enumerate(utterances):
        samples = load_audio(utterance.audio)
        if case == "pauses":
            middle = len(samples) // 3 + int(np.argmin(_energy(samples[len(samples) // 3 :])))
            pause = np.zeros(round(0.7 * SAMPLE_RATE_HZ), np.float32)
            samples = np.concatenate([samples[:middle], pause, samples[middle:]])
        gap = round(rng.uniform(*GAPS_S.get(case, (0.3, 1.0))) * SAMPLE_RATE_HZ)
        start, position = position, position + len(samples)
        spoken.append(
            Spoken(start / SAMPLE_RATE_HZ, position / SAMPLE_RATE_HZ, utterance.text or "", number)
        )
        parts += [samples, np.zeros(gap, np.float32)]
        position += gap
    joined = np.concatenate(parts)
    return (_with_noise(joined) if case == "noise" else joined), spoken


def _energy(samples: Samples) -> Samples:
    """Energy of 50 ms around each sample of the first two thirds."""
    width = SAMPLE_RATE_HZ // 20
    power = np.convolve(np.square(samples), np.ones(width, np.float32), "same")
    return np.asarray(power[: max(len(power) // 2, 1)], dtype=np.float32)


def _with_noise(samples: Samples) -> Samples:
    noises = [load_audio(item.audio) for item in read_manifest(
        SHARED / "noise" / "manifest.jsonl", require_text=False).utterances]  # fmt: skip
    noise = np.resize(np.concatenate(noises), len(samples))
    ratio = np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-NOISE_DB / 20)
    return np.asarray(samples + ratio * noise, dtype=np.float32)


def write_text(spoken: Sequence[Spoken], rng: random.Random) -> Written:
    """The words of the joined text with its faults, each with its utterance; -1 for nobody's."""
    vocabulary = [word for item in spoken for word in item.text.split()]
    count = min(MISSING, len(spoken) // 10)
    first = len(spoken) // 3
    missing = set(range(first, first + count))
    written: Written = []
    for item in spoken:
        if item.number == 2 * len(spoken) // 3:
            written += [(rng.choice(vocabulary), -1) for _ in range(EXTRA_WORDS)]
        for word in item.text.split():
            chosen = rng.choice(vocabulary) if rng.random() < CHANGED else word
            if item.number not in missing:
                written.append((chosen, item.number))
    return written


def measure(
    segments: Sequence[Utterance], spoken: Sequence[Spoken], written: Written
) -> dict[str, Any]:
    """Count what is recovered, where the borders are, and what is wrong."""
    numbers = {number for _, number in written}
    expected = [item for item in spoken if item.number in numbers]
    recovered: set[int] = set()
    wrong: list[list[Any]] = []
    position = 0
    for part in segments:
        position, owners = _owners(part, written, position)
        foreign = [word for word, number in owners if not _overlaps(part, number, spoken)]
        if foreign:
            wrong.append([part.start, part.end, part.text, foreign])
        for item in expected:
            own = [word for word, number in written if number == item.number]
            if _covers(part, item) and sum(number == item.number for _, number in owners) == len(
                own
            ):
                recovered.add(item.number)
    edges = [edge for part in segments for edge in (part.start or 0.0, part.end or 0.0)]
    inside = [
        edge
        for edge in edges
        if any(
            item.start_s + BORDER_S + _quiet(item) < edge < item.end_s - BORDER_S - _quiet(item)
            for item in spoken
        )
    ]
    return {
        "utterances": len(expected),
        "segments": len(segments),
        "recovered": round(100 * len(recovered) / len(expected), 2),
        "borders": len(edges),
        "borders_inside_utterances": len(inside),
        "wrong": len(wrong),
        "wrong_segments": wrong[:10],
        "lost": [item.text for item in expected if item.number not in recovered][:20],
    }


def _owners(segment: Utterance, written: Written, position: int) -> tuple[int, Written]:
    """The words of a segment in the text behind a position, and the position behind them."""
    words = (segment.text or "").split()
    plain = [word for word, _ in written]
    starts = [
        start
        for start in range(position, len(plain) - len(words) + 1)
        if plain[start : start + len(words)] == words
    ]
    if starts:
        end = starts[0] + len(words)
        return end, written[starts[0] : end]
    scans = [_scan(words, plain, start) for start in range(position, len(plain))]
    best = min((scan for scan in scans if scan), key=lambda scan: scan[-1] - scan[0])
    return best[-1] + 1, [written[index] for index in best]


def _scan(words: Sequence[str], plain: Sequence[str], start: int) -> list[int]:
    """The words one after the other from a position on, with others between; empty if not there.

    A passage that nobody reads may be left out of a segment.
    """
    if plain[start] != words[0]:
        return []
    places = [start]
    for word in words[1:]:
        first = places[-1] + 1
        if word not in plain[first : first + 2 * EXTRA_WORDS]:
            return []
        places.append(plain.index(word, first))
    return places


def _overlaps(segment: Utterance, number: int, spoken: Sequence[Spoken]) -> bool:
    if number < 0:
        return False
    item = spoken[number]
    return min(segment.end or 0.0, item.end_s) - max(segment.start or 0.0, item.start_s) > BORDER_S


def _covers(segment: Utterance, item: Spoken) -> bool:
    slack = BORDER_S + _quiet(item)
    start, end = segment.start or 0.0, segment.end or 0.0
    return start <= item.start_s + slack and end >= item.end_s - slack


def _quiet(item: Spoken) -> float:
    """The utterances begin and end with silence, in which a border may be."""
    return min(0.4, (item.end_s - item.start_s) / 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    apply_environment_defaults()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for case in options.only:
        rng = random.Random(options.seed)
        samples, spoken = join(choose(options.minutes, rng), case, rng)
        written = write_text(spoken, rng)
        audio, transcript = options.out / f"{case}.flac", options.out / f"{case}.txt"
        sf.write(audio, np.clip(samples, -1, 1), SAMPLE_RATE_HZ)
        transcript.write_text(" ".join(word for word, _ in written), encoding="utf-8")
        manifest = options.out / f"{case}.jsonl"
        request = AlignRequest(audio, manifest, transcript, model=options.model, force=True)
        start = time.process_time()
        result = align_recordings(request, TerminalProgress())
        seconds = time.process_time() - start
        segments = read_manifest(manifest).utterances
        results[case] = measure(segments, spoken, written) | {
            "minutes": round(len(samples) / SAMPLE_RATE_HZ / 60, 2),
            "cpu_s": round(seconds, 1),
            "fit": result.pairs[0].agreement,
            "left_out": result.reasons,
        }
    print(json.dumps({"goals": GOALS, "cases": results}))
    reached = all(
        item["recovered"] >= GOALS["recovered"] and item["wrong"] <= GOALS["wrong"]
        for item in results.values()
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
