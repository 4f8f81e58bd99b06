"""A model's tensors by checkpoint name, as 32-bit arrays, and those that full tuning changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.export.matching import TIED
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.lora import is_of_adapter
from moonshine_tune.models.merge import merged_weights
from moonshine_tune.runtime.quantized import Floats


def model_tensors(model: SpeechModel, *, with_adapter: bool = True) -> dict[str, Floats]:
    """All tensors of a model, with an adapter's effect added, or without it."""
    state = {
        name.replace(".base_layer.", "."): value.detach().float().cpu().numpy()
        for name, value in model.module.state_dict().items()
        if not is_of_adapter(name)
    }
    return state | dict(LazyArrays(merged_weights(model))) if with_adapter else state


class LazyArrays(Mapping[str, Floats]):
    """Tensors as arrays on the CPU, converted one at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Floats:
        array: Floats = self._tensors[name].cpu().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True)
class TunedTensors:
    """Tensors of a fully tuned checkpoint: the changed ones before and after, and all others."""

    before: dict[str, Floats]
    after: dict[str, Floats]
    others: dict[str, Floats]


def tuned_tensors(base: SpeechModel, tuned: SpeechModel) -> TunedTensors:
    """Compare a fully tuned checkpoint with its base.

    Raises:
        ProblemsError: their shapes differ, or a number changed that runtime files hold as part of
            their graph and not as a tensor.
    """
    old, new = model_tensors(base), model_tensors(tuned)
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
            "this checkpoint changes values for which the base's runtime files have no tensor",
            [*untied, *scalars],
            hint="export with: --method trace",
        )
    return TunedTensors(
        before={name: old[name] for name in changed},
        after={name: new[name] for name in changed},
        others={name: value for name, value in old.items() if name not in changed},
    )


def _is_tied(state: dict[str, Floats]) -> bool:
    """Whether the output head equals the embedding."""
    pair = [state[name] for name in TIED if name in state]
    return len(pair) == 2 and np.array_equal(pair[0], pair[1])
