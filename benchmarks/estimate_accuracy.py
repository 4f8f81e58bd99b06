"""The memory estimate against the measured peak, for each configuration.

Each configuration trains in its own process on the CPU, with random weights of the exact shape: it
loads the checkpoint, injects the adapter, stores states if the case says so, runs steps of the real
losses with AdamW, then scores one batch. Measured is the peak resident size (getrusage) minus the
resident size after all libraries are loaded and warm.

    python benchmarks/estimate_accuracy.py --out estimate_accuracy.json [--only medium]
"""

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# The second step has everything that later ones have: moments, gradients, stored states.
_STEPS = 2


@dataclass(frozen=True)
class Case:
    """One configuration; names as in `memory.RunShape`."""

    model: str
    sites: str = "decoder"
    rank: int = 8
    frozen: str = "float32"
    mixed: bool = False
    batch_size: int = 8
    clip_s: float = 10.0
    tokens: int = 40
    gradient_checkpointing: bool = False
    stored_s: float = 0.0
    replay_clips: int = 0
    score_batch_s: float = 0.0

    @property
    def name(self) -> str:
        """The values that differ from the defaults."""
        words = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "model" and getattr(self, field.name) != field.default
        ]
        return " ".join([self.model, *words])


CASES = (
    Case("tiny"),
    Case("tiny", sites="all", rank=16),
    Case("tiny", stored_s=1200, replay_clips=4, score_batch_s=400),
    Case("tiny", sites="all", batch_size=16, gradient_checkpointing=True),
    Case("streaming-tiny", batch_size=16),
    Case("streaming-tiny", sites="all", clip_s=15, tokens=60),
    Case("base", batch_size=16, tokens=60),
    Case("streaming-small", sites="qv", batch_size=4, gradient_checkpointing=True),
    Case(
        "streaming-medium", sites="qv", batch_size=1, clip_s=30, tokens=120,
        frozen="bfloat16", gradient_checkpointing=True, score_batch_s=120,
    ),
    Case("streaming-medium", batch_size=4, frozen="bfloat16", stored_s=600, score_batch_s=120),
    Case("streaming-small", sites="all", batch_size=4),
    Case("streaming-medium", batch_size=4, stored_s=600, replay_clips=4),
    Case("streaming-medium", sites="qv", batch_size=1, clip_s=30, tokens=120),
    Case("streaming-tiny", stored_s=1800, batch_size=16, tokens=60, score_batch_s=400),
    Case("streaming-small", stored_s=1200, replay_clips=4, frozen="bfloat16"),
    Case("base", sites="qv", batch_size=4, clip_s=20, score_batch_s=120),
    Case("streaming-small", batch_size=4, mixed=True),
)  # fmt: skip


def _shape(case: Case, loose: bool) -> Any:
    import torch

    from moonshine_tune.memory.run_shape import RunShape

    values = {k: v for k, v in asdict(case).items() if k not in ("model", "frozen")}
    frozen = getattr(torch, case.frozen)
    return RunShape(
        frozen_dtype=frozen, releases_encoder=case.stored_s > 0, loose_heap=loose, **values
    )


def estimate(case: Case, loose: bool) -> dict[str, Any]:
    """Estimated growth in MB, the phase with the peak, and the seconds of the estimate."""
    from moonshine_tune.memory.model import MemoryModel
    from moonshine_tune.registry.published_configs import published_config

    start_time = time.monotonic()
    result = MemoryModel(published_config(case.model), _shape(case, loose)).estimate()
    return {
        "estimate_mb": round(result.growth / 1e6),
        "phase": result.peak.name,
        "phases_mb": {p.name: round((p.total - p.parts["runtime"]) / 1e6) for p in result.phases},
        "seconds": round(time.monotonic() - start_time, 2),
    }


