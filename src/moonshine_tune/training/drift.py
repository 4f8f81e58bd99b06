"""How much general speech an adapter loses, on audio that is not trained on.

The base model listens to held-out windows of replay audio, the adapted model to varied versions of
them. What it understands less of them than the base does is the drift, a difference of KL
divergences. WER on a few hundred words moves in steps of a word, and clean reading hides what is
lost on other voices: an adapter that costs hard general speech two points of WER changes no more
than two words of it.
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
from moonshine_tune.models.lora import adapter_disabled
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
        self._base = 0.0

    def measure_base(self, model: SpeechModel) -> None:
        """Compare with the model as it is now from here on: its adapter does nothing yet."""
        self._base = 0.0
        self._base = self.measure(model)

    @torch.no_grad()
    def measure(self, model: SpeechModel) -> float:
        """Nats per token of the base's texts by which varied speech is understood less."""
        head = FrozenHead(model.head_weight)
        total = 0.0
        for group in self._groups:
            total += float(self._teacher.kl_sum(group, self._source.batch(group), head))
        return total / self._num_targets - self._base


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
    teacher = BaseTeacher(opened, dataset, indices, progress)
    drift = GeneralDrift(teacher, source, indices)
    with adapter_disabled(opened.model):
        drift.measure_base(opened.model)
    return drift
