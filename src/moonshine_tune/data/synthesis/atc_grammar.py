"""A seeded grammar of air-traffic-control phraseology, as it is said and as it is written down.

Every number is spelled out figure by figure ("four six five two", "one two one decimal five"),
except for whole hundreds and thousands ("five thousand five hundred feet"), which is how
controllers say them. Two spellings are choices: figures are the plain English words ("three",
"nine", not "tree" or "niner"), and the spelling alphabet is in everyday spelling ("Alpha",
"Juliet"), because those are the words that general recognizers know: an adapter then learns the
conventions of the domain and no private spelling.

The grammar imitates radio traffic for training and tests. It is no source of correct procedure.
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

# With this many drawn sentences in a row known already, the grammar is as good as exhausted.
_MAX_REPEATS = 2000


@dataclass(frozen=True)
class SentenceSplit:
    """Sentences for training, selection and test; no sentence is in two of them."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


def phraseology_sentences(count: int, *, seed: int) -> tuple[str, ...]:
    """`count` distinct sentences of 5 to 18 words; fewer of one seed begin like more of it.

    Raises:
        RequestError: `count` is negative, or more than the grammar can tell apart.
    """
    if count < 0:
        raise RequestError(f"{count} sentences cannot be drawn")
    chance = random.Random(seed)
    found: dict[str, None] = {}
    repeats = 0
    while len(found) < count:
        sentence = _sentence(chance)
        if sentence in found:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise RequestError(
                    f"the grammar has no {count} distinct sentences: it ran dry at {len(found)}",
                    hint="ask for fewer sentences",
                )
            continue
        repeats = 0
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            found[sentence] = None
    return tuple(found)


def phraseology_split(*, train: int, dev: int, test: int, seed: int) -> SentenceSplit:
    """Distinct sentences for three splits: one draw, cut into three.

    Raises:
        RequestError: a count is negative, or the sum is more than the grammar can tell apart.
    """
    drawn = phraseology_sentences(max(train + dev + test, 0), seed=seed)
    return split_sentences(drawn, train=train, dev=dev, test=test)


def split_sentences(sentences: Sequence[str], *, train: int, dev: int, test: int) -> SentenceSplit:
    """Part distinct sentences, in their order, into three splits.

    Raises:
        RequestError: a count is negative, a sentence repeats, or there are too few.
    """
    if min(train, dev, test) < 0:
        raise RequestError(f"a split of {train}, {dev} and {test} sentences cannot be")
    if len(set(sentences)) != len(sentences):
        raise RequestError("a sentence repeats, and would be trained on and tested with")
    if train + dev + test > len(sentences):
        raise RequestError(
            f"{train} + {dev} + {test} sentences are wanted and there are {len(sentences)}",
            hint="ask for fewer, or give more sentences",
        )
    return SentenceSplit(
        train=tuple(sentences[:train]),
        dev=tuple(sentences[train : train + dev]),
        test=tuple(sentences[train + dev : train + dev + test]),
    )


def _figures(digits: str) -> str:
    """Spelled out figure by figure."""
    return " ".join(_FIGURES[int(digit)] for digit in digits)


