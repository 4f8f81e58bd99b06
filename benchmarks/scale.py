"""What grows with what: seconds against utterances, clip length and model size.

    python -m benchmarks.scale --out scale-out

Four curves, each with its exponent (1: twice the work takes twice the time): opening and sampling
a manifest against its lines; storing encoder states against clips; a training step and a
transcription against the length of the clips (real tiny); a training step, an encoding and a
decoded token against the model's parameters (the published shapes, random weights). Writes
`scale.json` and an SVG for each curve; prints a table and one line of JSON. Nothing else should
run on the machine.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.large_manifest import write_rows
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.hardware import cache_root, chip_name
from moonshine_tune.core.progress import SilentProgress
from moonshine_tune.corpus.manifest import read_manifest
from moonshine_tune.corpus.sampler import BucketSampler
from moonshine_tune.inference.decoder_session import GreedySession
from moonshine_tune.inference.encoder_cache import StateSource
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.checkpoint import load_checkpoint
from moonshine_tune.models.lora import adapter_parameters, inject_lora
from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch
from moonshine_tune.registry.published_configs import model_from_config, published_config
from moonshine_tune.registry.resolve import resolve_model
from moonshine_tune.report.figures import plot

_TOKENS_A_SECOND = 4
_BATCH = 8
_ROUNDS = 3
MODELS = ("tiny", "base", "streaming-tiny", "streaming-small", "streaming-medium")


@dataclass(frozen=True)
class Curve:
    """Seconds over something.

    Attributes:
        exponent: of the last two points, 1 where twice as much takes twice as long.
    """

    group: str
    name: str
    unit: str
    points: tuple[tuple[float, float], ...]

    @property
    def exponent(self) -> float:
        """The slope between the last two points in logarithms."""
        (x1, y1), (x2, y2) = self.points[-2:]
        return math.log(y2 / y1) / math.log(x2 / x1)


def timed(work: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    """Median seconds after a warm-up."""
    work()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def manifests(sizes: Sequence[int]) -> list[Curve]:
    """Opening and drawing a thousand steps."""
    opened, drawn = [], []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            path = write_rows(Path(name), rows)
            opened.append((rows, timed(partial(read_manifest, path), 1)))
            found = read_manifest(path).utterances
        seconds = [item.known_seconds or 0.0 for item in found]

        def draw_steps(seconds: list[float] = seconds) -> None:
            sampler = BucketSampler(seconds, batch_size=_BATCH)
            for step in range(1000):
                sampler.plan(step)

        drawn.append((rows, timed(draw_steps, 1)))
    return [Curve("manifest lines", "opened and checked", "lines", tuple(opened)),
            Curve("manifest lines", "1,000 steps drawn", "lines", tuple(drawn))]  # fmt: skip


def stored_states(model: SpeechModel, counts: Sequence[int]) -> list[Curve]:
    """Encoding and storing clips of 3 s."""
    points = []
    for count in counts:
        clips = SimpleNamespace(load=_noise(3.0), seconds=[3.0] * count)
        source = StateSource(model, clips, budget_mb=10_000)
        begun = time.perf_counter()
        source.prepare(range(count), SilentProgress(), "states")
        points.append((count, time.perf_counter() - begun))
    return [Curve("clips", "encoder states stored, clips of 3 s", "clips", tuple(points))]


def clip_lengths(model: SpeechModel, lengths: Sequence[float]) -> list[Curve]:
    """A step and a transcription of a batch, for each length; both have all their tokens."""
    steps, heard = [], []
    for seconds in lengths:
        tokens = round(_TOKENS_A_SECOND * seconds)
        steps.append((seconds, step_seconds(model, seconds, tokens)))
        heard.append((seconds, timed(partial(_hear, model, seconds, tokens))))
    return [Curve("clip length", f"training step, {_BATCH} clips", "s", tuple(steps)),
            Curve("clip length", f"transcription, {_BATCH} clips", "s", tuple(heard))]  # fmt: skip


def model_sizes(names: Sequence[str]) -> list[Curve]:
    """Step, encoding and token of every published shape, for clips of 10 s."""
    found: dict[str, list[tuple[float, float]]] = {"step": [], "encode": [], "token": []}
    for name in names:
        model = model_from_config(published_config(name))
        size = sum(value.numel() for value in model.module.parameters()) / 1e6
        states = _states(model, 10.0)
        found["encode"].append((size, timed(partial(_states, model, 10.0))))
        with torch.inference_mode():
            session = GreedySession(model, states, 64)
            tokens = torch.ones(_BATCH, dtype=torch.long)
            found["token"].append((size, timed(partial(session.step, tokens), 20)))
        inject_lora(model, sites="decoder")
        found["step"].append((size, step_seconds(model, 10.0, 40)))
        print(f"{name}: {size:.0f} M", file=sys.stderr)
    named = {"step": f"training step, {_BATCH} clips of 10 s",
             "encode": f"encoding, {_BATCH} clips of 10 s",
             "token": f"decoded token, {_BATCH} clips"}  # fmt: skip
    return [Curve("model size", named[key], "million parameters", tuple(sorted(points)))
            for key, points in found.items()]  # fmt: skip


def step_seconds(model: SpeechModel, clip_s: float, tokens: int) -> float:
    """A step of AdamW from stored encoder states."""
    parameters = [value for _, value in adapter_parameters(model.module)]
    optimizer = torch.optim.AdamW(parameters)
    states = _states(model, clip_s)
    targets = target_batch([[300 + place for place in range(tokens)]] * _BATCH, "cpu")

    head = FrozenHead(model.head_weight)

    def step() -> None:
        hidden = model.decoder_hidden(states, targets.input_ids)
        loss = head_cross_entropy_sum(hidden, head, targets.targets)
        (loss / targets.num_targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.module.train()
    return timed(step)


def _states(model: SpeechModel, clip_s: float) -> Any:
    load = _noise(clip_s)
    clips = torch.from_numpy(np.stack([load(place) for place in range(_BATCH)]))
    with torch.inference_mode():
        states = model.encode(clips, [clips.shape[1]] * _BATCH)
    # A tensor of inference mode cannot be trained on.
    return type(states)(states.values.clone(), states.lengths)


def _hear(model: SpeechModel, clip_s: float, tokens: int) -> None:
    model.module.eval()
    with torch.inference_mode():
        session = GreedySession(model, _states(model, clip_s), tokens)
        last = torch.ones(_BATCH, dtype=torch.long)
        for _ in range(tokens):
            last = session.step(last).argmax(dim=-1)


def _noise(clip_s: float) -> Callable[[int], Any]:
    def load(index: int) -> Any:
        chance = np.random.default_rng(index)
        return (0.1 * chance.standard_normal(round(16_000 * clip_s))).astype(np.float32)

    return load


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("scale-out"))
    out = parser.parse_args().out
    apply_environment_defaults()
    out.mkdir(parents=True, exist_ok=True)
    tiny = resolve_model("tiny", cache=cache_root(), sources=("cache", "wheel"),
                         progress=SilentProgress())  # fmt: skip
    model = load_checkpoint(tiny.checkpoint_dir)
    curves = [*manifests((10_000, 30_000, 100_000)), *stored_states(model, (50, 100, 200, 400))]
    inject_lora(model, sites="decoder")
    curves += [*clip_lengths(model, (2.0, 4.0, 8.0, 16.0, 30.0)), *model_sizes(MODELS)]
    for group in dict.fromkeys(curve.group for curve in curves):
        mine = [curve for curve in curves if curve.group == group]
        drawing = plot([(curve.name, curve.points) for curve in mine], f"Seconds by {group}",
                       (mine[0].unit, "s"))  # fmt: skip
        (out / f"{group.replace(' ', '-')}.svg").write_text(drawing, encoding="utf-8")
    record = {
        "chip": chip_name(),
        "threads": torch.get_num_threads(),
        "curves": [{"group": c.group, "name": c.name, "unit": c.unit, "points": c.points,
                    "exponent": round(c.exponent, 2)} for c in curves],
    }  # fmt: skip
    (out / "scale.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    for curve in curves:
        shown = ", ".join(f"{x:g}: {y:.3g} s" for x, y in curve.points)
        print(f"{curve.name} ({curve.unit}): {shown}; exponent {curve.exponent:.2f}")
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
