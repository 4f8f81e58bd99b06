"""Makes the sets that a job scores: all from one model, with one normalizer and one cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.normalizers import Normalizer, normalizer_for
from moonshine_tune.inference.dataset import SpeechDataset, build_dataset
from moonshine_tune.inference.encoder_cache import Clips, EncoderCache
from moonshine_tune.inference.scored_set import ScoredSet
from moonshine_tune.registry.open import OpenedModel


@dataclass(frozen=True)
class ScoredSets:
    """Makes scored sets.

    Attributes:
        encodes: whether this process scores them; otherwise nothing is encoded.
    """

    settings: RunSettings
    opened: OpenedModel
    cache: EncoderCache
    encodes: bool = True

    @cached_property
    def normalizer(self) -> Normalizer:
        """Of the settings, or of the language of the model."""
        return normalizer_for(self.settings.data.normalizer, self.opened.language)

    def dataset(self, name: str, utterances: Sequence[Utterance]) -> SpeechDataset:
        """The utterances that the model can score, with or without texts."""
        return build_dataset(
            utterances,
            self.opened.model,
            name=name,
            max_clip_s=self.settings.data.max_clip_s,
            needs_text=False,
        )

    def count_words(self, name: str, dataset: SpeechDataset, where: Path | None) -> int:
        """Reference words of a set that something is chosen by.

        Raises:
            RequestError: there is none.
        """
        texts = (self.normalizer(item.text or "") for item in dataset.utterances)
        if count := sum(len(text.split()) for text in texts):
            return count
        raise RequestError(
            f"{name} has no reference word after the normalizer {self.normalizer.name}: nothing "
            "can be chosen by it",
            where=where,
            hint="name a development manifest with speech: --dev dev.jsonl",
        )

    def make(
        self, name: str, dataset: SpeechDataset, clips: Clips | None = None, *, set_name: str = ""
    ) -> ScoredSet:
        """The set, encoded.

        Args:
            clips: versions of the clips of the dataset; None for those as recorded.
            set_name: of the manifest, for the title.
        """
        indices = range(len(dataset)) if self.encodes else ()
        return ScoredSet(
            name,
            dataset.utterances,
            self.cache.source(dataset if clips is None else clips, indices, name),
            self.normalizer,
            self.opened.limits,
            set_name=set_name,
        )
