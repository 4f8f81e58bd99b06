"""What a package is made of, read and checked before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, NegativeAnswerError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.corpus.manifest import Utterance, read_manifest
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.release.records import (
    MANIFEST_ROLES,
    manifest_record,
    public_benchmark,
    public_evaluation,
    public_export,
    public_run,
    read_json,
)
from moonshine_tune.runs.folder import RunFolder
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout

_SAMPLE_CLIPS = 3
_SAMPLE_LONGEST_S = 15.0


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
    """All inputs in their public form; `run`, `export`, … are as `package_records` gives them.

    Attributes:
        adapter_dir: where the adapter lies.
        layout: the runtime folder.
        evaluations: by name; `of` says whether of the "base" or the "adapted" model.
        sample: the clips that are to be packed.
    """

    run: dict[str, Any]
    adapter_dir: Path
    layout: RuntimeLayout
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
    missing = [
        name
        for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)
        if not (adapter_dir / name).is_file()
    ]
    if missing:
        raise RequestError(
            f"this run has no adapter: {', '.join(missing)} missing",
            where=adapter_dir,
            hint="finish it first: moonshine-tune train --resume --out " + str(request.run),
        )
    layout = read_layout(request.runtime_dir)
    export = _export_record(request, layout, record, adapter_dir)
    benchmark = _benchmark_record(request.benchmark, layout)
    data = record.get("settings", {}).get("data", {})
    fingerprints = record.get("data", {})
    manifests = [
        manifest_record(role, fingerprints.get(role), data.get(role))
        for role in MANIFEST_ROLES
        if fingerprints.get(role) or data.get(role)
    ]
    return PackageInputs(
        run=public_run(record),
        adapter_dir=adapter_dir,
        layout=layout,
        export=export,
        evaluations=_evaluation_records(request),
        benchmark=benchmark,
        manifests=tuple(manifests),
        sample=_sample_clips(request.sample) if request.sample else (),
    )


def _export_record(
    request: PackageRequest, layout: RuntimeLayout, run: Mapping[str, Any], adapter_dir: Path
) -> dict[str, Any] | None:
    """The export's public record, after a check that folder, run and gate belong together."""
    path = layout.folder / "export.json"
    if not path.is_file():
        return None
    record = read_json(path, hint="export again: moonshine-tune export --run RUN --out FOLDER")
    for name, digest in record.get("sha256", {}).items():
        file = layout.folder / Path(name).name
        if not file.is_file() or sha256_of(file) != digest:
            raise NegativeAnswerError(
                "is not the file that was exported: it was changed or lost since",
                where=file,
                hint=f"export again: moonshine-tune export --run {request.run} --out FOLDER",
            )
    made_of = (record.get("base", {}).get("sha256"), record.get("adapter_sha256"))
    wanted = (run.get("base", {}).get("sha256"), sha256_of(adapter_dir / ADAPTER_WEIGHTS_FILE))
    for what, recorded, own in zip(("base model", "adapter"), made_of, wanted, strict=True):
        if recorded and own and recorded != own:
            raise RequestError(
                f"this runtime folder was exported from another {what} than that of the run",
                where=layout.folder,
                hint=f"export this run: moonshine-tune export --run {request.run} --out FOLDER",
            )
    if record.get("parity", {}).get("passed") is False and not request.allow_failed_parity:
        raise NegativeAnswerError(
            "these runtime files failed the parity gate of the export",
            where=layout.folder,
            hint="export again, or add --allow-failed-parity; the model card will say so",
        )
    return public_export(record)


def _benchmark_record(path: Path | None, layout: RuntimeLayout) -> dict[str, Any] | None:
    if path is None:
        return None
    file = path / "benchmark.json" if path.is_dir() else path
    record = read_json(
        file, hint="make it with: moonshine-tune benchmark --runtime-dir D --manifest M --out B"
    )
    measured = {item["name"]: item["sha256"] for item in record.get("files", [])}
    if not measured:
        raise RequestError("not a benchmark: it names no files", where=file)
    if measured != {name: sha256_of(layout.folder / name) for name in layout.files}:
        raise RequestError(
            "the benchmark is of other files than those of the runtime folder",
            where=file,
            hint=f"measure these: moonshine-tune benchmark --runtime-dir {layout.folder} …",
        )
    return public_benchmark(record)


def _evaluation_records(request: PackageRequest) -> dict[str, dict[str, Any]]:
    """Public evaluations by name; those of the base fill the base column of the others."""
    records: dict[str, dict[str, Any]] = {}
    sides = (("adapted", request.evaluations), ("base", request.base_evaluations))
    for of, folders in sides:
        for folder in folders:
            name = folder.absolute().name
            if name in records:
                raise RequestError(
                    f"two evaluations are called {name!r}", where=folder, hint="rename one folder"
                )
            found = read_json(
                folder / "result.json",
                hint="make it with: moonshine-tune evaluate --manifest test.jsonl --out FOLDER",
            )
            if "wer" not in found:
                raise RequestError("not an evaluation: it has no WER", where=folder)
            records[name] = {"of": of} | public_evaluation(found)
    for record in records.values():
        if record["of"] == "adapted" and not record.get("base"):
            base = _base_of(record, records)
            record["base"] = None if base is None else {"wer": base["wer"], "ci95": base["ci95"]}
    return records


def _base_of(
    record: Mapping[str, Any], records: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    same = ("manifest_sha256", "backend", "normalizer")
    for other in records.values():
        if other["of"] == "base" and all(other.get(key) == record.get(key) for key in same):
            return other
    return None


def _sample_clips(manifest: Path) -> tuple[Utterance, ...]:
    """The first short clips of the manifest."""
    chosen: list[Utterance] = []
    for utterance in read_manifest(manifest, require_text=False).utterances:
        seconds = utterance.known_seconds
        if seconds is None:
            try:
                seconds = len(load_utterance(utterance)) / SAMPLE_RATE_HZ
            except AudioError:
                continue
        if seconds <= _SAMPLE_LONGEST_S:
            chosen.append(utterance)
        if len(chosen) == _SAMPLE_CLIPS:
            break
    if not chosen:
        raise RequestError(
            f"no clip of at most {_SAMPLE_LONGEST_S:g} s for the sample", where=manifest
        )
    return tuple(chosen)
