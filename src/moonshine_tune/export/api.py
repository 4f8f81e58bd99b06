"""The export as a function of keyword arguments, for the Python API."""

from os import PathLike
from pathlib import Path

from moonshine_tune.core.progress import Progress, SilentProgress
from moonshine_tune.export.run import ExportRequest, export
from moonshine_tune.runs.records import ExportRecord


def export_model(
    out: str | PathLike[str],
    *,
    run: str | PathLike[str] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    model: str | None = None,
    base_runtime: str | PathLike[str] | None = None,
    manifest: str | PathLike[str] | None = None,
    parity_bound: float = 5.0,
    method: str = "graft",
    calibrate: str | PathLike[str] = "auto",
    quantize: str = "int8",
    scales: str = "auto",
    format: str = "moonshine",
    adapter_only: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> ExportRecord:
    """Write files for the Moonshine runtime, and compare them with the trained model.

    The files are written in any case. `parity.verdict` is "equal", "worse" (do not ship them), or
    "not decided", where the clips were too few to tell; `parity.passed` is then None.

    Args:
        run: run folder, or adapter folder together with `model`.
        checkpoint: instead of `run`, a fully tuned `save_pretrained` folder.
        base_runtime: runtime folder of the base model; None uses the model's own.
        manifest: recordings of the comparison; None uses the run's dev set.
        parity_bound: points by which the percentage of words that differ may be above the base's.
        method: "graft" patches the base's files; "trace" builds new graphs.
        calibrate: recordings for the rounding of a graft: "auto", "none" or a manifest.
        quantize: of new graphs: "int8" or "none".
        scales: of a graft: "tensor" as in the base's files, "channel", or "auto": channels where
            they take no noticeable time.
        format: "moonshine" or "sherpa-onnx": the runtime that is to load the files.
        adapter_only: write one small file to `out`, from which `apply` makes the folder.

    Raises:
        TuneError: wrong arguments, no base runtime files, or this machine cannot do it.
    """
    request = ExportRequest(
        run=_path(run),
        checkpoint=_path(checkpoint),
        model=model,
        base_runtime=_path(base_runtime),
        manifest=_path(manifest),
        parity_bound=parity_bound,
        method=method,
        calibrate=str(calibrate),
        quantize=quantize,
        scales=scales,
        format=format,
        adapter_only=adapter_only,
        device=device,
    )
    return export(request, Path(out), progress or SilentProgress())


def _path(path: str | PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
