"""What a package is made of: read, checked, and reduced to what may be published.

The key lists below name what is taken, never what is left out, so no path, transcript, speaker or
fact about the host passes through here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, NegativeAnswerError, RequestError
from moonshine_tune.core.files import read_json, sha256_of
from moonshine_tune.corpus.manifest import Utterance, read_manifest, seconds_of
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MANIFEST_ROLES = ("train", "dev", "replay", "canary")
_SAMPLE_CLIPS = 3
_MAX_SAMPLE_CLIP_S = 15.0
_RUN_KEYS = ("schema_version", "created", "sources", "device", "dtype", "normalizer", "data",
             "seed", "status", "versions", "git", "result")  # fmt: skip
_EVALUATION_KEYS = ("wer", "cer", "substitutions", "deletions", "insertions", "reference_words",
                    "utterances", "audio_seconds", "rtf", "normalizer", "ci95", "backend",
                    "manifest_sha256", "base", "comparison", "keyterms")  # fmt: skip
_PARITY_KEYS = ("passed", "word_difference", "bound", "clips", "identical", "words")
_EXPORT_KEYS = ("method", "matrices", "changed", "changed_files", "worst_step_error", "sha256",
                "adapter_sha256", "quantize", "calibrated", "calibrate", "rounding", "windows",
                "versions")  # fmt: skip
_BENCHMARK_KEYS = ("schema_version", "manifest_sha256", "clips", "audio_seconds", "rounds",
                   "warm_up_clips", "machine", "versions", "family", "load_ms", "load_processes",
                   "latency_ms", "rtf", "by_length", "stream", "memory_mb", "files", "total_bytes",
                   "wer", "keyterms", "ratios", "same_text_clips", "wer_comparison")  # fmt: skip
_BASE_KEYS = ("family", "source", "revision", "sha256")
# Two evaluations that share these differ in the model alone.
_COMPARABLE_KEYS = ("manifest_sha256", "backend", "normalizer")


@dataclass(frozen=True)
class PackageRequest:
    """What goes into the package.

    Attributes:
        run: run folder of `train`.
        runtime_dir: runtime folder of `export`.
        evaluations: folders of `evaluate` on the adapted model.
        base_evaluations: folders of `evaluate` on the base, for the table's other column.
        benchmark: folder of `benchmark`, or its benchmark.json.
        sample: manifest of test clips; a few short ones are packed, as audio.
        allow_failed_parity: pack files that failed the parity gate; the card says so.
    """

    run: Path
    runtime_dir: Path
    evaluations: tuple[Path, ...] = ()
    base_evaluations: tuple[Path, ...] = ()
    benchmark: Path | None = None
    sample: Path | None = None
    allow_failed_parity: bool = False


@dataclass(frozen=True)
class PackageInputs:
    """All inputs; every record is in its public form.

    Attributes:
        adapter_dir: folder of the adapter.
        adapter_sha256: hash of the adapter's weights.
        layout: the runtime folder.
        runtime_sha256: hash of each file that is packed from it, by name.
        evaluations: by name; `of` is "base" or "adapted", the model that was scored.
        manifests: fingerprint and counts of each manifest of the run.
        sample: the clips to pack.
    """

    run: dict[str, Any]
    adapter_dir: Path
    adapter_sha256: str
    layout: RuntimeLayout
    runtime_sha256: dict[str, str]
    export: dict[str, Any] | None
    evaluations: dict[str, dict[str, Any]]
    benchmark: dict[str, Any] | None
    manifests: tuple[dict[str, Any], ...]
    sample: tuple[Utterance, ...]


def gather_inputs(request: PackageRequest) -> PackageInputs:
    """Read everything and check that it belongs together.

    Raises:
        RequestError: inputs are missing or do not belong together.
        NegativeAnswerError: the runtime files failed the parity gate or were changed since.
    """
    record = RunFolder.open(request.run).read_record()
    adapter_dir = request.run / "adapter"
    needed = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    if missing := [name for name in needed if not (adapter_dir / name).is_file()]:
        raise RequestError(
            f"this run has no adapter: {', '.join(missing)} missing",
            where=adapter_dir,
            hint=f"finish it first: moonshine-tune train --resume --out {request.run}",
        )
    adapter_sha256 = sha256_of(adapter_dir / ADAPTER_WEIGHTS)
    layout = read_layout(request.runtime_dir)
    graphs = [path.name for path in sorted(layout.folder.glob("*.ort"))]
    sums = {name: sha256_of(layout.folder / name) for name in [*layout.files, *graphs]}
    paths, fingerprints = record.get("settings", {}).get("data", {}), record.get("data", {})
    return PackageInputs(
        run=public_run(record),
        adapter_dir=adapter_dir,
        adapter_sha256=adapter_sha256,
        layout=layout,
        runtime_sha256=sums,
        export=_export_record(request, record, adapter_sha256),
        evaluations=_evaluation_records(request),
        benchmark=_benchmark_record(request, {name: sums[name] for name in layout.files}),
        manifests=tuple(
            _manifest_record(role, fingerprints.get(role), paths.get(role))
            for role in MANIFEST_ROLES
            if fingerprints.get(role) or paths.get(role)
        ),
        sample=_sample_clips(request.sample) if request.sample else (),
    )


def _export_record(
    request: PackageRequest, run: Mapping[str, Any], adapter_sha256: str
) -> dict[str, Any] | None:
    """The export's public record, after a check that folder, run and gate belong together."""
    folder = request.runtime_dir
    if not (folder / "export.json").is_file():
        return None
    hint = f"export again: moonshine-tune export --run {request.run} --out FOLDER"
    record = read_json(folder / "export.json", hint=hint)
    for name, digest in record.get("sha256", {}).items():
        file = folder / Path(name).name
        if not file.is_file() or sha256_of(file) != digest:
            raise NegativeAnswerError(
                "is not the file that was exported: it was changed or lost since",
                where=file,
                hint=hint,
            )
    base = (record.get("base", {}).get("sha256"), run.get("base", {}).get("sha256"))
    adapter = (record.get("adapter_sha256"), adapter_sha256)
    for what, (exported, trained) in {"base model": base, "adapter": adapter}.items():
        if exported and trained and exported != trained:
            raise RequestError(
                f"this runtime folder was exported from another {what} than that of the run",
                where=folder,
                hint=hint,
            )
    if record.get("parity", {}).get("passed") is False and not request.allow_failed_parity:
        raise NegativeAnswerError(
            "these runtime files failed the parity gate of the export",
            where=folder,
            hint="export again, or add --allow-failed-parity; the model card will say so",
        )
    return (
        _select(record, _EXPORT_KEYS)
        | {"parity": _select(record.get("parity", {}), _PARITY_KEYS)}
        | {"base": public_base(record.get("base", {}))}
    )