def measure(case: Case, folder: Path, loose: bool) -> dict[str, Any]:
    """Peak resident growth of a new process that trains this configuration."""
    arguments = ["--child", json.dumps(asdict(case)), "--model-dir", str(folder)]
    arguments += ["--loose-heap"] if loose else []
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def save_random(name: str, folder: Path) -> Path:
    """A checkpoint of the published shape with random weights, written once."""
    target = folder / name
    if not (target / "tokenizer.json").is_file():
        code = (
            "import sys; from moonshine_tune.registry.published_configs import *; "
            "m = model_from_config(published_config(sys.argv[1])); "
            "m.module.save_pretrained(sys.argv[2]); "
            "m.tokenizer.raw.save(sys.argv[2] + '/tokenizer.json')"
        )
        subprocess.run(
            [sys.executable, "-c", code, name, str(target)], check=True, capture_output=True
        )
    return target


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _warm_up() -> None:
    """Load every library and its code pages with a model of negligible size."""
    import torch
    from transformers import AutoConfig

    from moonshine_tune.models.lora import inject_lora
    from moonshine_tune.models.losses import FrozenHead, head_cross_entropy_sum, target_batch
    from moonshine_tune.registry.published_configs import model_from_config, published_config

    published_config("streaming-tiny")
    small = AutoConfig.for_model(
        "moonshine", vocab_size=512, hidden_size=32, intermediate_size=64,
        encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2,
    )  # fmt: skip
    model = model_from_config(small)
    inject_lora(model, sites="all")
    targets = target_batch([[3, 4, 5]], "cpu")
    hidden = model.decoder_hidden(model.encode(torch.zeros(1, 8000), [8000]), targets.input_ids)
    loss = head_cross_entropy_sum(hidden, FrozenHead(model.head_weight), targets.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW([p for p in model.module.parameters() if p.requires_grad]).step()


def train_and_measure(case: Case, folder: Path) -> dict[str, Any]:
    """The run, in this process."""
    import numpy as np
    import torch

    from moonshine_tune.core.progress import SilentProgress
    from moonshine_tune.inference.decoder_session import GreedySession
    from moonshine_tune.inference.encoder_cache import StateSource, release_encoder
    from moonshine_tune.models.checkpoint import load_checkpoint
    from moonshine_tune.models.lora import adapter_parameters, inject_lora
    from moonshine_tune.models.losses import (
        FrozenHead,
        head_cross_entropy_sum,
        head_kl_sum,
        target_batch,
    )

    _warm_up()
    gc.collect()
    at_start = _resident()
    model = load_checkpoint(folder, dtype=getattr(torch, case.frozen))
    adapter = inject_lora(model, rank=case.rank, sites=case.sites)
    if case.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    loaded = _peak() - at_start
    rng = np.random.default_rng(0)
    clips = round(case.stored_s / case.clip_s) or case.batch_size * 2 * _STEPS
    # Lengths from 90 % to 100 % of the longest, so that batches have padding.
    seconds = [case.clip_s * (0.9 + 0.1 * (i % 5) / 4) for i in range(clips)]

    def load(index: int) -> Any:
        count = round(seconds[index] * 16_000)
        return rng.standard_normal(count, dtype=np.float32) * np.float32(0.1)

    if case.replay_clips:
        # As in a run, the teacher reads all weights before the clips are encoded.
        with torch.inference_mode():
            states = model.encode(torch.zeros(1, 16_000), [16_000])
            GreedySession(model, states, 2).step(torch.ones(1, dtype=torch.long))
    budget = 10_000 if case.stored_s else 0
    dataset = SimpleNamespace(load=load, seconds=seconds)
    source = StateSource(model, dataset, budget_mb=budget, trains_encoder=adapter.touches_encoder)
    source.prepare(range(clips), SilentProgress(), "states")
    prepared = _peak() - at_start
    if case.stored_s:
        release_encoder(model)
    parameters = [value for _, value in adapter_parameters(model.module)]
    optimizer = torch.optim.AdamW(parameters)
    taken = 0

    def batch(size: int) -> list[int]:
        nonlocal taken
        rows = [(taken + index) % clips for index in range(size)]
        taken += size
        return rows

    head = FrozenHead(model.head_weight)

    def terms() -> Any:
        for _ in range(2):
            targets = target_batch([[300 + i for i in range(case.tokens)]] * case.batch_size, "cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=case.mixed):
                states = source.batch(batch(case.batch_size))
                hidden = model.decoder_hidden(states, targets.input_ids)
                loss = head_cross_entropy_sum(hidden, head, targets.targets)
            yield loss / targets.num_targets
        if case.replay_clips:
            rows = case.replay_clips
            targets = target_batch([[300 + i for i in range(case.tokens)]] * rows, "cpu")
            hidden = model.decoder_hidden(source.batch(batch(rows)), targets.input_ids)
            teacher = torch.randn_like(hidden)
            yield head_kl_sum(hidden, teacher, head, targets.targets) / 100

    model.module.train()
    start_time = time.monotonic()
    for _ in range(_STEPS):
        for loss in terms():
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    stepped = _peak() - at_start
    step_seconds = round((time.monotonic() - start_time) / _STEPS, 3)
    if case.score_batch_s:
        model.module.eval()
        rows = max(int(case.score_batch_s // case.clip_s), 1)
        with torch.inference_mode():
            session = GreedySession(model, source.batch(batch(rows)), case.tokens)
            tokens = torch.ones(rows, dtype=torch.long)
            for _ in range(min(case.tokens, 8)):
                tokens = session.step(tokens).argmax(dim=-1)
    result = {"loaded": loaded, "prepared": prepared, "stepped": stepped, "all": _peak() - at_start}
    measured = {f"{name}_mb": round(value / 1e6) for name, value in result.items()}
    return {
        "base_mb": round(at_start / 1e6),
        "measured_mb": measured["all_mb"],
        "step_seconds": step_seconds,
        **measured,
    }


def main() -> None:
    """Print the table; write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("estimate_accuracy.json"))
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--model-dir", type=Path, default=None)
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--loose-heap", action="store_true", help="Linux's own heap")
    options = parser.parse_args()
    if options.child is not None:
        if not options.loose_heap:
            from moonshine_tune.core.device import return_freed_memory_to_os

            return_freed_memory_to_os()
        case = Case(**json.loads(options.child))
        print(json.dumps(train_and_measure(case, options.model_dir)))
        return
    folder = options.model_dir or Path(tempfile.mkdtemp(prefix="estimate-"))
    rows: list[dict[str, Any]] = []
    loose = options.loose_heap
    print(f"{'configuration':<100} {'estimate':>8} {'measured':>8} {'ratio':>6}  phase", flush=True)
    for case in CASES:
        if options.only not in case.name:
            continue
        checkpoint = save_random(case.model, folder)
        row = {
            "case": case.name,
            **asdict(case),
            **estimate(case, loose),
            **measure(case, checkpoint, loose),
        }
        row["ratio"] = round(row["estimate_mb"] / row["measured_mb"], 3)
        rows.append(row)
        print(
            f"{row['case']:<100} {row['estimate_mb']:>8} {row['measured_mb']:>8} "
            f"{row['ratio']:>6.3f}  {row['phase']}",
            flush=True,
        )
        _write(options.out, rows)
    worst = max((abs(row["ratio"] - 1) for row in rows), default=0.0)
    print(json.dumps({"configurations": len(rows), "worst_deviation": round(worst, 3)}))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    worst = max(abs(row["ratio"] - 1) for row in rows)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    content = {"worst": worst, "threads": threads, "rows": rows}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
