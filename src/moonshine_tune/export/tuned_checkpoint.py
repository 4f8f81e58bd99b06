"""A fully tuned checkpoint beside its base: which tensors changed, and whether they may be."""

from dataclasses import dataclass

import numpy as np

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.export.matching import TIED
from moonshine_tune.export.parity.graphs import merged_state
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.runtime.quantized import Floats


@dataclass(frozen=True)
class TunedTensors:
    """Tensors by checkpoint name: the changed ones before and after, and all others."""

    before: dict[str, Floats]
    after: dict[str, Floats]
    others: dict[str, Floats]


def tuned_tensors(base: SpeechModel, tuned: SpeechModel) -> TunedTensors:
    """What full tuning changed.

    Raises:
        ProblemsError: the two are not of one shape, or a number changed that runtime files hold
            as part of their graph and not as a tensor.
    """
    old, new = merged_state(base, {}), merged_state(tuned, {})
    problems = [f"{name}: only in the base" for name in old.keys() - new.keys()]
    problems += [f"{name}: only in the tuned checkpoint" for name in new.keys() - old.keys()]
    problems += [
        f"{name}: {new[name].shape} instead of {old[name].shape}"
        for name in old.keys() & new.keys()
        if old[name].shape != new[name].shape
    ]
    if problems:
        raise ProblemsError(
            f"{len(problems)} tensors of the checkpoint are not those of its base",
            sorted(problems),
            hint="name the base that it was tuned from with --model, or use --method trace",
        )
    for state in (old, new):
        if _is_tied(state):
            state.pop(max(TIED))
    untied = sorted(set(new) ^ set(old))
    changed = {name for name in set(new) & set(old) if not np.array_equal(old[name], new[name])}
    scalars = sorted(name for name in changed if new[name].size == 1)
    if untied or scalars:
        raise ProblemsError(
            "this checkpoint changes what the base's runtime files have no tensor for",
            [*untied, *scalars],
            hint="export with: --method trace",
        )
    return TunedTensors(
        before={name: old[name] for name in changed},
        after={name: new[name] for name in changed},
        others={name: value for name, value in old.items() if name not in changed},
    )


def _is_tied(state: dict[str, Floats]) -> bool:
    """Whether the output head is the embedding once more."""
    pair = [state[name] for name in TIED if name in state]
    return len(pair) == 2 and np.array_equal(pair[0], pair[1])
