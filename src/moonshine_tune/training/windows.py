"""General speech as short windows, a share of them varied.

An encoder that trains must run on all replay audio with gradients, and the time of attention grows
faster than the length. Whole clips take three times as long, and keep no more.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from moonshine_tune.audio.augment import Recipe
from moonshine_tune.audio.measure import measure_quality
from moonshine_tune.audio.noise_bank import COLORED_NOISES, COMPUTED_ROOMS
from moonshine_tune.config.settings import AugmentSettings
from moonshine_tune.core.errors import AudioError
from moonshine_tune.corpus.manifest import Utterance
from moonshine_tune.corpus.splits import evenly_chosen
from moonshine_tune.inference.dataset import SpeechDataset
from moonshine_tune.training.augmentation import AugmentedCopies, NoiseBanks

# Other voices, lines and noises than a corpus of clean reading has.
_VARIATION = AugmentSettings(
    share=1.0,
    variants=1,
    # Faster speech sounds younger: what the base writes on it must not be kept for children.
    speed_chance=0.0,
    noise_chance=0.6,
    snr_db=(5.0, 25.0),
    room_chance=0.15,
    gain_chance=0.5,
    clipping_chance=0.05,
    masking_chance=0.1,
)


_TELEPHONE_PROBABILITY = 0.15
_LISTENED_CLIPS = 24


def narrow_share(dataset: SpeechDataset) -> float:
    """Share of the clips that came through a telephone band, by some of them (0 to 1)."""
    narrow = []
    for index in evenly_chosen(range(len(dataset)), _LISTENED_CLIPS):
        with suppress(AudioError):
            narrow.append(measure_quality(dataset.load(index)).is_narrow)
    return sum(narrow) / max(len(narrow), 1)


class VariedWindows(AugmentedCopies):
    """Replay windows, a share of them augmented, by the window's own index.

    The base model teaches on any audio, whatever it writes there. On clean reading it is sure of
    its words, and they hardly move; on harder audio of other people they do.

    Args:
        share: of the windows that are augmented.
        narrow_share: of the training clips that came through a telephone band: general speech must
            be kept there too.
    """

    def __init__(
        self, dataset: SpeechDataset, share: float, *, seed: int, narrow_share: float = 0.0
    ) -> None:
        probability = max(_TELEPHONE_PROBABILITY, narrow_share)
        variation = _VARIATION.model_copy(update={"telephone_chance": probability})
        super().__init__(dataset, variation, NoiseBanks(COLORED_NOISES, COMPUTED_ROOMS), seed=seed)
        self._varied_share = share

    def _recipe(self, index: int) -> Recipe:
        utterance = self._dataset.utterances[index]
        drawn = random.Random(f"{self._seed}/varied/{utterance.id}").random()
        if drawn >= self._varied_share or self._dataset.is_silent(index):
            return Recipe()
        return super()._recipe(index)


def cut_into_windows(dataset: SpeechDataset, window_s: float) -> SpeechDataset:
    """The clips as windows of exactly `window_s` seconds; what is shorter stays as it is.

    The rest of a clip after its last full window is left out: windows of one length need no
    padding. Silent clips (with an empty text) stay whole, because they have a target of their own.
    """
    utterances: list[Utterance] = []
    for index, utterance in enumerate(dataset.utterances):
        if dataset.is_silent(index) or dataset.seconds[index] < window_s:
            utterances.append(utterance)
        else:
            utterances += _windows(utterance, dataset.seconds[index], window_s)
    num_cut = sum(utterance.text is None for utterance in utterances)
    return SpeechDataset(
        tuple(utterances),
        tuple(utterance.known_seconds or 0.0 for utterance in utterances),
        ((),) * len(utterances),
        (*dataset.remarks, f"replay: {num_cut} windows of {window_s:g} s"),
    )


def _windows(utterance: Utterance, seconds: float, window_s: float) -> Iterator[Utterance]:
    start = utterance.start or 0.0
    for number in range(int(seconds / window_s)):
        begin = start + number * window_s
        yield replace(
            utterance,
            id=f"{utterance.id}#{number}",
            text=None,
            start=begin,
            end=begin + window_s,
            duration=window_s,
        )
