"""A seeded grammar of air-traffic-control phraseology, in spoken words.

Numbers are spelled digit by digit ("four six five two", "one two one decimal five"), except for
round hundreds and thousands ("five thousand five hundred feet"), as controllers say them. Two
spellings are choices: digits are plain English words ("three", "nine", not "tree" or "niner"), and
the spelling alphabet has its everyday spelling ("Alpha", "Juliet"). General recognizers know these
words, so an adapter learns the conventions of the domain and no special spelling.

The grammar imitates radio traffic for training and tests. It does not show correct procedure.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moonshine_tune.core.errors import RequestError

MIN_WORDS, MAX_WORDS = 5, 18

_FIGURES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LETTERS = (
    "Alpha", "Bravo", "Charlie", "Delta", "Echo", "Foxtrot", "Golf", "Hotel", "India", "Juliet",
    "Kilo", "Lima", "Mike", "November", "Oscar", "Papa", "Quebec", "Romeo", "Sierra", "Tango",
    "Uniform", "Victor", "Whiskey", "X-ray", "Yankee", "Zulu",
)  # fmt: skip
_AIRLINES = (
    "Lufthansa", "Speedbird", "Air France", "Swiss", "Austrian", "Scandinavian", "Finnair",
    "Iberia", "Emirates", "Turkish", "United", "American", "Southwest", "JetBlue", "Shamrock",
    "Qantas", "Singapore", "Cathay", "Korean Air", "Air Canada", "Condor", "Ryanair",
)  # fmt: skip
_AIRCRAFT = ("Cessna", "Piper", "Cirrus", "Beechcraft")
_CITIES = (
    "Zurich", "Munich", "Vienna", "Prague", "Dublin", "Manchester", "Boston", "Denver",
    "Oakland", "Brussels", "Lisbon", "Madrid", "Oslo", "Toronto", "Hamburg", "Geneva",
)  # fmt: skip
_BEACONS = ("Dover", "Trent", "Lambourne", "Bovingdon", "Wallasey", "Pole Hill", "Daventry")
_GROUND_UNITS = ("Tower", "Ground")
_AIR_UNITS = ("Approach", "Radar", "Control", "Departure", "Tower")
_TAXIWAYS = _LETTERS[:18]

# After this many repeated sentences in a row, the grammar counts as exhausted.
_MAX_REPEATS = 2000


@dataclass(frozen=True)
class SentenceSplit:
    """Sentences for training, selection and test; no sentence is in two of them."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def phraseology_sentences(count: int, *, seed: int) -> tuple[str, ...]:
    """`count` distinct sentences of 5 to 18 words; a prefix of any larger count of the same seed.

    Raises:
        RequestError: `count` is negative, or more than the grammar has.
    """
    if count < 0:
        raise RequestError(f"cannot generate {count} sentences")
    rng = random.Random(seed)
    sentences: dict[str, None] = {}
    repeats = 0
    while len(sentences) < count:
        sentence = _sentence(rng)
        if sentence in sentences:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise RequestError(
                    f"cannot generate {count} distinct sentences: the grammar gave "
                    f"{len(sentences)}",
                    hint="ask for fewer sentences",
                )
            continue
        repeats = 0
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            sentences[sentence] = None
    return tuple(sentences)


def phraseology_split(*, train: int, dev: int, test: int, seed: int) -> SentenceSplit:
    """Distinct sentences for three splits.

    Raises:
        RequestError: a count is negative, or the sum is more than the grammar has.
    """
    if min(train, dev, test) < 0:
        raise RequestError(f"a split of {train}, {dev} and {test} sentences is impossible")
    sentences = phraseology_sentences(train + dev + test, seed=seed)
    return SentenceSplit(
        train=sentences[:train],
        dev=sentences[train : train + dev],
        test=sentences[train + dev :],
    )


def _figures(digits: str) -> str:
    """Spelled digit by digit."""
    return " ".join(_FIGURES[int(digit)] for digit in digits)


