"""Audio augmentation, deterministic for a given seed.

A recipe is drawn before any audio is read. A resumed or repeated run draws the same recipes on any
number of processes, and encoder states can be stored under the key of a recipe.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moonshine_tune.audio.effects import (
    add_noise,
    add_reverberation,
    apply_telephone,
    change_gain,
    clip_peaks,
    loop_noise,
    mask_spans,
)
from moonshine_tune.audio.io import change_tempo
from moonshine_tune.audio.noise_bank import AnySound, NoiseBank
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ, Samples

# Longer drop-outs remove a whole sound, and the transcript no longer matches the audio.
_MAX_MASK_S = 0.06
_MAX_MASKS = 3
_CLIPPED_SHARES = (0.005, 0.05)


@dataclass(frozen=True)
class EffectProbabilities:
    """Probability of each effect (0 to 1), and the ranges that values are drawn from.

    Attributes:
        snr_db, gain_db: lowest and highest, dB.
        speeds: slowest and fastest; pitch changes along, as on a tape.
    """

    noise: float = 0.0
    impulse_response: float = 0.0
    gain: float = 0.0
    speed: float = 0.0
    telephone: float = 0.0
    clipping: float = 0.0
    masking: float = 0.0
    snr_db: tuple[float, float] = (0.0, 20.0)
    gain_db: tuple[float, float] = (-12.0, 6.0)
    speeds: tuple[float, float] = (0.9, 1.1)


@dataclass(frozen=True)
class Recipe:
    """The effects on one clip; a default recipe leaves the clip as it is.

    Attributes:
        noise_start: position in the noise where it starts, as a share of its length.
        masks: start of each drop-out as a share of the clip, and its length in seconds.
    """

    speed: float = 1.0
    impulse_response: AnySound | None = None
    noise: AnySound | None = None
    noise_start: float = 0.0
    snr_db: float = 0.0
    telephone: bool = False
    gain_db: float = 0.0
    clipping: float = 0.0
    masks: tuple[tuple[float, float], ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether it changes nothing."""
        return self == Recipe()

    def key(self) -> str:
        """All values as text, sounds by the hash of their content: names stored encoder states."""
        record: dict[str, Any] = asdict(self)
        # Stored states are named by this key, and "room" is its name in the key.
        del record["impulse_response"]
        for name, sound in (("room", self.impulse_response), ("noise", self.noise)):
            record[name] = sound.sha256 if sound else None
        return repr(sorted(record.items()))

    def seconds(self, seconds: float) -> float:
        """Length of the augmented clip for a clip of `seconds`."""
        return seconds / self.speed

    def apply(self, samples: Samples) -> Samples:
        """The augmented clip, in the order of a real recording: voice, room, noise, line, level.

        Args:
            samples: float32 [n], mono 16 kHz; not modified.
        """
        clip = change_tempo(samples, self.speed)
        if self.impulse_response is not None:
            clip = add_reverberation(clip, self.impulse_response.load())
        if self.noise is not None:
            noise = self.noise.load()
            start = int(self.noise_start * len(noise))
            clip = add_noise(clip, loop_noise(noise, len(clip), start), self.snr_db)
        if self.telephone:
            clip = apply_telephone(clip)
        if self.masks:
            seconds = len(clip) / SAMPLE_RATE_HZ
            clip = mask_spans(clip, [(start * seconds, length) for start, length in self.masks])
        if self.gain_db:
            clip = change_gain(clip, self.gain_db)
        if self.clipping:
            clip = clip_peaks(clip, self.clipping)
        return np.ascontiguousarray(clip, dtype=np.float32)


class Augmenter:
    """Draws recipes.

    Args:
        noises, impulse_responses: banks to draw from; without one, its effect is never drawn.
        seed: of all draws.
    """

    def __init__(
        self,
        probabilities: EffectProbabilities,
        *,
        noises: NoiseBank | None,
        impulse_responses: NoiseBank | None,
        seed: int,
    ) -> None:
        self._probabilities, self._seed = probabilities, seed
        self._noises, self._impulse_responses = noises, impulse_responses

    def recipe(self, identifier: str, version: int) -> Recipe:
        """The recipe of one version of one utterance: always the same for the same seed."""
        settings, rng = self._probabilities, random.Random(f"{self._seed}/{version}/{identifier}")
        # All numbers are drawn whether they are used or not: a changed probability of one effect
        # leaves the draws of the others as they were.
        is_drawn = {
            name: rng.random() < getattr(settings, name)
            for name in (
                "speed", "impulse_response", "noise", "telephone", "masking", "gain", "clipping"
            )
        }  # fmt: skip
        speed, snr = rng.uniform(*settings.speeds), rng.uniform(*settings.snr_db)
        gain, clipped_share = rng.uniform(*settings.gain_db), rng.uniform(*_CLIPPED_SHARES)
        noise_start, response_position, noise_position = rng.random(), rng.random(), rng.random()
        masks = tuple(
            (rng.random() * 0.9, rng.uniform(0.02, _MAX_MASK_S))
            for _ in range(rng.randint(1, _MAX_MASKS))
        )
        has_noise = is_drawn["noise"] and self._noises is not None
        return Recipe(
            speed=round(speed, 3) if is_drawn["speed"] else 1.0,
            impulse_response=_pick(self._impulse_responses, response_position)
            if is_drawn["impulse_response"]
            else None,
            noise=_pick(self._noises, noise_position) if is_drawn["noise"] else None,
            noise_start=noise_start if has_noise else 0.0,
            snr_db=snr if has_noise else 0.0,
            telephone=is_drawn["telephone"],
            gain_db=gain if is_drawn["gain"] else 0.0,
            clipping=clipped_share if is_drawn["clipping"] else 0.0,
            masks=masks if is_drawn["masking"] else (),
        )


def _pick(bank: NoiseBank | None, position: float) -> AnySound | None:
    """The sound at `position` (0 to 1) of the bank."""
    return None if bank is None else bank.sounds[int(position * len(bank.sounds))]
