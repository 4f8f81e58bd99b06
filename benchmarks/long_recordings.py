"""`data align` on long recordings of joined utterances, whose borders and texts are known.

    python -m benchmarks.long_recordings --out D [--minutes 30] [--only plain noise tight pauses]

Utterances of `accent`, `children` and `an4` are joined with silences of 0.3 to 1.0 s. Their joined
text has 5 % other words, lacks the words of one stretch of utterances, and has a paragraph that
nobody reads. `noise` adds noise at 15 dB, `tight` joins with 0.05 s, and `pauses` cuts every
utterance once and puts 0.7 s of silence there.

An utterance is recovered if its audio lies in one segment, and this has its words. A border is
right if it is within 0.2 s of the silence between two utterances, or inside of one utterance in
front of the same word. A segment is wrong if it has three letters or more of the words of an
utterance that it does not cover. Prints one line of JSON; exit code 1 if a goal is missed.
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
    return power[: max(len(power) // 2, 1)]


def _with_noise(samples: Samples) -> Samples:
    noises = [load_audio(item.audio) for item in read_manifest(
        SHARED / "noise" / "manifest.jsonl", require_text=False).utterances]  # fmt: skip
    noise = np.resize(np.concatenate(noises), len(samples))
    ratio = np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-NOISE_DB / 20)
    return (samples + ratio * noise).astype(np.float32)


def write_text(spoken: Sequence[Spoken], rng: random.Random) -> tuple[str, set[int]]:
    """The joined text with its faults, and the utterances whose words it lacks."""
    vocabulary = [word for item in spoken for word in item.text.split()]
    count = min(MISSING, len(spoken) // 10)
    first = len(spoken) // 3
    missing = set(range(first, first + count))
    paragraph = " ".join(rng.choice(vocabulary) for _ in range(EXTRA_WORDS))
    lines = []
    for item in spoken:
        words = item.text.split()
        words = [rng.choice(vocabulary) if rng.random() < CHANGED else word for word in words]
        if item.number == 2 * len(spoken) // 3:
            lines.append(paragraph)
        if item.number not in missing:
            lines.append(" ".join(words))
    return " ".join(lines), missing


def measure(
    segments: Sequence[Utterance], spoken: Sequence[Spoken], missing: set[int], text: str
) -> dict[str, Any]:
    """Count what is recovered, where the borders are, and what is wrong."""
    expected = [item for item in spoken if item.number not in missing]
    recovered = [item for item in expected if any(_covers(part, item) for part in segments)]
    edges = [edge for part in segments for edge in (part.start or 0.0, part.end or 0.0)]
    outside = [
        edge
        for edge in edges
        if any(item.start_s + BORDER_S < edge < item.end_s - BORDER_S for item in spoken)
    ]
    wrong = [part for part in segments if _foreign_letters(part, spoken) > 0]
    return {
        "utterances": len(expected),
        "segments": len(segments),
        "recovered": round(100 * len(recovered) / len(expected), 2),
        "borders": len(edges),
        "borders_inside_utterances": len(outside),
        "wrong": len(wrong),
        "wrong_segments": [[part.start, part.end, part.text] for part in wrong[:10]],
        "lost": [item.text for item in expected if item not in recovered][:20],
        "words_in_text": len(text.split()),
    }


def _covers(segment: Utterance, item: Spoken) -> bool:
    return (
        (segment.start or 0.0) <= item.start_s + BORDER_S + _quiet(item)
        and (segment.end or 0.0) >= item.end_s - BORDER_S - _quiet(item)
        and _share(item.text, segment.text or "") >= 0.6
    )


def _quiet(item: Spoken) -> float:
    """The recordings begin and end with silence, in which a border may be."""
    return min(0.4, (item.end_s - item.start_s) / 4)


def _share(words: str, text: str) -> float:
    """Share of the words that are in the text, in their order; a changed word may lack."""
    rest = text.casefold().split()
    wanted = words.casefold().split()
    count = 0
    for word in wanted:
        if word in rest:
            rest = rest[rest.index(word) + 1 :]
            count += 1
    return count / max(len(wanted), 1)


def _foreign_letters(segment: Utterance, spoken: Sequence[Spoken]) -> int:
    """Letters of the words at the ends of a segment that are those of an utterance beside it."""
    start, end = segment.start or 0.0, segment.end or 0.0
    inside = [item for item in spoken if min(end, item.end_s) - max(start, item.start_s) > 0.3]
    own = " ".join(item.text for item in inside).casefold().split()
    words = (segment.text or "").casefold().split()
    if not inside:
        return sum(map(len, words))
    beside = [
        item.text.casefold().split()
        for item in spoken
        if item.number in (inside[0].number - 1, inside[-1].number + 1)
    ]
    foreign = 0
    for others in beside:
        for edge in (words[:3], words[-3:]):
            run = " ".join(edge)
            if len(edge) == 3 and run in " ".join(others) and run not in " ".join(own):
                foreign += len(run)
    return foreign


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
        text, missing = write_text(spoken, rng)
        audio, transcript = options.out / f"{case}.flac", options.out / f"{case}.txt"
        sf.write(audio, np.clip(samples, -1, 1), SAMPLE_RATE_HZ)
        transcript.write_text(text, encoding="utf-8")
        manifest = options.out / f"{case}.jsonl"
        request = AlignRequest(audio, manifest, transcript, model=options.model, force=True)
        start = time.process_time()
        result = align_recordings(request, TerminalProgress())
        seconds = time.process_time() - start
        segments = read_manifest(manifest).utterances
        results[case] = measure(segments, spoken, missing, text) | {
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
