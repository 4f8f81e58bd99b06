"""Nested subsets of a manifest: a smaller one is a part of each larger one of the same seed."""

import random
from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, write_manifest

# A training on fewer clips says nothing of one on many.
LEAST_RECORDINGS = 4
_SHARES = (0.125, 0.25, 0.5, 1.0)


def default_sizes(count: int) -> tuple[int, ...]:
    """An eighth, a quarter, half and all of the clips."""
    return tuple(sorted({max(round(count * share), LEAST_RECORDINGS) for share in _SHARES}))


def check_sizes(sizes: Sequence[int], count: int) -> tuple[int, ...]:
    """The sizes, rising.

    Raises:
        RequestError: fewer than two, too small, or larger than what there is.
    """
    distinct = tuple(sorted(set(sizes)))
    if count <= LEAST_RECORDINGS:
        raise RequestError(
            f"a curve of {count} training clips: more than {LEAST_RECORDINGS} are needed",
            hint="record some more; data next says which",
        )
    if len(distinct) < 2 or distinct[0] < LEAST_RECORDINGS or distinct[-1] > count:
        example = ",".join(map(str, default_sizes(count)))
        raise RequestError(
            f"sizes {', '.join(map(str, sizes))}: at least two, from {LEAST_RECORDINGS} to {count}",
            hint=f"for example: --sizes {quoted(example)}",
        )
    return distinct


def subset(utterances: Sequence[Utterance], size: int, seed: int) -> list[Utterance]:
    """`size` utterances in their order; for a larger size, the same ones and more.

    With speakers, each has about its share of them at every size, as if all had recorded less.
    """
    rng = random.Random(seed)
    by_speaker: dict[str | None, list[int]] = {}
    for index, item in enumerate(utterances):
        by_speaker.setdefault(item.speaker, []).append(index)
    ranked: list[tuple[float, int]] = []
    for indices in by_speaker.values():
        rng.shuffle(indices)
        # Evenly spread over the order of all, with an offset, so that no speaker is always first.
        offset = rng.random()
        ranked += [((n + offset) / len(indices), index) for n, index in enumerate(indices)]
    chosen = sorted(index for _, index in sorted(ranked)[:size])
    return [utterances[index] for index in chosen]


def write_subset(path: Path, utterances: Sequence[Utterance], size: int, seed: int) -> Path:
    """The manifest of a subset, which is written once."""
    if not path.is_file():
        write_manifest(path, subset(utterances, size, seed))
    return path
