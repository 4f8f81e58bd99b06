"""Clips made harder, by recipes that follow from a seed and nothing else.

A recipe is drawn before any audio is read: a resumed or repeated run draws the same ones, on any
number of processes, and what is stored can be named by it.
"""

import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moonshine_tune.audio.effects import (
    add_noise,
    changed_gain,
    clipped,
    in_room,
    masked,
    over_telephone,
    piece_of,
)
from moonshine_tune.audio.io import change_tempo
from moonshine_tune.audio.noise_bank import NoiseBank, Sound
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ

Samples = npt.NDArray[np.float32]

# Longer holes swallow a sound of speech, and the text would promise what cannot be heard.
_LONGEST_MASK_S = 0.06
_MOST_MASKS = 3
_CLIPPED_SHARES = (0.005, 0.05)


@dataclass(frozen=True)
class Chances:
    """How often each effect is drawn (0 to 1) and within which bounds.

    Attributes:
        snr_db, gain_db: lowest and highest, dB.
        speeds: slowest and fastest; pitch moves along, as on a tape.
    """

    noise: float = 0.0
    room: float = 0.0
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
    """What happens to one clip; a default recipe leaves it as it is.

    Attributes:
        noise_start: where in the noise to begin, as a share of its length.
        masks: begin and length of drop-outs: the first as a share of the clip, the second in s.
    """

    speed: float = 1.0
    room: Sound | None = None
    noise: Sound | None = None
    noise_start: float = 0.0
    snr_db: float = 0.0
    telephone: bool = False
    gain_db: float = 0.0
    clipping: float = 0.0
    masks: tuple[tuple[float, float], ...] = field(default=())

    @property
    def is_clean(self) -> bool:
        """Whether it changes nothing."""
        return self == Recipe()

    def key(self) -> str:
        """Names all of it, sounds by their content."""
        record: dict[str, Any] = asdict(self)
        for name in ("room", "noise"):
            sound: Sound | None = getattr(self, name)
            record[name] = sound.sha256 if sound else None
        return repr(sorted(record.items()))

    def seconds(self, seconds: float) -> float:
        """Length of the clip afterwards."""
        return seconds / self.speed

    def apply(self, samples: Samples) -> Samples:
        """The clip as the microphone would have it: voice, room, noise, line, level.

        Args:
            samples: float32 [n], mono 16 kHz; never changed.
        """
        heard = change_tempo(samples, self.speed)
        if self.room is not None:
            heard = in_room(heard, self.room.load())
        if self.noise is not None:
            noise = self.noise.load()
            start = int(self.noise_start * len(noise))
            heard = add_noise(heard, piece_of(noise, len(heard), start), self.snr_db)
        if self.telephone:
            heard = over_telephone(heard)
        if self.masks:
            seconds = len(heard) / SAMPLE_RATE_HZ
            heard = masked(heard, [(begin * seconds, length) for begin, length in self.masks])
        if self.gain_db:
            heard = changed_gain(heard, self.gain_db)
        if self.clipping:
            heard = clipped(heard, self.clipping)
        return np.ascontiguousarray(heard, dtype=np.float32)


class Augmenter:
    """Draws recipes.

    Args:
        noises, rooms: what there is to draw from; without one, that effect is never drawn.
        seed: of all of it.
    """

    def __init__(
        self, chances: Chances, *, noises: NoiseBank | None, rooms: NoiseBank | None, seed: int
    ) -> None:
        self._chances, self._noises, self._rooms, self._seed = chances, noises, rooms, seed

    def recipe(self, identifier: str, version: int) -> Recipe:
        """The recipe of one version of one utterance: always the same for the same seed."""
        chances, chance = self._chances, random.Random(f"{self._seed}/{version}/{identifier}")
        # All numbers are drawn whether they are used or not: a changed probability of one effect
        # leaves the draws of the others as they were.
        wants = {
            name: chance.random() < getattr(chances, name)
            for name in ("speed", "room", "noise", "telephone", "masking", "gain", "clipping")
        }
        speed, snr = chance.uniform(*chances.speeds), chance.uniform(*chances.snr_db)
        gain, share = chance.uniform(*chances.gain_db), chance.uniform(*_CLIPPED_SHARES)
        start, room, noise = chance.random(), chance.random(), chance.random()
        masks = tuple(
            (chance.random() * 0.9, chance.uniform(0.02, _LONGEST_MASK_S))
            for _ in range(chance.randint(1, _MOST_MASKS))
        )
        return Recipe(
            speed=round(speed, 3) if wants["speed"] else 1.0,
            room=_pick(self._rooms, room) if wants["room"] else None,
            noise=_pick(self._noises, noise) if wants["noise"] else None,
            noise_start=start if wants["noise"] and self._noises else 0.0,
            snr_db=snr if wants["noise"] and self._noises else 0.0,
            telephone=wants["telephone"],
            gain_db=gain if wants["gain"] else 0.0,
            clipping=share if wants["clipping"] else 0.0,
            masks=masks if wants["masking"] else (),
        )


def _pick(bank: NoiseBank | None, place: float) -> Sound | None:
    return None if bank is None else bank.sounds[int(place * len(bank.sounds))]
