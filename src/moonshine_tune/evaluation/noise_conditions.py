"""Conditions under which a manifest is scored: unchanged, in noise, in rooms.

Each utterance keeps its noise, its offset in the noise and its room through all ratios, so that
conditions differ only in what their name says, and a repeated evaluation gets the same audio.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_tune.audio.augment import Recipe
from moonshine_tune.audio.effects import add_noise
from moonshine_tune.audio.noise_bank import AnySound, NoiseBank, open_noise_bank
from moonshine_tune.audio.samples import Samples
from moonshine_tune.core.errors import RequestError
from moonshine_tune.corpus.manifest import Utterance

SNRS_DB = (20.0, 10.0, 5.0, 0.0)
Change = Callable[[Utterance, Samples], Samples]


@dataclass(frozen=True)
class ConditionsRequest:
    """The conditions under which to score a manifest.

    Attributes:
        noise: folder or manifest of noises; each of its groups is a row of the grid.
        rooms: folder or manifest of room impulse responses; one more condition, without noise.
        snrs_db: the columns of the grid.
        seed: chooses the noise of each utterance.
    """

    noise: Path
    rooms: Path | None = None
    snrs_db: tuple[float, ...] = SNRS_DB
    seed: int = 0


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        noise: the group of noises, `clean`, or `room`.
        snr_db: None without noise.
        change: what it does to a clip; None leaves it unchanged.
    """

    noise: str
    snr_db: float | None
    change: Change | None

    @property
    def name(self) -> str:
        """For example `street 5 dB`."""
        return self.noise if self.snr_db is None else f"{self.noise} {self.snr_db:g} dB"

    def to_record(self) -> dict[str, Any]:
        """The keys that name it in JSON objects."""
        return {"noise": self.noise, "snr_db": self.snr_db}


CLEAN = Condition("clean", None, None)


def conditions_of(request: ConditionsRequest) -> tuple[Condition, ...]:
    """Clean first, then rooms where there are any, then each group of noises at each ratio.

    Raises:
        RequestError: a folder is missing or has no audio, or there is no ratio.
    """
    if not request.snrs_db or len(set(request.snrs_db)) < len(request.snrs_db):
        raise RequestError(
            "--snr needs one or several different ratios in dB", hint="--snr 20 --snr 5 --snr 0"
        )
    bank = open_noise_bank(request.noise, "noise")
    groups: dict[str, list[AnySound]] = {}
    for sound in bank.sounds:
        groups.setdefault(sound.group, []).append(sound)
    conditions = [CLEAN]
    if request.rooms is not None:
        rooms = open_noise_bank(request.rooms, "rooms")
        conditions.append(Condition("room", None, _in_room(rooms, request.seed)))
    for name in sorted(groups):
        for snr in sorted(request.snrs_db, reverse=True):
            change = _in_noise(name, groups[name], snr, request.seed)
            conditions.append(Condition(name, snr, change))
    return tuple(conditions)


def _in_noise(group: str, sounds: Sequence[AnySound], snr_db: float, seed: int) -> Change:
    def change(utterance: Utterance, samples: Samples) -> Samples:
        rng = random.Random(f"{seed}/{group}/{utterance.id}")
        noise = sounds[rng.randrange(len(sounds))]
        recipe = Recipe(noise=noise, noise_start=rng.random(), snr_db=snr_db)
        return recipe.apply(samples)

    return change


def _in_room(rooms: NoiseBank, seed: int) -> Change:
    def change(utterance: Utterance, samples: Samples) -> Samples:
        rng = random.Random(f"{seed}/room/{utterance.id}")
        return Recipe(impulse_response=rooms.sounds[rng.randrange(len(rooms.sounds))]).apply(
            samples
        )

    return change


_SYNTHETIC = {
    "fast": Recipe(speed=1.15),
    "slow": Recipe(speed=0.87),
    "quiet": Recipe(gain_db=-20.0),
    "telephone": Recipe(telephone=True),
}


def synthetic_change(name: str) -> Change:
    """What a condition that needs no recordings of noise does to a clip.

    Args:
        name: `fast`, `slow`, `quiet`, `telephone`, or white noise at a ratio, as `noise-20dB`.

    Raises:
        RequestError: there is no such condition.
    """
    if name in _SYNTHETIC:
        return lambda _, samples: _SYNTHETIC[name].apply(samples)
    ratio = re.fullmatch(r"noise-(\d+)dB", name)
    if ratio is None:
        raise RequestError(f"no condition is called {name!r}", hint=", ".join(_SYNTHETIC))
    snr_db = float(ratio[1])

    def add_white_noise(utterance: Utterance, samples: Samples) -> Samples:
        rng = np.random.default_rng(zlib.crc32(utterance.id.encode()))
        return add_noise(samples, rng.standard_normal(len(samples), dtype=np.float32), snr_db)

    return add_white_noise