def _benchmark_record(
    request: PackageRequest, runtime_sha256: Mapping[str, str]
) -> dict[str, Any] | None:
    if request.benchmark is None:
        return None
    path = request.benchmark
    file = path / "benchmark.json" if path.is_dir() else path
    command = f"moonshine-tune benchmark --runtime-dir {request.runtime_dir} --manifest M --out B"
    record = read_json(file, hint=f"make it with: {command}")
    measured = {item["name"]: item["sha256"] for item in record.get("files", [])}
    if not measured:
        raise RequestError("not a benchmark: it names no files", where=file)
    if measured != runtime_sha256:
        raise RequestError(
            "the benchmark is of other files than those of the runtime folder",
            where=file,
            hint=f"measure these: {command}",
        )
    compared = record.get("other")
    return _select(record, _BENCHMARK_KEYS) | {
        "other": _select(compared, _BENCHMARK_KEYS) if compared else None
    }


def _evaluation_records(request: PackageRequest) -> dict[str, dict[str, Any]]:
    """Public evaluations by name; those of the base fill the base column of the others."""
    records: dict[str, dict[str, Any]] = {}
    folders = [("adapted", folder) for folder in request.evaluations]
    folders += [("base", folder) for folder in request.base_evaluations]
    for of, folder in folders:
        name = folder.absolute().name
        if name in records:
            raise RequestError(
                f"two evaluations are called {name!r}", where=folder, hint="rename one folder"
            )
        record = read_json(
            folder / "result.json",
            hint="make it with: moonshine-tune evaluate --manifest test.jsonl --out FOLDER",
        )
        if "wer" not in record:
            raise RequestError("not an evaluation: it has no WER", where=folder)
        adapter = record.get("adapter")
        records[name] = {
            "of": of,
            "model": public_name(record.get("model", "unknown")),
            "adapter": public_name(adapter) if adapter else None,
        } | _select(record, _EVALUATION_KEYS)
    for record in records.values():
        if record["of"] == "adapted" and not record.get("base"):
            record["base"] = next(
                (
                    {"wer": base["wer"], "ci95": base["ci95"]}
                    for base in records.values()
                    if base["of"] == "base" and comparable(base) == comparable(record)
                ),
                None,
            )
    return records


