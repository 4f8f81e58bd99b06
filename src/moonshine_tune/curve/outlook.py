"""What the trainings of a curve say about further recordings, in numbers and in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.core.errors import NegativeAnswerError
from moonshine_tune.curve.fit import LearningCurve, Training
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runs.records import CurvePointRecord, CurvePredictionRecord, CurveRecord
from moonshine_tune.runs.summary import read_scored

# Twice as many recordings are worth their time above this share of the WER; below, in the whole
# interval, the curve is flat.
_WORTH = 0.1
_LINE_POINTS = 40
NO_BETTER = "no better than the base"
_NO_BETTER_ADVICE = (
    "no training is better than the base model, so nothing follows for more recordings: raise "
    "train.steps, lower train.learning_rate, or begin with larger --sizes"
)


@dataclass(frozen=True)
class PlannedTraining:
    """A training of the curve: how many recordings, and which seed."""

    size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its run folder and of its part of the manifest."""
        return f"n{self.size:04d}-s{self.seed}"

    def run(self, folder: Path) -> RunFolder:
        """Its run folder below that of the curve."""
        return RunFolder(folder / "runs" / self.name)


def with_outlook(
    record: CurveRecord, folder: Path, done: Sequence[PlannedTraining], dev: Path
) -> CurveRecord:
    """The record with what the trainings say.

    Args:
        done: trainings that have ended.

    Raises:
        NegativeAnswerError: the base model makes no error on dev.
    """
    points, trainings = [], []
    base_wer: float | None = None
    words = base = np.zeros(0)
    any_better = False
    for job in done:
        run = job.run(folder)
        result = run.read_record().result
        scored = sorted(read_scored(run.dev_hypotheses_path), key=lambda item: item.id)
        counted = [item for item in scored if not item.is_empty]
        words = np.array([float(item.words.reference) for item in counted])
        errors = np.array([float(item.words.errors) for item in counted])
        base_wer = result.baseline.dev_wer
        # The errors of the base on single clips are not kept: spread over dev as its words are.
        base = words * (base_wer or 0.0) / 100
        # Nobody uses an adapter that is worse than the base.
        is_better = errors.sum() < base.sum()
        any_better |= bool(is_better)
        trainings.append(Training(job.size, errors if is_better else base))
        points.append(
            CurvePointRecord(
                recordings=job.size,
                seed=job.seed,
                wer=round(float(100 * errors.sum() / max(words.sum(), 1)), 4),
                seconds=result.seconds,
                run=f"runs/{job.name}",
            )
        )
    changed: dict[str, Any] = {"points": points, "base_wer": base_wer}
    if base_wer == 0:
        raise NegativeAnswerError(
            "the base model makes no error on dev: there is nothing to learn",
            where=dev,
            hint="name a dev set that is as hard as the later use: --dev dev.jsonl",
        )
    if len({job.size for job in done}) >= 2 and not any_better:
        changed |= {"verdict": NO_BETTER, "sentences": [_NO_BETTER_ADVICE]}
    elif len({job.size for job in done}) >= 2:
        changed |= _predictions(record, LearningCurve(trainings, base, words))
    return record.model_copy(update=changed)


def _predictions(record: CurveRecord, curve: LearningCurve) -> dict[str, Any]:
    count = record.recordings

    def at(recordings: int) -> CurvePredictionRecord:
        expected = curve.predict(recordings)
        return CurvePredictionRecord(
            recordings=recordings,
            wer=round(expected.middle, 2),
            low=round(expected.low, 2),
            high=round(expected.high, 2),
        )

    predictions = [at(count + more) for more in record.more]
    now = at(count)
    gain = curve.gain(count, 2 * count)
    worth = _WORTH * now.wer
    verdict = "worth it" if gain.low >= worth else "flat" if gain.high < worth else "not decided"
    last = max([2 * count, *(item.recordings for item in predictions)])
    steps = sorted({round(float(n)) for n in np.geomspace(min(record.sizes), last, _LINE_POINTS)})
    return {
        "predictions": predictions,
        "line": [at(step) for step in steps],
        "gain": round(gain.middle, 2),
        "gain_interval": (round(gain.low, 2), round(gain.high, 2)),
        "verdict": verdict,
        "sentences": list(_sentences(record, predictions, now, gain.middle, verdict)),
    }


def _sentences(
    record: CurveRecord,
    predictions: Sequence[CurvePredictionRecord],
    now: CurvePredictionRecord,
    gain: float,
    verdict: str,
) -> Iterator[str]:
    """What a person wants to know."""
    yield f"{record.recordings} recordings: WER {_shown(now)}"
    for item in predictions:
        yield f"{item.recordings - record.recordings} more recordings: {_shown(item)}"
    if verdict == "flat":
        yield (
            f"the curve is flat: twice as many recordings gain {gain:.1f} points; stop, or record "
            "what is missing: moonshine-tune data next"
        )
    elif verdict == "worth it":
        yield f"twice as many recordings gain about {gain:.1f} points: go on"
    else:
        yield (
            f"twice as many recordings gain about {gain:.1f} points, which is not certain: a "
            "larger dev set or more --seeds would tell"
        )


def _shown(item: CurvePredictionRecord) -> str:
    return f"{item.wer:.1f} % ({item.low:.1f}–{item.high:.1f})"
