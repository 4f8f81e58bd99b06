"""Takes out of a trained adapter what it does to general speech and its own domain does not need.

An adapter learns from a few hundred clips. In the directions of its layers' inputs that those
hardly have, its matrices are what chance and the first random numbers left there; general speech
has such directions, and is changed by them. One closed formula takes them out, without training.

Source of the formula: the least-squares merging of linear layers (RegMean, arXiv 2212.09849), here
of a layer's change and of no change.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from moonshine_tune.core.progress import Progress
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.input_covariance import InputCovariance, filtered
from moonshine_tune.models.lora import adapter_state
from moonshine_tune.training.objective import Objective

# More clips change the result less than another seed does.
_CLIPS = 160


def filtered_adapter(
    model: SpeechModel,
    objective: Objective,
    steps: int,
    *,
    weight: float,
    max_batch: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """The adapter that the model has, filtered by the inputs of its layers in the last steps.

    Price: a forward pass over 160 training clips and as many windows of general speech, and two
    matrices [in, in] for each input of an adapted layer.

    Args:
        steps: that the run has trained.
        weight: of general speech; as of `models.input_covariance.filtered`.
        max_batch: most clips in a forward pass; 0 for the size that the settings name.

    Returns:
        Parameters by name, as of `adapter_state`.
    """
    first = max(steps - -(-_CLIPS // objective.clips_per_step), 0)
    domain, general = InputCovariance(), InputCovariance()
    model.module.eval()
    name = "comparing the inputs of the adapter's layers"
    with torch.no_grad(), progress.stage(name, steps - first) as stage:
        for step in range(first, steps):
            with domain.collect(model):
                _exhaust(objective.domain_terms(step, max_batch))
            with general.collect(model):
                _exhaust(objective.replay_terms(step, max_batch))
            stage.advance()
    return filtered(adapter_state(model), domain, general, weight)


def _exhaust(terms: Iterable[Any]) -> None:
    for _ in terms:
        pass
