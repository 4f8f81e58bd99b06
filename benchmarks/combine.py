"""A voice and a vocabulary in one adapter: combined, summed as they are, or trained together.

    python -m benchmarks.combine --out D [--steps 30] [--seed 0]

An adapter of `accent` (a voice) in all layers and one of AN4 (words) in the decoder, each trained
for so many steps; their plain sum; `combine`, with strengths chosen on 60 dev clips of each; and
one adapter in all layers trained on the clips of both, for as many steps. The base and each of them
are scored on 80 clips of either test and on LibriSpeech test-other, which nothing here chooses by;
the canary of `combine` is LJSpeech. What is done is read, so the same command goes on. Prints a
line of JSON for each system.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import moonshine_tune as mt
from benchmarks.acceptance import SHARED
from moonshine_tune.cli.console import TerminalProgress
from moonshine_tune.core.files import complete_folder
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.corpus.splits import evenly_chosen, split_utterances
from moonshine_tune.evaluation.evaluate import EvaluateRequest, evaluate
from moonshine_tune.models.adapter_sum import WeightedAdapter, save_sum
from moonshine_tune.runs.records import EvaluationRecord
from moonshine_tune.training.combine import CombineRequest, combine

_DEV_CLIPS, _TEST_CLIPS = 60, 80
_SITES = {"voice": "all", "words": "decoder", "together": "all"}
_CANARY = SHARED / "ljspeech" / "manifest.jsonl"
TESTS = {
    "voice": SHARED / "accent" / "test.jsonl",
    "words": SHARED / "an4" / "test.jsonl",
    "general": SHARED / "librispeech_other" / "manifest.jsonl",
}


def make_data(out: Path) -> Path:
    """A folder with train and dev of the voice, of the words, and of both together."""
    folder = out / "data"
    if folder.is_dir():
        return folder
    words = split_utterances(
        read_manifest(SHARED / "an4" / "train.jsonl").utterances, dev=0.1, test=0.0, seed=0
    )
    voice = [read_manifest(SHARED / "accent" / f"{name}.jsonl") for name in ("train", "dev")]
    sets = {
        "words-train": words.train,
        "words-dev": evenly_chosen(words.dev, _DEV_CLIPS),
        "voice-train": voice[0].utterances,
        "voice-dev": evenly_chosen(voice[1].utterances, _DEV_CLIPS),
    }
    for name in ("train", "dev"):
        sets[f"together-{name}"] = (*sets[f"voice-{name}"], *sets[f"words-{name}"])
    for name, path in TESTS.items():
        sets[f"{name}-test"] = evenly_chosen(read_manifest(path).utterances, _TEST_CLIPS)
    with complete_folder(folder) as scratch:
        for name, members in sets.items():
            plain = [replace(item, split=None) for item in members]
            write_manifest(scratch / f"{name}.jsonl", plain)
    return folder


def train(name: str, out: Path, data: Path, steps: int, seed: int) -> Path:
    """The run of one training, by the tiny preset in few steps; an earlier one is read."""
    run = out / f"{name}-{steps}"
    if (run / "adapter").is_dir():
        return run
    mt.train(
        preset="tiny",
        train=data / f"{name}-train.jsonl",
        dev=data / f"{name}-dev.jsonl",
        replay=SHARED / "replay_audio" / "manifest.jsonl",
        settings={
            "adapter": {"sites": _SITES[name]},
            "train": {"steps": steps, "seed": seed, "learning_rate": 1e-3},
            "select": {"every_steps": steps, "average_last": 0},
            "retain": {"clips_per_step": 4, "max_clips": 60, "watched_clips": 10},
        },
        out=run,
        progress=TerminalProgress(),
    )
    return run


def systems(out: Path, steps: int, seed: int) -> Iterator[tuple[str, Path | None]]:
    """The adapters that are compared, by name; None for the base."""
    yield "base", None
    data = make_data(out)
    parts = [train(name, out, data, steps, seed) for name in ("voice", "words")]
    yield from zip(("voice", "words"), parts, strict=True)
    plain = out / "sum"
    if not plain.is_dir():
        with complete_folder(plain) as scratch:
            save_sum(scratch, [WeightedAdapter(run, 1.0) for run in parts])
    yield "sum 1 + 1", plain
    combined = out / "combined"
    if not combined.is_dir():
        dev = [data / f"{name}-dev.jsonl" for name in ("voice", "words")]
        request = CombineRequest(tuple(parts), tuple(dev), _CANARY)
        combine(request, combined, TerminalProgress())
    yield "combined", combined
    yield "trained together", train("together", out, data, steps, seed)


def score(name: str, adapter: Path | None, out: Path) -> dict[str, Any]:
    """WER on each test; an earlier score is read."""
    row: dict[str, Any] = {"system": name}
    for test in TESTS:
        folder = out / "scores" / f"{name.replace(' ', '-')}-{test}"
        if not (folder / "result.json").is_file():
            request = EvaluateRequest(
                make_data(out) / f"{test}-test.jsonl",
                model="tiny" if adapter is None else None,
                adapter=adapter,
                score_base=False,
            )
            evaluate(request, folder, TerminalProgress())
        row[test] = round(EvaluationRecord.read(folder / "result.json").wer or 0.0, 2)
    return row


def main() -> None:
    """Train, combine and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, adapter in systems(options.out, options.steps, options.seed):
        print(json.dumps(score(name, adapter, options.out)))


if __name__ == "__main__":
    main()
