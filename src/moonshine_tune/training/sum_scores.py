"""Scores of weighted sums of adapters, on dev of every domain and on the canary."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import Manifest, Utterance
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.corpus.voices import is_tiny
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.inference.encoder_cache import EncoderCache
from moonshine_tune.inference.scored_set import ScoredSet
from moonshine_tune.metrics.wer import ScoredUtterance
from moonshine_tune.models.adapter_sum import WeightedAdapter, save_sum
from moonshine_tune.models.lora import (
    adapter_disabled,
    adapter_parameters,
    load_adapter,
    load_matrices,
)
from moonshine_tune.registry.open import OpenedModel
from moonshine_tune.training.combined_parts import DevSet
from moonshine_tune.training.scored_sets import ScoredSets
from moonshine_tune.training.selection import Candidate

Strengths = tuple[float, ...]


class SumScores:
    """Scores sums of some adapters with one model; the base is scored first.

    Args:
        opened: the base, with no adapter in use.
        adapters: run or adapter folders.
        scratch: an empty folder, for the sum that is scored.

    Attributes:
        candidates: what was scored, by the strengths; the base has none.
        remarks: how many clips of each set are scored.
        normalizer: name of the normalizer.
        dev_words: words of a single set whose WER would be as uncertain as the mean over all.
    """

    def __init__(
        self,
        opened: OpenedModel,
        adapters: Sequence[Path],
        sets: Sequence[DevSet],
        canary: Manifest | None,
        settings: RunSettings,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.candidates: dict[Strengths, Candidate] = {}
        self.remarks: list[str] = []
        self._details: dict[Strengths, tuple[ScoredUtterance, ...]] = {}
        self._opened, self._model = opened, opened.model
        self._adapters, self._scratch = tuple(adapters), scratch
        self._settings, self._progress = settings, progress
        # With all of them: what is stored of a clip depends on whether the encoder is adapted.
        save_sum(scratch, self.parts((1.0,) * len(adapters)))
        load_adapter(self._model, scratch)
        self._model.module.eval()
        names = [name for name, _ in adapter_parameters(self._model.module)]
        self._cache = EncoderCache(
            settings.device,
            opened,
            progress,
            trains_encoder=any(name.startswith("model.encoder.") for name in names),
        )
        self._sets = ScoredSets(settings, opened, self._cache)
        self.normalizer = self._sets.normalizer.name
        counts: list[int] = []
        self._dev: list[ScoredSet] = []
        for item in sets:
            dataset = self._dataset(item.name, item.utterances)
            counts.append(self._sets.count_words(item.name, dataset, item.path))
            self._dev.append(self._sets.make(item.name, dataset))
        self.dev_words = round(len(counts) ** 2 / sum(1 / count for count in counts))
        self._canary = None
        if canary is not None:
            clips = evenly_chosen(canary.utterances, settings.select.max_dev_utterances)
            dataset = self._dataset("canary", clips)
            self._canary = self._sets.make("canary", dataset, set_name=canary.title)
        self.remarks += self._cache.remarks

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """The clips of all dev sets."""
        return tuple(item for scored in self._dev for item in scored.utterances)

    def parts(self, strengths: Strengths) -> list[WeightedAdapter]:
        """The adapters with their strengths, as they are summed."""
        return [WeightedAdapter(*pair) for pair in zip(self._adapters, strengths, strict=True)]

    def details(self, strengths: Strengths) -> tuple[ScoredUtterance, ...]:
        """The scored clips of all dev sets."""
        return self._details[strengths]

    def score_base(self) -> Candidate:
        """Score the base model; hypotheses of a canary without texts become its references."""
        with adapter_disabled(self._model):
            return self._score(())

    def score(self, strengths: Strengths) -> Candidate:
        """Score a sum, unless that was done before."""
        if strengths not in self.candidates:
            save_sum(self._scratch, self.parts(strengths))
            load_matrices(self._model, self._scratch)
            self._score(strengths)
        return self.candidates[strengths]

    def _score(self, strengths: Strengths) -> Candidate:
        model, progress = self._model, self._progress
        scores = {scored.name: scored.score(model, progress) for scored in self._dev}
        dev_wers = {name: item.score.wer for name, item in scores.items()}
        canary = self._canary
        candidate = Candidate(
            step=0,
            dev_wer=mean(dev_wers.values()),
            canary_wer=None if canary is None else canary.score(model, progress).score.wer,
            strength=mean(filter(None, strengths)) if strengths else 1.0,
            averaged=0,
            dev_augmented_wer=None,
            canary="" if canary is None else canary.title,
            strengths=strengths,
            dev_wers=dev_wers,
        )
        if any(is_tiny(scored.utterances) for scored in self._dev):
            # Smaller changes say nothing: WERs are equal.
            loss = mean(scored.word_loss(model, progress) for scored in self._dev)
            candidate = candidate.model_copy(update={"dev_loss": round(loss, 3)})
        self.candidates[strengths] = candidate
        self._details[strengths] = tuple(u for item in scores.values() for u in item.scored)
        return candidate

    def _dataset(self, name: str, utterances: Sequence[Utterance]) -> SpeechDataset:
        dataset = self._sets.dataset(name, utterances)
        self.remarks += dataset.remarks
        return dataset