def comparable(evaluation: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two evaluations must share so that one is the other's base."""
    return tuple(evaluation.get(key) for key in _COMPARABLE_KEYS)


def _manifest_record(role: str, digest: str | None, path: str | None) -> dict[str, Any]:
    """Fingerprint of a manifest, with its counts where the very same file is still there."""
    record: dict[str, Any] = {"role": role, "sha256": digest}
    if not path:
        return record
    try:
        manifest = read_manifest(Path(path), require_text=False, check_files=False)
    except RequestError:
        # Gone or changed since: only the fingerprint is known.
        return record
    if digest not in (None, manifest.sha256):
        return record
    speakers = {item.speaker for item in manifest.utterances if item.speaker}
    seconds = seconds_of(manifest.utterances)
    return {
        "role": role,
        "sha256": manifest.sha256,
        "utterances": len(manifest),
        "with_text": sum(item.text is not None for item in manifest.utterances),
        "seconds": round(seconds, 1) if seconds else None,
        "speakers": len(speakers) or None,
    }


def _sample_clips(manifest: Path) -> tuple[Utterance, ...]:
    """The first short clips of the manifest."""
    clips: list[Utterance] = []
    for utterance in read_manifest(manifest, require_text=False).utterances:
        seconds = utterance.known_seconds
        if seconds is None:
            try:
                seconds = len(load_utterance(utterance)) / SAMPLE_RATE_HZ
            except AudioError:
                continue
        if seconds <= _MAX_SAMPLE_CLIP_S:
            clips.append(utterance)
        if len(clips) == _SAMPLE_CLIPS:
            break
    if not clips:
        raise RequestError(
            f"no clip of at most {_MAX_SAMPLE_CLIP_S:g} s for the sample", where=manifest
        )
    return tuple(clips)


# --- what may be published


def public_run(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a training run; manifests are named by their role only."""
    settings = record.get("settings", {})
    data = {
        key: value for key, value in settings.get("data", {}).items() if key not in MANIFEST_ROLES
    }
    named = {"model": settings.get("model", "tiny"), "data": data}
    rest = {key: value for key, value in settings.items() if key not in named}
    return _select(record, _RUN_KEYS) | {
        "base": public_base(record.get("base", {})),
        "settings": _without_paths(named | rest),
        "platform": _select(record.get("platform", {}), ("system", "arch")),
        "adapter": record.get("adapter", {}),
    }


def public_base(base: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of the base model."""
    return {"name": public_name(base.get("name", "unknown"))} | _select(base, _BASE_KEYS)


def public_name(name: object) -> str:
    """A model's name as it may be published: of a path on this machine only the last part."""
    text = str(name)
    is_local = Path(text).is_absolute() or text.startswith(("~", ".")) or "\\" in text
    if is_local or (os.sep in text and Path(text).exists()):
        return Path(text.replace("\\", "/")).name
    return text


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return public_name(value) if isinstance(value, str | Path) else value


def _select(record: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: record[key] for key in keys if key in record}
