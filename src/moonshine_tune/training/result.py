"""What a training run returns: the figures of its record, and where everything is."""

from pathlib import Path

from pydantic import Field

from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import (
    Number,
    PseudoLabelsRecord,
    ReplayRecord,
    RunResultRecord,
    SyntheticSpeechRecord,
    VoicesRecord,
)
from moonshine_tune.training.selection import Candidate


class TrainResult(RunResultRecord):
    """The result of a training run; its figures are `result` in run.json.

    Attributes:
        stopped: `finished`, `early stop`, or `interrupted` (resumable).
        canary_held: whether the chosen adapter keeps the canary within its bound.
        parent: scores of the adapter that the run started at; None where that is the base.
        verdict: `better`, or why the adapter should not be used: `no better than the base`, `no
            better than the adapter before`, `no gain shown`, or `canary bound broken`; a remark has
            the figures.
        first_loss, last_loss: mean cross-entropy per token, in nats, over the first and the last
            tenth of the steps.
        seconds: of the whole command.
        replay: the general speech that was replayed.
        voices: whose voices the scores on dev are for; None for voices that train has not.
        synthetic: what of train and dev was synthesized; None where nothing was.
        pseudo_labels: texts of training clips that a model wrote; None where there are none.
        train_seconds, prepare_seconds: of the steps alone, and of what was stored before them.
    """

    run: Path = Field(exclude=True)
    adapter: Path = Field(exclude=True)
    stopped: str = Field(exclude=True)
    remarks: tuple[str, ...] = Field(exclude=True)
    voices: VoicesRecord | None = Field(default=None, exclude=True)
    replay: ReplayRecord | None = Field(default=None, exclude=True)
    synthetic: SyntheticSpeechRecord | None = Field(default=None, exclude=True)
    pseudo_labels: PseudoLabelsRecord | None = Field(default=None, exclude=True)
    baseline: Candidate
    parent: Candidate | None = None
    best: Candidate
    canary_held: bool
    verdict: str
    first_loss: Number
    last_loss: Number


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
