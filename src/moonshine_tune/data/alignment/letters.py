"""Align what a model wrote with a text, letter by letter, for hours of speech.

Spaces are left out on both sides, so that `notepad` and `note pad`, `P-i-t-t-s` and `Pitts`, and
writing systems without spaces need no rule of their own. Runs of letters that occur once on both
sides are anchors; between them a dynamic program with affine gaps finds the best alignment. Where
long parts have no such run, as in a text that repeats itself, the runs of an alignment with the
fewest errors are anchors.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import jiwer
import numpy as np
import numpy.typing as npt

# So many letters that occur once on both sides are rarely the same by accident.
_ANCHOR_LETTERS = 14
# Shorter runs in an alignment of everything with the fewest errors, which knows the order.
_RUN_LETTERS = 8
# An area of letters × letters that is aligned at once, 4 MB; of a larger one without anchors only
# the corners are aligned.
_MAX_CELLS = 4_000_000
# Scores. A gap costs its start, its end and each letter. It costs less where words begin, so that
# what only one side has is cut out by words.
_MATCH, _MISMATCH, _EXTENSION = 10, -10, 1
_EDGE_IN_WORD, _EDGE_OF_WORD = 20, 12
_LOW = np.int32(-(1 << 28))

Indices = npt.NDArray[np.int64]
# First and end in the letters of the hypothesis, and in those of the text.
Area = tuple[tuple[int, int], tuple[int, int]]


def align_letters(
    hypothesis: str, text: str, hypothesis_starts: Sequence[int], text_starts: Sequence[int]
) -> Indices:
    """The letter of the hypothesis for each letter of the text, or -1.

    The result never decreases. Aligned letters may differ: `ship` for `sheep`.

    Args:
        hypothesis_starts, text_starts: indices of letters that begin a word.
    """
    result = np.full(len(text), -1, dtype=np.int64)
    edges = _edge_costs(len(hypothesis), hypothesis_starts), _edge_costs(len(text), text_starts)
    waiting: list[tuple[tuple[int, int], tuple[int, int], int]]
    waiting = [((0, len(hypothesis)), (0, len(text)), 0)]
    while waiting:
        rows, columns, depth = waiting.pop()
        num_cells = (rows[1] - rows[0]) * (columns[1] - columns[0])
        runs: list[tuple[int, int, int]] = []
        if depth == 0:
            runs = _unique_runs(hypothesis[slice(*rows)], text[slice(*columns)])
        elif num_cells > _MAX_CELLS and depth == 1:
            runs = _runs_of_fewest_errors(hypothesis[slice(*rows)], text[slice(*columns)])
        elif num_cells:
            areas = [(rows, columns)] if num_cells <= _MAX_CELLS else _corners(rows, columns)
            for area in areas:
                _align_area(hypothesis, text, area, edges, result)
            continue
        row, column = rows[0], columns[0]
        for first, second, length in runs:
            top, left = rows[0] + first, columns[0] + second
            result[left : left + length] = np.arange(top, top + length)
            waiting.append(((row, top), (column, left), depth + 1))
            row, column = top + length, left + length
        if num_cells:
            waiting.append(((row, rows[1]), (column, columns[1]), depth + 1))
    return result


def _edge_costs(count: int, starts: Sequence[int]) -> npt.NDArray[np.int32]:
    """What it costs to start or to end a gap in front of each letter, and at the end."""
    costs = np.full(count + 1, _EDGE_IN_WORD, dtype=np.int32)
    costs[[*starts, count]] = _EDGE_OF_WORD
    return costs


# --- anchors


def _unique_runs(first: str, second: str) -> list[tuple[int, int, int]]:
    """Index in both, and length, of runs that occur once on both sides: most in the same order."""
    size = _ANCHOR_LETTERS
    positions = _unique_positions(second, size)
    pairs = [
        (index, positions[letters])
        for letters, index in sorted(
            _unique_positions(first, size).items(), key=lambda item: item[1]
        )
        if letters in positions
    ]
    return list(_joined(_longest_increasing(pairs), size))


def _runs_of_fewest_errors(first: str, second: str) -> list[tuple[int, int, int]]:
    """The same of the runs of an alignment with the fewest errors: exact, fast, without gaps."""
    (chunks,) = jiwer.process_characters(first, second).alignments
    return [
        (chunk.ref_start_idx, chunk.hyp_start_idx, chunk.ref_end_idx - chunk.ref_start_idx)
        for chunk in chunks
        if chunk.type == "equal" and chunk.ref_end_idx - chunk.ref_start_idx >= _RUN_LETTERS
    ]


def _unique_positions(text: str, size: int) -> dict[str, int]:
    positions: dict[str, int] = {}
    for index in range(len(text) - size + 1):
        letters = text[index : index + size]
        positions[letters] = -1 if letters in positions else index
    return {letters: index for letters, index in positions.items() if index >= 0}


def _longest_increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most pairs whose second numbers increase."""
    lasts: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for number, (_, second) in enumerate(pairs):
        length = bisect_left(lasts, second)
        lasts[length : length + 1] = [second]
        ends[length : length + 1] = [number]
        before.append(ends[length - 1] if length else -1)
    chain: list[tuple[int, int]] = []
    number = ends[-1] if ends else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return chain[::-1]


