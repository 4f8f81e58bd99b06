"""Takes out of an adapter what it does to general speech and its own domain does not need.

An adapter learns from a few hundred clips. In the directions of its layers' inputs that those
hardly have, its matrices are what chance and the first random numbers left there; general speech
has such directions, and is changed by them. One closed formula takes them out.

Source of the formula: the least-squares merging of linear layers (RegMean, arXiv 2212.09849), here
of an adapted layer and the base's.
"""

import torch
from torch import Tensor

from moonshine_tune.core.progress import Progress
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.full import full_base
from moonshine_tune.models.input_covariance import InputCovariance, filtered
from moonshine_tune.models.lora import adapter_state
from moonshine_tune.training.objective import Objective


def filtered_adapter(
    model: SpeechModel,
    objective: Objective,
    steps: int,
    *,
    weight: float,
    num_clips: int,
    max_batch: int,
    progress: Progress,
) -> dict[str, Tensor]:
    """The adapter that the model has, filtered by what its layers read in the last steps.

    They are read with the adapter: its deeper layers read what the others have changed. With those
    of the base model, a filter as strong keeps less of the domain and of general speech.

    Price: a forward pass over the clips and as many windows of general speech, and for a moment two
    matrices [in, in] for each input of an adapted layer: 120 MB for tiny with adapters in all
    layers, 1 GB for the decoder of medium.

    Args:
        steps: that the run has trained so far.
        weight: of general speech; as of `models.input_covariance.filtered`.
        num_clips: training clips that are looked at, at least.
        max_batch: clips of a forward pass, at most; 0 for those of a training step.

    Returns:
        Parameters by name, as of `adapter_state`.
    """
    first = max(steps - -(-num_clips // objective.clips_per_step), 0)
    domain, general = InputCovariance(), InputCovariance()
    model.module.eval()
    name = "comparing domain and general speech"
    with torch.no_grad(), progress.stage(name, steps - first) as stage:
        for step in range(first, steps):
            with domain.collect(model):
                objective.run_domain_clips(step, max_batch)
            with general.collect(model):
                objective.run_replay_clips(step, max_batch)
            stage.advance()
    base = full_base(model.module)
    return filtered(adapter_state(model), domain, general, weight, base)
