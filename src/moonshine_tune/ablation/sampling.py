"""Where the values of a trial come from: samplers, pruners, and the numbers of trials."""

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from moonshine_tune.ablation.space import Dimension, Scalar, SearchSpace

OBJECTIVES = ("dev_wer", "canary_loss", "latency", "adapter_mb", "train_seconds")
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median")

# No median can be trusted before this many trials have been scored at the same step.
_PRUNE_AFTER_TRIALS = 4


@dataclass(frozen=True)
class StudyPlan:
    """What a study is, the same for all who work on it.

    Attributes:
        objectives: what is minimized, of `OBJECTIVES`.
        canary_bound: points of canary WER that a trial may lose to count as feasible.
        start: the point of the space tried first; None where the starting settings lie outside.
        seed: of the sampler and of the order of a grid.
    """

    name: str
    space: SearchSpace
    sampler: str
    pruner: str
    objectives: tuple[str, ...]
    canary_bound: float
    start: Mapping[str, Scalar] | None
    seed: int = 0


def sampler_of(plan: StudyPlan, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of a study, with random numbers that start from `seed`."""
    if plan.sampler == "grid":
        return _GridSampler(plan)
    if plan.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Optuna warns of options that may still change.
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=6,
            constraints_func=lambda trial: _constraint(trial, plan.canary_bound),
        )


def pruner_of(plan: StudyPlan) -> optuna.pruners.BasePruner:
    """The pruner of a study."""
    if plan.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_PRUNE_AFTER_TRIALS)
    return optuna.pruners.NopPruner()


class _GridSampler(optuna.samplers.BaseSampler):
    """Gives each trial the point of the grid that belongs to its number, in a seeded order."""

    def __init__(self, plan: StudyPlan) -> None:
        self._points = grid_order(plan.space, plan.seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Scalar:
        number = trial_numbers(study.get_trials(deepcopy=False))[trial.number]
        return self._points[(number - 1) % len(self._points)][param_name]


def grid_order(space: SearchSpace, seed: int) -> tuple[dict[str, Scalar], ...]:
    """All points of the grid, shuffled: a search that is cut short has seen all corners."""

    points = list(space.grid())
    random.Random(seed).shuffle(points)
    return tuple(points)


def _constraint(trial: FrozenTrial, bound: float) -> tuple[float, ...]:
    """At most 0 where the canary is held, as Optuna wants it."""
    loss = trial.user_attrs.get("figures", {}).get("canary_loss")
    return (0.0 if loss is None else float(loss) - bound,)


def suggest(trial: optuna.Trial, item: Dimension) -> Scalar:
    numbers = item.numbers
    if numbers is None:
        return trial.suggest_categorical(item.name, list(item.labels))
    if numbers.whole:
        step = int(numbers.step or 1)
        low, high = int(numbers.low), int(numbers.high)
        high = high if numbers.log else low + (high - low) // step * step
        return trial.suggest_int(item.name, low, high, step=step, log=numbers.log)
    if numbers.step:
        return trial.suggest_float(
            item.name, numbers.low, float(numbers.points()[-1]), step=numbers.step
        )
    return trial.suggest_float(item.name, numbers.low, numbers.high, log=numbers.log)


def originals(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if "retry_of" not in t.user_attrs and "surplus" not in t.user_attrs]


def trial_numbers(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The number from 1 that each Optuna trial goes by; a retry has that of its first try."""
    found: dict[int, int] = {}
    count = 0
    for trial in sorted(trials, key=lambda item: item.number):
        if "retry_of" in trial.user_attrs:
            found[trial.number] = int(trial.user_attrs["number"])
        elif "surplus" not in trial.user_attrs:
            count += 1
            found[trial.number] = count
    return found