def _callsign(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.7:
        digits = f"{chance.randrange(1, 10)}{_digits(chance, chance.choice((2, 2, 3)))}"
        return f"{chance.choice(_AIRLINES)} {_figures(digits)}"
    if kind < 0.85:
        return f"{chance.choice(_AIRCRAFT)} {_figures(_digits(chance, 2))} {_letters(chance, 2)}"
    # A registration on radio, shortened to its last three letters or in full.
    return f"Golf {_letters(chance, chance.choice((2, 4)))}"


def _digits(chance: random.Random, length: int) -> str:
    return "".join(str(chance.randrange(10)) for _ in range(length))


def _letters(chance: random.Random, length: int) -> str:
    return " ".join(chance.choice(_LETTERS) for _ in range(length))


def _level(chance: random.Random) -> str:
    return f"flight level {_figures(f'{chance.randrange(7, 42) * 10:03d}')}"


def _altitude(chance: random.Random) -> str:
    thousands = chance.randrange(2, 9)
    hundreds = f" {_FIGURES[chance.randrange(1, 10)]} hundred" if chance.random() < 0.4 else ""
    return f"{_FIGURES[thousands]} thousand{hundreds} feet"


def _heading(chance: random.Random) -> str:
    return f"heading {_figures(f'{chance.randrange(1, 73) * 5:03d}')}"


def _speed(chance: random.Random) -> str:
    return f"{_figures(str(chance.randrange(16, 31) * 10))} knots"


def _squawk(chance: random.Random) -> str:
    return "squawk " + _figures("".join(str(chance.randrange(8)) for _ in range(4)))


def _frequency(chance: random.Random) -> str:
    """A channel of the airband: 118 to 136 MHz, one to three places after the decimal."""
    places = chance.choice((f"{chance.randrange(1, 10)}", f"{chance.randrange(2, 40) * 25:03d}"))
    whole = _figures(str(chance.randrange(118, 137)))
    return f"{whole} decimal {_figures(places.rstrip('0') or '5')}"


def _qnh(chance: random.Random) -> str:
    return f"QNH {_figures(str(chance.randrange(985, 1036)))}"


def _wind(chance: random.Random) -> str:
    direction = _figures(f"{chance.randrange(1, 37) * 10:03d}")
    return f"wind {direction} degrees {_figures(str(chance.randrange(3, 26)))} knots"


def _runway(chance: random.Random) -> str:
    side = chance.choice(("", "", " left", " right", " center"))
    return f"runway {_figures(f'{chance.randrange(1, 37):02d}')}{side}"


def _route(chance: random.Random) -> str:
    return " and ".join(chance.sample(_TAXIWAYS, chance.choice((1, 2))))


def _station(chance: random.Random, units: Sequence[str]) -> str:
    return f"{chance.choice(_CITIES)} {chance.choice(units)}"


def _turn(chance: random.Random) -> str:
    return f"turn {chance.choice(('left', 'right'))} {_heading(chance)}"


def _vertical(chance: random.Random, verb: str) -> str:
    """`verb` is "climb" or "descend"; levels above the transition, altitudes with QNH below."""
    if chance.random() < 0.65:
        return f"{verb} to {_level(chance)}"
    pressure = f", {_qnh(chance)}" if verb == "descend" else ""
    return f"{verb} to {_altitude(chance)}{pressure}"


def _level_change(chance: random.Random) -> str:
    return _vertical(chance, chance.choice(("climb", "descend")))


def _contact(chance: random.Random, units: Sequence[str]) -> str:
    return f"contact {_station(chance, units)} on {_frequency(chance)}"


Draw = Callable[[random.Random], str]

# What a controller says after the callsign, with how often it is said.
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

# What a pilot says first to a new station, after the callsign, and which stations hear it.
_REPORTS: tuple[tuple[int, Draw], ...] = (
    (3, lambda c: _report(c, ("Departure", "Radar"), f"passing {_altitude(c)}, climbing to "
        f"{_level(c)}")),
    (2, lambda c: _report(c, ("Control", "Radar"), f"maintaining {_level(c)}")),
    (1, lambda c: _report(c, ("Control", "Radar"), f"request descent to {_level(c)}")),
    (2, lambda c: _report(c, ("Tower", "Approach"), f"established on the ILS {_runway(c)}")),
    (1, lambda c: _report(c, ("Tower",), f"ready for departure {_runway(c)}")),
    (1, lambda c: _report(c, ("Ground",), f"request taxi, information {c.choice(_LETTERS)}")),
)  # fmt: skip


def _report(chance: random.Random, units: Sequence[str], said: str) -> str:
    return f"{_station(chance, units)}, {_callsign(chance)}, {said}"


def _pick(chance: random.Random, table: tuple[tuple[int, Draw], ...]) -> str:
    draws = [draw for _, draw in table]
    return chance.choices(draws, weights=[weight for weight, _ in table])[0](chance)


def _sentence(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.66:
        said = f"{_callsign(chance)}, {_pick(chance, _CLEARANCES)}"
    elif kind < 0.88:
        said = f"{_pick(chance, _READBACKS)}, {_callsign(chance)}"
    else:
        said = _pick(chance, _REPORTS)
    return said[0].upper() + said[1:] + "."
