"""Audio augmentation of the training clips, deterministic for a given seed.

The versions of all clips have indices of their own: `version · utterances + utterance`. Version 0
is the clip as recorded, so clean clips have the same stored states with and without augmentation.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from moonshine_tune.audio.augment import Augmenter, EffectProbabilities, Recipe
from moonshine_tune.audio.noise_bank import NoiseBank, open_noise_bank
from moonshine_tune.audio.samples import Samples
from moonshine_tune.config.settings import AugmentSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.sampler import StagedSampler
from moonshine_tune.inference.dataset import SpeechDataset


@dataclass(frozen=True)
class NoiseBanks:
    """The noises and room impulse responses of a run."""

    noises: NoiseBank | None
    impulse_responses: NoiseBank | None

    def fingerprints(self) -> dict[str, str]:
        """For run.json: a resume is refused where they have changed."""
        banks = {"noise": self.noises, "rooms": self.impulse_responses}
        return {name: bank.fingerprint for name, bank in banks.items() if bank is not None}


def open_noise_banks(settings: AugmentSettings) -> NoiseBanks:
    """The folders that the settings name; none is opened where nothing is augmented.

    Raises:
        RequestError: a folder is missing or has no audio, or every probability is 0.
    """
    if settings.highest_share == 0:
        return NoiseBanks(None, None)
    probabilities = (
        settings.noise_chance if settings.noise else 0,
        settings.room_chance if settings.rooms else 0,
        settings.gain_chance,
        settings.speed_chance,
        settings.telephone_chance,
        settings.clipping_chance,
        settings.masking_chance,
    )
    if not any(probabilities):
        raise RequestError(
            "augment.share is above 0 and no effect can be drawn",
            hint="name noises with --set augment.noise=FOLDER, or raise one of the chances",
        )
    return NoiseBanks(
        open_noise_bank(settings.noise, "noise") if settings.noise else None,
        open_noise_bank(settings.rooms, "rooms") if settings.rooms else None,
    )


class AugmentedDataset:
    """All versions of a dataset's clips, and which of them each step draws. Never changes.

    Args:
        seed: of all draws; what a step draws depends on it, the utterance and the step alone.
    """

    def __init__(
        self, dataset: SpeechDataset, settings: AugmentSettings, banks: NoiseBanks, *, seed: int
    ) -> None:
        self._dataset, self._variants = dataset, settings.variants
        by_kind = settings.share, settings.synthetic_share
        self._shares = tuple(
            by_kind[1] if item.is_synthetic and by_kind[1] is not None else by_kind[0]
            for item in dataset.utterances
        )
        self._augments = any(self._shares)
        self._seed = seed
        probabilities = EffectProbabilities(
            noise=settings.noise_chance,
            impulse_response=settings.room_chance,
            gain=settings.gain_chance,
            speed=settings.speed_chance,
            telephone=settings.telephone_chance,
            clipping=settings.clipping_chance,
            masking=settings.masking_chance,
            snr_db=settings.snr_db,
            gain_db=settings.gain_db,
            speeds=settings.speeds,
        )
        self._augmenter = Augmenter(
            probabilities,
            noises=banks.noises,
            impulse_responses=banks.impulse_responses,
            seed=seed,
        )

    @cached_property
    def seconds(self) -> Sequence[float]:
        """Length of each version, where they can be counted."""
        if not self._augments:
            return self._dataset.seconds
        count = len(self._dataset) * (1 + self._variants)
        return tuple(self.length(index) for index in range(count))

    def augmented_indices(self, indices: Sequence[int], step: int) -> list[int]:
        """The versions of some utterances that step `step` trains on."""
        if not self._augments:
            return list(indices)
        return [self._version(index, step) * len(self._dataset) + index for index in indices]

    def drawn(self, sampler: StagedSampler, steps: int) -> tuple[int, ...] | None:
        """Every version that the first `steps` steps draw, ascending.

        None where each draw makes a new version, so that nothing can be stored.
        """
        if not self._augments:
            return sampler.drawn(steps)
        if self._variants == 0:
            return None
        versions: set[int] = set()
        for step in range(steps):
            versions.update(self.augmented_indices(sampler.plan(step).indices, step))
        return tuple(sorted(versions))

    def load(self, index: int) -> Samples:
        """Samples of a version, mono 16 kHz."""
        samples = self._dataset.load(index % len(self._dataset))
        recipe = self._recipe(index)
        return samples if recipe.is_clean else recipe.apply(samples)

    def content_key(self, index: int) -> str:
        """Identifies the sound: the clip's content and the recipe."""
        key = self._dataset.content_key(index % len(self._dataset))
        recipe = self._recipe(index)
        return key if recipe.is_clean else f"{key}:{recipe.key()}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line on what is augmented; none where nothing is."""
        if not self._augments:
            return ()
        kind = (
            f"one of {self._variants} stored versions of the clip"
            if self._variants
            else "a new version each time, never stored"
        )
        shares = " and ".join(
            f"{share:.0%} of the draws" + (" of synthetic clips" if is_synthetic else "")
            for is_synthetic, share in self._shares_by_kind()
        )
        return (f"augmentation: {shares} use {kind}",)

    def _shares_by_kind(self) -> list[tuple[bool, float]]:
        """Whether it is of synthetic clips alone, and a share; one where both have the same."""
        pairs = zip(self._dataset.utterances, self._shares, strict=True)
        shares = sorted({(item.is_synthetic, share) for item, share in pairs})
        return shares if len({share for _, share in shares}) > 1 else [(False, shares[0][1])]

    def _recipe(self, index: int) -> Recipe:
        version, utterance = divmod(index, len(self._dataset))
        if version == 0:
            return Recipe()
        return self._augmenter.recipe(self._dataset.utterances[utterance].id, version)

    def length(self, index: int) -> float:
        """Seconds of a version."""
        return self._recipe(index).seconds(self._dataset.seconds[index % len(self._dataset)])

    def _version(self, index: int, step: int) -> int:
        identifier = self._dataset.utterances[index].id
        # The text is part of what is drawn: another one would change every augmented run.
        rng = random.Random(f"{self._seed}/heard/{step}/{identifier}")
        if rng.random() >= self._shares[index]:
            return 0
        return 1 + rng.randrange(self._variants) if self._variants else step + 1


class AugmentedCopies(AugmentedDataset):
    """Every clip of a dataset in its first augmented version, by the clip's own index."""

    @cached_property
    def seconds(self) -> Sequence[float]:
        """Length of each augmented clip."""
        return tuple(map(self.length, range(len(self._dataset))))

    def _recipe(self, index: int) -> Recipe:
        return super()._recipe(len(self._dataset) + index)
