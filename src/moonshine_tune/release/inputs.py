"""What a package is made of: read, checked, and reduced to what may be published.

The key lists below name what is taken, never what is left out, so no path, transcript, speaker or
fact about the host passes through here.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moonshine_tune.audio.io import load_utterance
from moonshine_tune.audio.samples import SAMPLE_RATE_HZ
from moonshine_tune.core.errors import AudioError, NegativeAnswerError, RequestError
from moonshine_tune.core.files import sha256_of
from moonshine_tune.core.secrets import mask_secrets
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.manifest import Utterance, read_manifest, seconds_of
from moonshine_tune.models.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from moonshine_tune.models.fingerprint import compare_weights
from moonshine_tune.runs.folder import RunFolder, status_now
from moonshine_tune.runs.kept_adapter import altered_adapter
from moonshine_tune.runs.records import (
    AliasesRecord,
    BaseModelRecord,
    BenchmarkRecord,
    EvaluationRecord,
    ExportRecord,
    Record,
    RunRecord,
    RunResultRecord,
    ScoreRecord,
)
from moonshine_tune.runtime.layout import RuntimeLayout, read_layout

MANIFEST_ROLES = ("train", "dev", "replay", "canary", "synthetic", "pseudo_labels")
# Settings in `data` that name files of their owner.
_PRIVATE_FILES = (*MANIFEST_ROLES, "terms", "unlabelled")
_SAMPLE_CLIPS = 3
_MAX_SAMPLE_CLIP_S = 15.0
_RUN_KEYS = ("schema_version", "created", "sources", "device", "dtype", "normalizer", "data",
             "adapter", "seed", "status", "versions", "git", "result", "voices",
             "replay", "synthetic", "pseudo_labels")  # fmt: skip
_PARENT_KEYS = ("adapter_sha256", "base_sha256", "steps", "created", "data")
_EVALUATION_KEYS = ("wer", "cer", "substitutions", "deletions", "insertions", "reference_words",
                    "utterances", "audio_seconds", "rtf", "normalizer", "ci95", "backend",
                    "manifest_sha256", "base", "comparison", "metrics", "keyterms", "aliases",
                    "empty_references", "exported", "adapter_sha256", "voices",
                    "known_clips")  # fmt: skip
_PARITY_KEYS = ("passed", "verdict", "word_difference", "bound", "clips", "identical", "words",
                "wer")  # fmt: skip
_SYSTEM_KEYS = ("side", "backend", "wer", "ci95", "utterances", "comparison")
_AGAINST_KEYS = ("verdict", "clips", "general_clips", "words", "wer", "base")
_EXPORT_KEYS = ("method", "matrices", "changed", "changed_files", "worst_step_error", "sha256",
                "adapter_sha256", "quantize", "scales", "channel_scales", "calibrated", "calibrate",
                "rounding", "windows", "versions")  # fmt: skip
_BENCHMARK_KEYS = ("schema_version", "manifest_sha256", "clips", "audio_seconds", "rounds",
                   "warm_up_clips", "machine", "versions", "family", "load_ms", "load_processes",
                   "latency_ms", "rtf", "by_length", "stream", "memory_mb", "files", "total_bytes",
                   "wer", "keyterms", "ratios", "same_text_clips", "wer_comparison")  # fmt: skip
_BASE_KEYS = ("family", "source", "revision", "sha256", "content_sha256", "precision")
AnyRecord = TypeVar("AnyRecord", bound=Record)


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
        aliases: file of `data aliases`, for the app to map aliases back to their terms.
    """

    run: Path
    runtime_dir: Path
    evaluations: tuple[Path, ...] = ()
    base_evaluations: tuple[Path, ...] = ()
    benchmark: Path | None = None
    sample: Path | None = None
    allow_failed_parity: bool = False
    aliases: Path | None = None


class PackagedManifest(Record):
    """A manifest of the run in manifests.json; counts where the file is still the same."""

    role: str
    sha256: str | None = None
    utterances: int | None = None
    with_text: int | None = None
    seconds: float | None = None
    speakers: int | None = None


