"""Latency of a trial's exported files over the base's: measured once, then read from its folder."""

import tempfile
from pathlib import Path

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.files import read_json, write_json_atomic
from moonshine_tune.core.progress import Progress
from moonshine_tune.corpus.manifest import read_manifest, write_manifest
from moonshine_tune.runs.folder import RunFolder

LATENCY_FILE = "latency.json"
# Enough for a ratio within a few percent; both folders are timed alternately, clip by clip.
_CLIPS, _ROUNDS = 12, 3


def read_latency(run: RunFolder) -> float | None:
    """The ratio that was measured of a run; None where it was not."""
    try:
        return float(read_json(run.path / LATENCY_FILE)["ratio"])
    except (RequestError, ValueError, KeyError, TypeError):
        return None


def measure_latency(run: RunFolder, settings: RunSettings, progress: Progress) -> float:
    """Latency of the adapted runtime files over the base's, on clips of the dev set.

    The files are made for it and removed afterwards: `export` makes those that ship.

    Raises:
        RequestError: there are no runtime files of the base model, or no dev manifest is named.
    """
    known = read_latency(run)
    if known is not None:
        return known
    # Here and not above: a search that measures no latency loads neither torch nor the runtime.
    from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest, benchmark
    from moonshine_tune.export.run import graft_adapter
    from moonshine_tune.registry.open import open_model
    from moonshine_tune.runtime.layout import read_layout

    if settings.data.dev is None:
        raise RequestError("latency is measured on dev clips, and no dev manifest is named")
    opened = open_model(
        settings.model, adapter=run.adapter_dir, device="cpu", dtype="float32", progress=progress
    )
    base = opened.resolved.runtime_dir
    if base is None:
        raise RequestError(
            f"there are no runtime files of the base model {opened.base['name']}",
            hint="leave latency out, or name a runtime folder as --model",
        )
    utterances = read_manifest(settings.data.dev, require_text=False).utterances
    with tempfile.TemporaryDirectory(prefix="moonshine-tune-") as name:
        scratch = Path(name)
        adapted = scratch / "adapted"
        adapted.mkdir()
        graft_adapter(opened, read_layout(base), adapted)
        stride = max(len(utterances) // _CLIPS, 1)
        write_manifest(scratch / "clips.jsonl", utterances[::stride][:_CLIPS])
        request = BenchmarkRequest(
            adapted, scratch / "clips.jsonl", compare=base, rounds=_ROUNDS, processes=1,
            stream=False,
        )  # fmt: skip
        record = benchmark(request, None, progress).record
    ratio = (record.ratios or {})["latency"]
    write_json_atomic(
        run.path / LATENCY_FILE,
        {**ratio.to_json(), "clips": record.clips, "rounds": record.rounds},
    )
    return float(ratio.ratio or 0.0)