def _callsign(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        digits = f"{rng.randrange(1, 10)}{_digits(rng, rng.choice((2, 2, 3)))}"
        return f"{rng.choice(_AIRLINES)} {_figures(digits)}"
    if kind < 0.85:
        return f"{rng.choice(_AIRCRAFT)} {_figures(_digits(rng, 2))} {_letters(rng, 2)}"
    # A registration on radio, shortened to its last three letters or in full.
    return f"Golf {_letters(rng, rng.choice((2, 4)))}"


def _digits(rng: random.Random, length: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(length))


def _letters(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(_LETTERS) for _ in range(length))


def _level(rng: random.Random) -> str:
    return f"flight level {_figures(f'{rng.randrange(7, 42) * 10:03d}')}"


def _altitude(rng: random.Random) -> str:
    thousands = rng.randrange(2, 9)
    hundreds = f" {_FIGURES[rng.randrange(1, 10)]} hundred" if rng.random() < 0.4 else ""
    return f"{_FIGURES[thousands]} thousand{hundreds} feet"


def _heading(rng: random.Random) -> str:
    return f"heading {_figures(f'{rng.randrange(1, 73) * 5:03d}')}"


def _speed(rng: random.Random) -> str:
    return f"{_figures(str(rng.randrange(16, 31) * 10))} knots"


def _squawk(rng: random.Random) -> str:
    return "squawk " + _figures("".join(str(rng.randrange(8)) for _ in range(4)))


def _frequency(rng: random.Random) -> str:
    """A channel of the airband: 118 to 136 MHz, one to three decimals."""
    decimals = rng.choice((f"{rng.randrange(1, 10)}", f"{rng.randrange(2, 40) * 25:03d}"))
    megahertz = _figures(str(rng.randrange(118, 137)))
    return f"{megahertz} decimal {_figures(decimals.rstrip('0') or '5')}"


def _qnh(rng: random.Random) -> str:
    return f"QNH {_figures(str(rng.randrange(985, 1036)))}"


def _wind(rng: random.Random) -> str:
    direction = _figures(f"{rng.randrange(1, 37) * 10:03d}")
    return f"wind {direction} degrees {_figures(str(rng.randrange(3, 26)))} knots"


def _runway(rng: random.Random) -> str:
    side = rng.choice(("", "", " left", " right", " center"))
    return f"runway {_figures(f'{rng.randrange(1, 37):02d}')}{side}"


def _route(rng: random.Random) -> str:
    return " and ".join(rng.sample(_TAXIWAYS, rng.choice((1, 2))))


def _station(rng: random.Random, units: Sequence[str]) -> str:
    return f"{rng.choice(_CITIES)} {rng.choice(units)}"


def _turn(rng: random.Random) -> str:
    return f"turn {rng.choice(('left', 'right'))} {_heading(rng)}"


def _vertical(rng: random.Random, verb: str) -> str:
    """`verb` is "climb" or "descend"; levels above the transition, altitudes with QNH below."""
    if rng.random() < 0.65:
        return f"{verb} to {_level(rng)}"
    pressure = f", {_qnh(rng)}" if verb == "descend" else ""
    return f"{verb} to {_altitude(rng)}{pressure}"


def _level_change(rng: random.Random) -> str:
    return _vertical(rng, rng.choice(("climb", "descend")))


def _contact(rng: random.Random, units: Sequence[str]) -> str:
    return f"contact {_station(rng, units)} on {_frequency(rng)}"


Draw = Callable[[random.Random], str]

# What a controller says after the callsign, with its weight.
_CLEARANCES: tuple[tuple[int, Draw], ...] = (
    (6, _level_change),
    (3, _turn),
    (2, lambda c: f"{_turn(c)}, {_level_change(c)}"),
    (2, lambda c: f"reduce speed to {_speed(c)}"),
    (1, lambda c: f"maintain {_speed(c)} or greater until further advised"),
    (1, lambda c: f"maintain {_level(c)} and report reaching"),
    (2, _squawk),
    (1, lambda c: f"{_squawk(c)} and ident"),
    (4, lambda c: _contact(c, _AIR_UNITS)),
    (2, lambda c: f"proceed direct to {c.choice(_BEACONS)}"),
    (2, lambda c: f"hold at {c.choice(_BEACONS)}, {_level(c)}, expect further clearance"),
    (2, lambda c: f"{_turn(c)}, cleared ILS approach {_runway(c)}"),
    (2, lambda c: f"cleared visual approach {_runway(c)}, number {_FIGURES[c.randrange(2, 5)]}"),
    (3, lambda c: f"{_wind(c)}, {_runway(c)}, cleared to land"),
    (3, lambda c: f"{_runway(c)}, cleared for take-off, {_wind(c)}"),
    (2, lambda c: f"line up and wait {_runway(c)}"),
    (2, lambda c: f"taxi to holding point {_runway(c)} via {_route(c)}"),
    (2, lambda c: f"hold short of {_runway(c)} on {c.choice(_TAXIWAYS)}"),
    (1, lambda c: f"cross {_runway(c)} and {_contact(c, _GROUND_UNITS)}"),
    (1, lambda c: f"go around, climb to {_altitude(c)}, {_turn(c)}"),
    (2, lambda c: f"vacate {c.choice(('left', 'right'))} via {_route(c)}, "
        f"{_contact(c, ('Ground',))}"),
    (1, lambda c: f"information {c.choice(_LETTERS)} is current, {_qnh(c)}"),
)  # fmt: skip

# What a pilot reads back before the callsign.
_READBACKS: tuple[tuple[int, Draw], ...] = (
    (4, lambda c: f"{c.choice(('climbing', 'descending'))} to {_level(c)}"),
    (2, lambda c: f"{c.choice(('left', 'right'))} turn {_heading(c)}"),
    (2, _squawk),
    (2, lambda c: f"{_frequency(c)} for {_station(c, _AIR_UNITS)}, good day"),
    (1, lambda c: f"reducing to {_speed(c)}"),
    (2, lambda c: f"cleared to land {_runway(c)}"),
    (2, lambda c: f"cleared for take-off {_runway(c)}"),
    (1, lambda c: f"lining up and waiting {_runway(c)}"),
    (1, lambda c: f"taxi {_runway(c)} via {_route(c)}"),
    (1, lambda c: f"holding short of {_runway(c)}"),
    (1, lambda c: f"direct to {c.choice(_BEACONS)}, maintaining {_level(c)}"),
)

# What a pilot says first to a new station, after the callsign.
_REPORTS: tuple[tuple[int, Draw], ...] = (
    (3, lambda c: _report(c, ("Departure", "Radar"), f"passing {_altitude(c)}, climbing to "
        f"{_level(c)}")),
    (2, lambda c: _report(c, ("Control", "Radar"), f"maintaining {_level(c)}")),
    (1, lambda c: _report(c, ("Control", "Radar"), f"request descent to {_level(c)}")),
    (2, lambda c: _report(c, ("Tower", "Approach"), f"established on the ILS {_runway(c)}")),
    (1, lambda c: _report(c, ("Tower",), f"ready for departure {_runway(c)}")),
    (1, lambda c: _report(c, ("Ground",), f"request taxi, information {c.choice(_LETTERS)}")),
)  # fmt: skip


def _report(rng: random.Random, units: Sequence[str], message: str) -> str:
    return f"{_station(rng, units)}, {_callsign(rng)}, {message}"


def _pick(rng: random.Random, table: tuple[tuple[int, Draw], ...]) -> str:
    draws = [draw for _, draw in table]
    return rng.choices(draws, weights=[weight for weight, _ in table])[0](rng)


def _sentence(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.66:
        sentence = f"{_callsign(rng)}, {_pick(rng, _CLEARANCES)}"
    elif kind < 0.88:
        sentence = f"{_pick(rng, _READBACKS)}, {_callsign(rng)}"
    else:
        sentence = _pick(rng, _REPORTS)
    return sentence[0].upper() + sentence[1:] + "."