@dataclass(frozen=True)
class PackageInputs:
    """All inputs; every record is in its public form.

    Attributes:
        adapter_dir: folder of the adapter.
        adapter_sha256: hash of the adapter's weights.
        layout: the runtime folder.
        runtime_sha256: hash of each file that is packed from it, by name.
        evaluations: of the adapted model, by name.
        base_evaluations: of the base model, by name.
        manifests: fingerprint and counts of each manifest of the run.
        sample: the clips to pack.
        aliases: None where there are none.
        altered: why the adapter is not the one that the run chose; empty where it is.
    """

    run: RunRecord
    adapter_dir: Path
    adapter_sha256: str
    layout: RuntimeLayout
    runtime_sha256: dict[str, str]
    export: ExportRecord | None
    evaluations: dict[str, EvaluationRecord]
    base_evaluations: dict[str, EvaluationRecord]
    benchmark: BenchmarkRecord | None
    manifests: tuple[PackagedManifest, ...]
    sample: tuple[Utterance, ...]
    aliases: AliasesRecord | None = None
    altered: str = ""


def gather_inputs(request: PackageRequest) -> PackageInputs:
    """Read everything and check that it belongs together.

    Raises:
        RequestError: inputs are missing or do not belong together.
        NegativeAnswerError: the runtime files failed the parity gate or were changed since.
    """
    run = RunRecord.read(RunFolder.open(request.run).record_path)
    if (status := status_now(request.run, run.status)) != run.status:
        run = run.model_copy(update={"status": status})
    adapter_dir = request.run / "adapter"
    needed = (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE)
    if missing := [name for name in needed if not (adapter_dir / name).is_file()]:
        raise RequestError(
            f"this run has no adapter: {', '.join(missing)} missing",
            where=adapter_dir,
            hint=f"finish it first: moonshine-tune train --resume --out {quoted(request.run)}",
        )
    adapter_sha256 = sha256_of(adapter_dir / ADAPTER_WEIGHTS_FILE)
    layout = read_layout(request.runtime_dir)
    graphs = [path.name for path in sorted(layout.folder.glob("*.ort"))]
    sums = {name: sha256_of(layout.folder / name) for name in [*layout.files, *graphs]}
    export = _read_export(request, run, adapter_sha256)
    evaluations, base_evaluations = _read_evaluations(request, adapter_sha256)
    altered = altered_adapter(adapter_dir)
    if altered:
        # The scores of the training are of other weights than those that are packed.
        run = run.model_copy(update={"result": RunResultRecord()})
    paths = run.settings.get("data", {})
    return PackageInputs(
        run=public_run(run),
        adapter_dir=adapter_dir,
        adapter_sha256=adapter_sha256,
        layout=layout,
        runtime_sha256=sums,
        export=export,
        evaluations=evaluations,
        base_evaluations=base_evaluations,
        benchmark=_read_benchmark(request, {name: sums[name] for name in layout.files}),
        manifests=tuple(
            _manifest_summary(role, run.data.get(role), paths.get(role))
            for role in MANIFEST_ROLES
            if run.data.get(role) or paths.get(role)
        ),
        sample=_sample_clips(request.sample) if request.sample else (),
        aliases=_read_aliases(request.aliases) if request.aliases else None,
        altered=altered,
    )


def _read_aliases(path: Path) -> AliasesRecord:
    """What an app needs of aliases: the table. What was transcribed stays here."""
    record = AliasesRecord.read(path)
    if not record.aliases:
        raise RequestError(
            "no alias is in this file",
            where=path,
            hint="leave --aliases out, or make it again: moonshine-tune data aliases terms.txt "
            f"--out {quoted(path)} --force",
        )
    return _public(record, ("schema_version", "aliases", "language"))


