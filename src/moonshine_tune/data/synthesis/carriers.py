"""Terms in carrier sentences: everyday sentences, written for this package, around a term.

A term that is spoken alone is learnt as a sentence of one word; in sentences it is learnt among
others, at their start, in their middle and at their end.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.corpus.spoken_lines import SpokenLine, read_spoken_lines
from moonshine_tune.data.synthesis.prompts import Prompt

SLOT = "{term}"


@cache
def carrier_sentences() -> tuple[str, ...]:
    """The sentences that ship with the package, each with one `{term}`."""
    source = resources.files("moonshine_tune.data.synthesis") / "sentences" / "carriers_en.txt"
    lines = source.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def read_carriers(path: Path) -> tuple[str, ...]:
    """Carrier sentences of a file, one per line.

    Raises:
        RequestError: missing, not text, or empty.
        ProblemsError: sentences that do not have `{term}` once; all are listed.
    """
    lines = read_spoken_lines(path, "carrier sentences", comments=True)
    problems = [
        f"{path}:{item.line}: {item.text[:60]!r} must have {SLOT} once"
        for item in lines
        if item.text.count(SLOT) != 1
    ]
    if problems:
        raise ProblemsError(
            f"{len(problems)} lines are not carrier sentences",
            problems,
            hint=f"such as: Where can I find {SLOT}?",
        )
    if not lines:
        raise RequestError("no carrier sentence in the file", where=path)
    return tuple(item.text for item in lines)


def carry_terms(
    terms: Sequence[SpokenLine], carriers: Sequence[str], *, per_term: int, seed: int
) -> tuple[Prompt, ...]:
    """Each term in `per_term` sentences; all sentences are used equally often.

    A term with several lines is spoken in each of its forms.

    Raises:
        RequestError: fewer sentences than a term needs.
    """
    if not 1 <= per_term <= len(carriers):
        raise RequestError(
            f"each term in {per_term} sentences: there are {len(carriers)} carrier sentences",
            hint=f"--per-term from 1 to {len(carriers)}, or more sentences with --carriers FILE",
        )
    dealt = _dealt(carriers, random.Random(f"{seed}/carriers"))
    prompts = []
    for item in terms:
        chosen: dict[str, None] = {}
        while len(chosen) < per_term:
            chosen[next(dealt)] = None
        for carrier in chosen:
            text = carrier.replace(SLOT, item.text)
            spoken = carrier.replace(SLOT, item.spoken) if item.spoken else ""
            prompts.append(Prompt(text, spoken, (item.text,)))
    return tuple(prompts)


def _dealt(carriers: Sequence[str], rng: random.Random) -> Iterator[str]:
    """The sentences in one random order after another."""
    while True:
        order = list(carriers)
        rng.shuffle(order)
        yield from order
