"""A made-up training for tests of the search: the folder that `train` leaves, without a model."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moonshine_tune.config.resolve import ResolvedSettings
from moonshine_tune.core.files import write_json_atomic, write_jsonl_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.runs.folder import RunFolder


def wer_of(resolved: ResolvedSettings) -> float:
    settings = resolved.settings
    return 5.0 + abs(settings.adapter.rank - 8) + 2000 * abs(settings.train.learning_rate - 5e-4)


class FakeTrain:
    """Leaves a run folder as `train` does; dev WER depends on the settings in a known way."""

    def __init__(self, act: Callable[[int, int], None] | None = None) -> None:
        self.ran: list[tuple[ResolvedSettings, Path, bool]] = []
        self._act = act or (lambda trial, step: None)

    def __call__(
        self, resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
    ) -> None:
        self.ran.append((resolved, out, resume))
        trial, settings, wer = len(self.ran), resolved.settings, wer_of(resolved)
        run = RunFolder.open(out) if resume else RunFolder.create(out)
        begin = 0
        if resume:
            state = run.state_dir / "state.json"
            begin = json.loads(state.read_text())["step"] if state.is_file() else 0
        else:
            record = {"job": "train", "settings": settings.model_dump(mode="json")}
            write_json_atomic(run.record_path, {**record, "sources": {}, "status": "running"})
            run.append_metrics({"step": 0, "dev_wer": 20.0, "canary_wer": 10.0})
        run.state_dir.mkdir(exist_ok=True)
        steps = settings.train.steps
        for step in range(begin + 25, steps + 1, 25):
            self._act(trial, step)
            now = wer + (steps - step) / 10
            run.append_metrics({"step": step, "dev_wer": now, "canary_wer": 10.0})
            (run.state_dir / "state.json").write_text(json.dumps({"step": step}))
            progress.say(f"step {step}")
        run.adapter_dir.mkdir(exist_ok=True)
        (run.adapter_dir / "adapter_model.safetensors").write_bytes(b"0" * settings.adapter.rank)
        errors = round(wer)
        write_jsonl_atomic(run.dev_hypotheses_path, [line(n, errors) for n in range(20)])
        candidate = {"step": steps, "dev_wer": wer, "strength": 1.0,
                     "canary_wer": 10.0 + settings.adapter.rank / 10}  # fmt: skip
        run.update_record(
            status="finished",
            result={
                "baseline": {"step": 0, "dev_wer": 20.0, "canary_wer": 10.0, "strength": 1.0},
                "best": candidate, "canary_held": True, "steps": steps, "seconds": 2.0,
                "train_seconds": 1.0, "peak_memory_mb": 100, "skipped_steps": 0,
            },
        )  # fmt: skip


def line(number: int, errors: int) -> dict[str, Any]:
    return {"id": f"u{number}", "reference": "a b c", "hypothesis": "a b", "substitutions": errors,
            "deletions": 0, "insertions": 0, "reference_words": 30, "character_errors": 1,
            "reference_characters": 5}  # fmt: skip


def dies_with_rank_two(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
) -> None:
    """A training whose process is killed, as by the kernel when memory runs out."""
    if resolved.settings.adapter.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    FakeTrain()(resolved, out, progress, resume=resume)


def waits_for_interrupt(
    resolved: ResolvedSettings, out: Path, progress: Progress, *, resume: bool = False
) -> None:
    """A training that waits after its first score to be interrupted, unless it is resumed."""
    seconds = 0 if resume else 60
    fake_train = FakeTrain(lambda trial, step: time.sleep(seconds if step == 50 else 0))
    fake_train(resolved, out, progress, resume=resume)