def _read_export(
    request: PackageRequest, run: RunRecord, adapter_sha256: str
) -> ExportRecord | None:
    """The export's record, after a check that folder, run and gate belong together."""
    folder = request.runtime_dir
    if not (folder / "export.json").is_file():
        return None
    hint = f"export again: moonshine-tune export --run {quoted(request.run)} --out FOLDER"
    record = ExportRecord.read(folder / "export.json", hint=hint)
    for name, digest in record.sha256.items():
        file = folder / Path(name).name
        if not file.is_file() or sha256_of(file) != digest:
            raise NegativeAnswerError(
                "is not the file that was exported: it was changed or lost since",
                where=file,
                hint=hint,
            )
    adapter = (record.adapter_sha256, adapter_sha256)
    differs = {
        "base model": compare_weights(run.base.to_json(), record.base.to_json())
        in ("other", "rounded"),
        "adapter": None not in adapter and len(set(adapter)) > 1,
    }
    for part in differs:
        if differs[part]:
            raise RequestError(
                f"this runtime folder was exported from another {part} than that of the run",
                where=folder,
                hint=hint,
            )
    if record.parity.passed is False and not request.allow_failed_parity:
        raise NegativeAnswerError(
            "these runtime files failed the parity gate of the export: they are worse than the "
            "trained model",
            where=folder,
            hint="export again, or add --allow-failed-parity; the model card will say so",
        )
    against = record.parity.against_base
    # The sets that were added are named after files of this machine.
    public = {"against_base": _public(against, _AGAINST_KEYS)} if against else {}
    parity = _public(record.parity, _PARITY_KEYS, **public)
    return _public(record, _EXPORT_KEYS, parity=parity, base=public_base(record.base))


def _read_benchmark(
    request: PackageRequest, runtime_sha256: Mapping[str, str]
) -> BenchmarkRecord | None:
    if request.benchmark is None:
        return None
    path = request.benchmark
    file = path / "benchmark.json" if path.is_dir() else path
    folder = quoted(request.runtime_dir)
    command = f"moonshine-tune benchmark --runtime-dir {folder} --manifest M --out B"
    record = BenchmarkRecord.read(file, hint=f"make it with: {command}")
    measured = {item["name"]: item["sha256"] for item in record.files}
    if not measured:
        raise RequestError("not a benchmark: it names no files", where=file)
    if measured != runtime_sha256:
        raise RequestError(
            "the benchmark is of other files than those of the runtime folder",
            where=file,
            hint=f"measure these: {command}",
        )
    compared = record.other and _public(record.other, _BENCHMARK_KEYS)
    return _public(record, _BENCHMARK_KEYS, other=compared)


def _read_evaluations(
    request: PackageRequest, adapter_sha256: str
) -> tuple[dict[str, EvaluationRecord], dict[str, EvaluationRecord]]:
    """Evaluations of the adapted and of the base model; the second fill `base` of the first."""
    base: dict[str, EvaluationRecord] = {}
    adapted: dict[str, EvaluationRecord] = {}
    for records, folders in (base, request.base_evaluations), (adapted, request.evaluations):
        for folder in folders:
            name = folder.absolute().name
            if name in base or name in adapted:
                raise RequestError(
                    f"two evaluations are called {name!r}", where=folder, hint="rename one folder"
                )
            record = EvaluationRecord.read(folder / "result.json")
            if record.wer is None:
                raise RequestError("not an evaluation: it has no WER", where=folder)
            scored = {record.adapter_sha256, record.exported} - {None, adapter_sha256}
            if records is adapted and scored:
                raise RequestError(
                    "this evaluation is of another adapter than that of the run",
                    where=folder,
                    hint="evaluate it again: moonshine-tune evaluate --adapter "
                    f"{quoted(request.run)} --manifest M --out E",
                )
            records[name] = record
    numbers = _speaker_numbers([*base.values(), *adapted.values()])
    for records in (base, adapted):
        for name, record in records.items():
            records[name] = _public(
                record,
                _EVALUATION_KEYS,
                **_without_names(record, numbers),
                model=public_name(record.model or "unknown"),
                adapter=public_name(record.adapter) if record.adapter else None,
                **_public_voices(record),
            )
    before = {comparable(record): record for record in reversed(base.values())}
    for name, record in adapted.items():
        if record.base is None and comparable(record) in before:
            adapted[name] = _with_base(record, before[comparable(record)])
    return adapted, base


def _with_base(record: EvaluationRecord, base: EvaluationRecord) -> EvaluationRecord:
    """An evaluation with the scores of the base model on the same set."""
    metrics = {
        name: metric.model_copy(update={"base": base.metrics[name].value})
        if name in base.metrics
        else metric
        for name, metric in record.metrics.items()
    }
    score = ScoreRecord(wer=base.wer, ci95=base.ci95)
    return record.model_copy(update={"base": score, "metrics": metrics})


