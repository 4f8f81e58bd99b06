"""Export by grafting: patch a copy of the runtime's own files with the adapted tensors.

Every weight of the runtime's graphs has a fixed offset, so an adapted model of the same shape
needs no new graphs: the new tensor is quantized and replaces the old one. `matching` finds the
stored tensor by its content. v1 files have one scale a matrix, which is coarse: an adapted matrix
can get one for each output channel, appended to the file. At each product the runtime multiplies
such a vector with the scale of the activations, a few nanoseconds a channel: much for the product
of one token with a square or wide matrix, little for a tall one, nothing for many frames at once.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from moonshine_tune.core.errors import ProblemsError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.parallel import thread_pool
from moonshine_tune.export.matching import MATRIX_THREADS, Match, find_matches, is_constant
from moonshine_tune.export.rounding import compensated_levels
from moonshine_tune.runtime.layout import RuntimeLayout
from moonshine_tune.runtime.ort_file import OrtFile
from moonshine_tune.runtime.quantized import (
    Doubles,
    Floats,
    QuantizedTensor,
    quantized_tensors,
    takes_channel_scales,
    with_channel_scales,
)

AUTO, CHANNEL, TENSOR = "auto", "channel", "tensor"
SCALES = (AUTO, CHANNEL, TENSOR)
"""How many scales an adapted matrix has: one for each output channel, as in the base's file, or one
for each channel where that takes the runtime no noticeable time."""


@dataclass(frozen=True)
class GraftReport:
    """The files that an export wrote.

    Attributes:
        matrices: adapted tensors in the graphs.
        changed: of those, how many differ from the base and were written.
        changed_files: graph files that differ from the base runtime folder.
        worst_step_error: largest distance of a stored value from the merged weight, in
            quantization steps: 0.5 where values are rounded to the nearest step, up to 1 where
            they are dithered, more where rounding errors are compensated.
        sha256: hash of every file in the folder.
        channel_scales: how many of the changed tensors got a scale for each output channel.
    """

    matrices: int
    changed: int
    changed_files: tuple[str, ...]
    worst_step_error: float
    sha256: dict[str, str]
    channel_scales: int = 0


def graft(
    layout: RuntimeLayout,
    base: Mapping[str, Floats],
    merged: Mapping[str, Floats],
    out: Path,
    *,
    others: Mapping[str, Floats] | None = None,
    moments: Mapping[str, Doubles] | None = None,
    scales: str = AUTO,
) -> GraftReport:
    """Fill the folder `out` (existing, empty) with the base runtime files, adapted.

    Args:
        base: tensors of the base checkpoint that may have changed; matrices are [out, in].
        merged: the same after training; missing keys count as unchanged.
        others: further tensors of the base, to tell equal ones apart.
        moments: second moments of a matrix's inputs, [in, in], by name. Where given, the rounding
            errors of a row are compensated, so that they cancel in the output.
        scales: "channel": adapted matrices with one scale get one for each output channel, at
            four bytes each; "tensor": they keep the scheme of the file, and its size; "auto":
            channels for the matrices that take no noticeable time with them.

    Raises:
        ProblemsError: tensors that no stored one matches, or that match several; lists them.
    """
    _check_not_constant(base, merged)
    matched: set[str] = set()
    changed: set[str] = set()
    finer: set[str] = set()
    changed_files: list[str] = []
    worst = 0.0
    for name in layout.files:
        source = layout.folder / name
        shutil.copyfile(source, out / name)
        if not name.endswith(".ort"):
            continue
        file = OrtFile.read(source)
        matches = find_matches(file, base, others)
        matched |= {match.key for match in matches}
        if scales != TENSOR:
            file, matches, names = _with_channel_scales(file, matches, base, merged, scales)
            finer |= names
        patched = file.copy()
        write = partial(_write, base=base, merged=merged, moments=moments or {}, file=file,
                        patched=patched)  # fmt: skip
        with thread_pool(MATRIX_THREADS) as pool:
            errors = zip(matches, pool.map(write, matches), strict=True)
            written = [(match.key, error) for match, error in errors if error is not None]
        if written:
            worst = max(worst, *(error for _, error in written))
            changed |= {key for key, _ in written}
            (out / name).write_bytes(patched.data)
            changed_files.append(name)
    if missing := sorted(set(base) - matched):
        raise ProblemsError(
            f"{len(missing)} of {len(base)} adapted matrices are not in the runtime files of "
            f"{layout.folder}",
            missing,
            hint="these files belong to other base weights; name the right ones with "
            "--base-runtime, or export with: --method trace",
        )
    return GraftReport(
        matrices=len(matched),
        changed=len(changed),
        channel_scales=len(finer),
        changed_files=tuple(changed_files),
        worst_step_error=worst,
        sha256={name: sha256_of(out / name) for name in layout.files},
    )


def _with_channel_scales(
    file: OrtFile,
    matches: list[Match],
    base: Mapping[str, Floats],
    merged: Mapping[str, Floats],
    scales: str,
) -> tuple[OrtFile, list[Match], set[str]]:
    """The file with scales of the channels of changed matrices, its matches, and their names."""
    every_token = takes_channel_scales(file)
    coarse = {
        match.tensor.name: match.tensor
        for match in matches
        if isinstance(match.tensor, QuantizedTensor)
        and match.tensor.axis is None
        and match.tensor.name in every_token
        and (scales == CHANNEL or not every_token[match.tensor.name] or _is_tall(match.tensor))
        and _changed(match.key, base, merged) is not None
    }
    wider = with_channel_scales(file, coarse.values())
    tensors = {tensor.name: tensor for tensor in quantized_tensors(wider)}
    # The other tensors are where they were: the file only grew.
    widened = [
        replace(match, tensor=tensors[match.tensor.name], is_new_grid=True)
        if match.tensor.name in coarse
        else match
        for match in matches
    ]
    return wider, widened, {match.key for match in matches if match.tensor.name in coarse}


def _is_tall(tensor: QuantizedTensor) -> bool:
    """Whether a product of one token spends little time on scales: fewer columns than rows."""
    rows, columns = tensor.values.shape
    return columns < rows


def _changed(key: str, base: Mapping[str, Floats], merged: Mapping[str, Floats]) -> Floats | None:
    """The merged tensor, or None where training did not change it. Each look-up merges it anew."""
    after = merged.get(key)
    return None if after is None or np.array_equal(base[key], after) else after


def lies_on_grid(layout: RuntimeLayout, some: Mapping[str, Floats]) -> bool:
    """Whether a base's tensors are exactly the stored values, as those of a rebuilt base are.

    Args:
        some: tensors of the base; the first match in a graph decides.
    """
    for name in layout.files:
        if name.endswith(".ort"):
            file = OrtFile.read(layout.folder / name)
            for match in find_matches(file, some):
                tensor, values = match.tensor, match.view(some[match.key])
                return isinstance(tensor, QuantizedTensor) and tensor.holds_exactly(values, file)
    return False


def _write(
    match: Match,
    *,
    base: Mapping[str, Floats],
    merged: Mapping[str, Floats],
    moments: Mapping[str, Doubles],
    file: OrtFile,
    patched: OrtFile,
) -> float | None:
    """Write one tensor into `patched`; its step error, or None where training did not change it."""
    after = _changed(match.key, base, merged)
    if after is None:
        return None
    wanted = match.to_file(after)
    patched.write(_changes(match, base[match.key], after, wanted, file, moments.get(match.key)))
    return _step_error(match, wanted, patched)


def _changes(
    match: Match,
    base: Floats,
    merged: Floats,
    wanted: Floats,
    file: OrtFile,
    moments: Doubles | None,
) -> dict[int, bytes]:
    """Bytes to write for the merged tensor; `wanted` has it in the layout of the file."""
    tensor = match.tensor
    if not isinstance(tensor, QuantizedTensor):
        return tensor.requantize(wanted, file)
    if moments is None or merged.ndim != 2:
        # A base that was rebuilt from these files lies on their grid. On a grid of its own, the
        # change of an adapter is not lost: base values lie anywhere between two levels.
        dither = not match.is_new_grid and tensor.holds_exactly(match.view(base), file)
        return tensor.requantize(wanted, file, dither=dither)
    grid = tensor.fitting_grid(wanted, file)
    if match.form != "transposed":
        return tensor.encode(compensated_levels(merged, grid, moments), grid)
    levels = compensated_levels(merged, grid.transposed(), moments)
    return tensor.encode(np.ascontiguousarray(levels.T), grid)


def _step_error(match: Match, wanted: Floats, patched: OrtFile) -> float:
    """Largest distance of the patched values, read back, from the wanted ones, in steps."""
    if not isinstance(match.tensor, QuantizedTensor):
        return 0.0
    away = match.tensor.dequantize(patched)
    away -= wanted
    away /= match.tensor.step(patched)
    return float(np.abs(away, out=away).max())


def _check_not_constant(base: Mapping[str, Floats], merged: Mapping[str, Floats]) -> None:
    problems = [
        key
        for key in merged
        if is_constant(base[key]) and not np.array_equal(base[key], merged[key])
    ]
    if problems:
        raise ProblemsError(
            f"{len(problems)} changed tensors were constant in the base model and cannot be found "
            "in its runtime files",
            sorted(problems),
            hint="export with: --method trace",
        )
