"""What a training run returns, and the record of it in run.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.training.selection import Candidate


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        stopped: `finished`, `early stop`, or `interrupted` (resumable).
        canary_held: whether the chosen adapter keeps the canary within its bound.
        first_loss, last_loss: mean cross-entropy per token, in nats, over the first and the last
            tenth of the steps.
        seconds: of the whole command.
        train_seconds, prepare_seconds: of the steps alone, and of what was stored before them.
    """

    run: Path
    adapter: Path
    stopped: str
    steps: int
    skipped_steps: int
    baseline: Candidate
    best: Candidate
    canary_held: bool
    first_loss: float
    last_loss: float
    seconds: float
    train_seconds: float
    prepare_seconds: float
    peak_memory_mb: int
    remarks: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        """The result in run.json."""
        return {
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "baseline": self.baseline.to_record(),
            "best": self.best.to_record(),
            "canary_held": self.canary_held,
            "first_loss": self.first_loss,
            "last_loss": self.last_loss,
            "seconds": round(self.seconds, 1),
            "train_seconds": round(self.train_seconds, 1),
            "prepare_seconds": round(self.prepare_seconds, 1),
            "peak_memory_mb": self.peak_memory_mb,
        }


def first_and_last_losses(run: RunFolder) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps with finite gradients."""
    losses = [
        float(record["loss"])
        for record in run.read_metrics()
        if record.get("loss") is not None and record.get("gradient_norm") is not None
    ]
    tenth = max(len(losses) // 10, 1)
    first, last = losses[:tenth], losses[-tenth:]
    return sum(first) / max(len(first), 1), sum(last) / max(len(last), 1)