def _joined(pairs: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int, int]]:
    """Runs of overlapping pairs; of two that overlap on one side only, the first stays."""
    run: tuple[int, int, int] | None = None
    for first, second in pairs:
        if run is not None:
            a, b, length = run
            if first - a == second - b and first <= a + length:
                run = (a, b, first - a + size)
                continue
            if first < a + length or second < b + length:
                continue
            yield run
        run = (first, second, size)
    if run is not None:
        yield run


# --- the dynamic program


def _corners(rows: tuple[int, int], columns: tuple[int, int]) -> list[Area]:
    """The start and the end of an area."""
    size = int(_MAX_CELLS**0.5) // 2
    height, width = (min(size, (end - start) // 2) for start, end in (rows, columns))
    return [
        ((rows[0], rows[0] + height), (columns[0], columns[0] + width)),
        ((rows[1] - height, rows[1]), (columns[1] - width, columns[1])),
    ]


def _align_area(
    hypothesis: str,
    text: str,
    area: Area,
    edges: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    result: Indices,
) -> None:
    """The best global alignment of two ranges of letters (Gotoh's algorithm, a row at a time)."""
    rows, columns = area
    a = _codes(hypothesis[slice(*rows)])
    b = _codes(text[slice(*columns)])
    row_edges = edges[0][rows[0] : rows[1] + 1]
    column_edges = edges[1][columns[0] : columns[1] + 1]
    steps = _steps(a, b, row_edges, column_edges)
    row, column = len(a), len(b)
    state = _FROM_BEST
    while row or column:
        step = steps[row, column]
        if state == _FROM_BEST:
            state = step & _FROM
        if state == _FROM_BEST:
            row, column = row - 1, column - 1
            result[columns[0] + column] = rows[0] + row
        elif state == _FROM_ABOVE:
            row -= 1
            state = _FROM_BEST if step & _OPENS_ABOVE else state
        else:
            column -= 1
            state = _FROM_BEST if step & _OPENS_LEFT else state


# How the best score of a cell comes about: from the cell before in both, or by a gap, whose start
# has a bit of its own.
_FROM_BEST, _FROM_ABOVE, _FROM_LEFT, _FROM = 0, 1, 2, 3
_OPENS_ABOVE, _OPENS_LEFT = 4, 8


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _steps(
    a: npt.NDArray[np.uint32],
    b: npt.NDArray[np.uint32],
    row_edges: npt.NDArray[np.int32],
    column_edges: npt.NDArray[np.int32],
) -> npt.NDArray[np.uint8]:
    """The step into each cell, uint8 [len(a) + 1, len(b) + 1]."""
    steps = np.zeros((len(a) + 1, len(b) + 1), dtype=np.uint8)
    climb = np.arange(len(b) + 1, dtype=np.int32) * _EXTENSION
    best = -(column_edges[0] + column_edges + climb)
    best[0] = 0
    steps[0] = _FROM_LEFT
    steps[0, 1] |= _OPENS_LEFT
    above = np.full(len(b) + 1, _LOW, dtype=np.int32)
    for row in range(1, len(a) + 1):
        opened = best - row_edges[row - 1]
        steps[row][opened >= above] |= _OPENS_ABOVE
        above = np.maximum(opened, above) - _EXTENSION
        current = above - row_edges[row]
        diagonal = best[:-1] + np.where(b == a[row - 1], _MATCH, _MISMATCH)
        is_diagonal = diagonal >= current[1:]
        steps[row, 1:][~is_diagonal] |= _FROM_ABOVE
        steps[row, 0] |= _FROM_ABOVE
        np.maximum(current[1:], diagonal, out=current[1:])
        starts = current - column_edges + climb
        reached = np.maximum.accumulate(starts)
        left = reached[:-1] - climb[1:] - column_edges[1:]
        steps[row, 1:][starts[:-1] == reached[:-1]] |= _OPENS_LEFT
        is_left = left > current[1:]
        steps[row, 1:][is_left] = (steps[row, 1:][is_left] & ~np.uint8(_FROM)) | _FROM_LEFT
        np.maximum(current[1:], left, out=current[1:])
        best = current
    return steps
