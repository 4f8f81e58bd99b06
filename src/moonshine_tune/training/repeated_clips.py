"""Clips that two sets share under other names: copies of a file, and spans that overlap."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from moonshine_tune.audio.fingerprint import content_hash
from moonshine_tune.corpus.manifest import Utterance


def repeated_clips(
    known: Sequence[Utterance], held_out: Sequence[Utterance]
) -> tuple[Utterance, ...]:
    """The held-out clips of which half or more is in a known clip.

    Only files of the same size are read. Copies in another format are not recognized: `data check`
    compares the samples.
    """
    files = _identities({item.audio for item in known}, {item.audio for item in held_out})
    spans: dict[Path | str, list[tuple[float, float]]] = defaultdict(list)
    for item in known:
        spans[files[item.audio]].append(_bounds(item))
    return tuple(
        item
        for item in held_out
        if any(_is_half_shared(_bounds(item), span) for span in spans.get(files[item.audio], ()))
    )


def _identities(known: set[Path], held_out: set[Path]) -> dict[Path, Path | str]:
    """The content of files that may be copies of each other; of the others, their path."""
    sizes = {path: _size(path) for path in known | held_out}
    both = {sizes[path] for path in known} & {sizes[path] for path in held_out} - {-1}
    return {path: content_hash(path) if size in both else path for path, size in sizes.items()}


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none, which is reported when it is read."""
    return path.stat().st_size if path.is_file() else -1


def _bounds(utterance: Utterance) -> tuple[float, float]:
    return utterance.start or 0.0, math.inf if utterance.end is None else utterance.end


def _is_half_shared(first: tuple[float, float], second: tuple[float, float]) -> bool:
    shorter = min(first[1] - first[0], second[1] - second[0])
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return shared >= shorter / 2
