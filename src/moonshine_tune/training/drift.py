"""How far an adapter drifts from the base model on general speech that is not trained on.

Measured by the KL divergence of the words' distribution, on windows of replay audio that are held
out and varied. WER on a few hundred words moves in steps of a word, and on clean reading the drift
is a tenth of that on harder speech of other people, while on varied windows it is as large.
"""

from collections.abc import Sequence

import torch

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.inference.batching import batches_by_length
from moonshine_tune.inference.dataset import build_dataset
from moonshine_tune.inference.encoder_cache import EncoderCache, StateSource
from moonshine_tune.inference.scored_set import score_batch_s
from moonshine_tune.models.base import SpeechModel
from moonshine_tune.models.losses import FrozenHead
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.teacher import BaseTeacher
from moonshine_tune.training.windows import VariedWindows, cut_into_windows

_WINDOW_S = 4.0
_MAX_WINDOWS = 64


class GeneralDrift:
    """Windows of general speech, and the base model's output on them.

    Args:
        indices: the windows that are measured.
    """

    def __init__(self, teacher: BaseTeacher, source: StateSource, indices: Sequence[int]) -> None:
        self._teacher, self._source = teacher, source
        batch_s = score_batch_s(skips_encoder=source.skips_encoder)
        groups = batches_by_length([source.seconds[index] for index in indices], batch_s)
        self._groups = [[indices[position] for position in group] for group in groups]
        self._num_targets = teacher.num_targets(indices)

    @torch.no_grad()
    def measure(self, model: SpeechModel) -> float:
        """KL(base ‖ adapted) in nats per token of the base's texts; the mean over all windows."""
        head = FrozenHead(model.head_weight)
        total = 0.0
        for group in self._groups:
            total += float(self._teacher.kl_sum(group, self._source.batch(group), head))
        return total / self._num_targets


def prepare_drift(
    utterances: Sequence[Utterance],
    settings: RunSettings,
    opened: OpenedModel,
    cache: EncoderCache,
    progress: Progress,
) -> GeneralDrift:
    """Cut held-out clips into windows, vary all of them, and run the base model on some."""
    dataset = build_dataset(
        utterances,
        opened.model,
        name="held-out replay",
        max_clip_s=settings.data.max_clip_s,
        needs_text=False,
    )
    dataset = cut_into_windows(dataset, _WINDOW_S)
    # Not the seed of the run: runs that differ in it are judged alike.
    windows = VariedWindows(dataset, 1.0, seed=0)
    indices = evenly_chosen(range(len(dataset)), _MAX_WINDOWS)
    source = cache.source(windows, indices, "held-out replay windows")
    teacher = BaseTeacher(opened, windows, source, indices, progress)
    return GeneralDrift(teacher, source, indices)
