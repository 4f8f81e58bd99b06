"""What a training step hears: each utterance as it is, or one of its augmented versions.

Versions have numbers of their own: `version · utterances + index`. Version 0 is the clip as it is,
so the states of clean clips are the same ones with and without augmentation.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from moonshine_tune.audio.augment import Augmenter, EffectProbabilities, Recipe
from moonshine_tune.audio.noise_bank import NoiseBank, open_noise_bank
from moonshine_tune.audio.samples import Samples
from moonshine_tune.config.settings import AugmentSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.sampler import StagedSampler
from moonshine_tune.inference.dataset import SpeechDataset


@dataclass(frozen=True)
class Sounds:
    """The noises and rooms of a run."""

    noises: NoiseBank | None
    rooms: NoiseBank | None

    def fingerprints(self) -> dict[str, str]:
        """For run.json, so that a resumed run is refused where they have changed."""
        banks = {"noise": self.noises, "rooms": self.rooms}
        return {name: bank.fingerprint for name, bank in banks.items() if bank is not None}


def open_sound_banks(settings: AugmentSettings) -> Sounds:
    """The folders that the settings name; none is opened where nothing is augmented.

    Raises:
        RequestError: a folder is missing or without audio, or nothing would ever be drawn.
    """
    if settings.share == 0:
        return Sounds(None, None)

    def bank(place: Path | None, what: str) -> NoiseBank | None:
        return None if place is None else open_noise_bank(place, what)

    chances = (
        settings.noise_chance if settings.noise else 0,
        settings.room_chance if settings.rooms else 0,
        settings.gain_chance,
        settings.speed_chance,
        settings.telephone_chance,
        settings.clipping_chance,
        settings.masking_chance,
    )
    if not any(chances):
        raise RequestError(
            "augment.share is above 0 and no effect can be drawn",
            hint="name noises with --set augment.noise=FOLDER, or raise one of the chances",
        )
    return Sounds(bank(settings.noise, "noise"), bank(settings.rooms, "rooms"))


class AugmentedDataset:
    """The versions of a corpus, and which of them each step draws. Built once, changes nothing.

    Args:
        seed: of all draws; the version that a step hears depends on it, the utterance and the step.
    """

    def __init__(
        self, corpus: SpeechDataset, settings: AugmentSettings, sounds: Sounds, *, seed: int
    ) -> None:
        self._corpus, self._share, self._variants = corpus, settings.share, settings.variants
        self._seed = seed
        self._augmenter = Augmenter(
            EffectProbabilities(
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
            ),
            noises=sounds.noises,
            impulse_responses=sounds.rooms,
            seed=seed,
        )

    @property
    def is_on(self) -> bool:
        """Whether anything is augmented."""
        return self._share > 0

    @property
    def is_endless(self) -> bool:
        """Whether each draw makes a version of its own, so that nothing can be stored."""
        return self.is_on and self._variants == 0

    @property
    def seconds(self) -> Sequence[float]:
        """Length of each version."""
        return self._corpus.seconds if not self.is_on else _Lengths(self)

    @property
    def num_versions(self) -> int:
        """Versions of all utterances together, where they can be counted."""
        return len(self._corpus) * (1 + (self._variants if self.is_on else 0))

    def heard(self, indices: Sequence[int], step: int) -> list[int]:
        """The versions that step `step` hears of some utterances."""
        if not self.is_on:
            return list(indices)
        return [self._version(index, step) * len(self._corpus) + index for index in indices]

    def drawn(self, sampler: StagedSampler, steps: int) -> tuple[int, ...]:
        """Every version that the first `steps` steps hear, ascending."""
        if not self.is_on:
            return sampler.drawn(steps)
        found: set[int] = set()
        for step in range(steps):
            found.update(self.heard(sampler.plan(step).indices, step))
        return tuple(sorted(found))

    def load(self, number: int) -> Samples:
        """Samples of a version."""
        _, index = divmod(number, len(self._corpus))
        samples = self._corpus.load(index)
        recipe = self.recipe(number)
        return samples if recipe.is_clean else recipe.apply(samples)

    def content_key(self, number: int) -> str:
        """Names what is heard: the clip's content and the recipe."""
        key = self._corpus.content_key(number % len(self._corpus))
        recipe = self.recipe(number)
        return key if recipe.is_clean else f"{key}:{recipe.key()}"

    def recipe(self, number: int) -> Recipe:
        """What is done to a version."""
        version, index = divmod(number, len(self._corpus))
        if version == 0:
            return Recipe()
        return self._augmenter.recipe(self._corpus.utterances[index].id, version)

    def length(self, number: int) -> float:
        """Seconds of a version."""
        return self.recipe(number).seconds(self._corpus.seconds[number % len(self._corpus)])

    def remarks(self) -> tuple[str, ...]:
        """One sentence on what is augmented."""
        if not self.is_on:
            return ()
        kind = (
            f"one of {self._variants} stored versions of the clip"
            if self._variants
            else "a new version each time, never stored"
        )
        return (f"augmentation: {self._share:.0%} of the draws hear {kind}",)

    def _version(self, index: int, step: int) -> int:
        identifier = self._corpus.utterances[index].id
        chance = random.Random(f"{self._seed}/heard/{step}/{identifier}")
        if chance.random() >= self._share:
            return 0
        return step + 1 if self.is_endless else 1 + chance.randrange(self._variants)


class ChangedOnce:
    """Every clip of a corpus in its first augmented version, as clips of their own.

    Attributes:
        seconds: length of each clip as it is changed.
    """

    def __init__(self, hearing: AugmentedDataset, count: int) -> None:
        self._hearing, self._count = hearing, count
        self.seconds: Sequence[float] = tuple(
            hearing.length(count + index) for index in range(count)
        )

    def load(self, index: int) -> Samples:
        """Samples of a changed clip."""
        return self._hearing.load(self._count + index)

    def content_key(self, index: int) -> str:
        """Names what is heard: the clip's content and the recipe."""
        return self._hearing.content_key(self._count + index)


class _Lengths(Sequence[float]):
    """Lengths of versions, each worked out when it is asked for."""

    def __init__(self, hearing: AugmentedDataset) -> None:
        self._hearing = hearing

    def __len__(self) -> int:
        return self._hearing.num_versions

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> list[float]: ...
    def __getitem__(self, place: int | slice) -> float | list[float]:
        if isinstance(place, slice):
            return [self._hearing.length(number) for number in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._hearing.length(place)

    def __iter__(self) -> Iterator[float]:
        return (self._hearing.length(number) for number in range(len(self)))