def _speaker_numbers(records: Sequence[EvaluationRecord]) -> dict[str, str]:
    """A number for each speaker, which is published in place of the name."""
    names = {name for record in records for name in (*record.by_speaker, *record.speakers)}
    return {name: f"speaker {number}" for number, name in enumerate(sorted(names), start=1)}


def _without_names(record: EvaluationRecord, numbers: Mapping[str, str]) -> dict[str, Any]:
    """The scores of each speaker and of each system, without the speakers' names."""

    def numbered(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {numbers[name]: value for name, value in by_name.items() if name in numbers}

    systems = [
        _public(system, _SYSTEM_KEYS, by_speaker=numbered(system.by_speaker))
        for system in record.systems
    ]
    parts = {
        "by_speaker": numbered(record.by_speaker),
        "speakers": numbered(record.speakers),
        "systems": systems,
    }
    return {name: part for name, part in parts.items() if part}


def comparable(evaluation: EvaluationRecord) -> tuple[str | None, ...]:
    """What two evaluations must share so that one is the other's base."""
    return evaluation.manifest_sha256, evaluation.backend, evaluation.normalizer


def _manifest_summary(role: str, digest: str | None, path: str | None) -> PackagedManifest:
    """Fingerprint of a manifest, with its counts where the very same file is still there."""
    fingerprint = PackagedManifest(role=role, sha256=digest)
    try:
        # An empty path is the current folder, which is no manifest.
        manifest = read_manifest(Path(path or ""), require_text=False, check_files=False)
    except RequestError:
        return fingerprint
    if digest not in (None, manifest.sha256):
        return fingerprint
    return PackagedManifest(
        role=role,
        sha256=manifest.sha256,
        utterances=len(manifest),
        with_text=sum(item.text is not None for item in manifest.utterances),
        seconds=round(seconds_of(manifest.utterances), 1) or None,
        speakers=len({item.speaker for item in manifest.utterances if item.speaker}) or None,
    )


def _sample_clips(manifest: Path) -> tuple[Utterance, ...]:
    """The first short clips of the manifest."""
    clips: list[Utterance] = []
    for utterance in read_manifest(manifest, require_text=False).utterances:
        with suppress(AudioError):
            seconds = utterance.known_seconds or len(load_utterance(utterance)) / SAMPLE_RATE_HZ
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


def _public(record: AnyRecord, keys: tuple[str, ...], **changed: object) -> AnyRecord:
    """The record with these keys only, and with the changed values."""
    given = {key: getattr(record, key) for key in keys if key in record.model_fields_set}
    return type(record).model_validate(given | changed)


def public_run(run: RunRecord) -> RunRecord:
    """The record of a training run; manifests are named by their role only."""
    data = run.settings.get("data", {})
    named = {
        "model": run.settings.get("model", "tiny"),
        "data": {key: value for key, value in data.items() if key not in _PRIVATE_FILES},
    }
    if "parent" in run.settings.get("adapter", {}):
        # A folder of this machine; `lineage` has its fingerprint.
        named["adapter"] = {k: v for k, v in run.settings["adapter"].items() if k != "parent"}
    rest = {key: value for key, value in run.settings.items() if key not in named}
    lineage = [_public(item, _PARENT_KEYS) for item in run.lineage]
    return _public(
        run,
        _RUN_KEYS,
        base=public_base(run.base),
        **({"lineage": lineage} if lineage else {}),
        settings=_without_paths(named | rest),
        **_public_voices(run),
        platform={key: run.platform[key] for key in ("system", "arch") if key in run.platform},
    )


def _public_voices(record: EvaluationRecord | RunRecord) -> dict[str, object]:
    """Whose voices a score is for, without their names."""
    return {"voices": record.voices.without_names} if record.voices else {}


def public_base(base: BaseModelRecord) -> BaseModelRecord:
    """The identity of the base model."""
    return _public(base, _BASE_KEYS, name=public_name(base.name or "unknown"))


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
    return mask_secrets(public_name(value), values={}) if isinstance(value, str | Path) else value
