"""How a result was made: settings with sources, versions, and the commands to reproduce it."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.nested import flatten
from moonshine_tune.report.cells import short
from moonshine_tune.report.reading import ReportInput
from moonshine_tune.runs.records import EvaluationRecord, RunRecord
from moonshine_tune.runtime.formats import SHERPA_ONNX

_MAX_COMMAND = 4_000
_MAX_ROWS = 300
_Setting = tuple[str, str, str, str]
_COMMANDS = ("train", "combine", "demo", "plan", "ablate")


@dataclass(frozen=True)
class ReproductionStep:
    """A command that makes the result again, and the file it needs, if any."""

    title: str
    command: str
    file_name: str = ""
    file_text: str = ""


@dataclass(frozen=True)
class Origins:
    """Everything about how a result was made.

    Attributes:
        chosen, defaults: settings with value, source and meaning.
        facts: name, value and a detail of each circumstance.
        versions: of packages, and of the platform.
    """

    chosen: tuple[_Setting, ...]
    defaults: tuple[_Setting, ...]
    facts: tuple[tuple[str, object, str | None], ...]
    versions: tuple[tuple[str, str], ...]
    steps: tuple[ReproductionStep, ...]
    remarks: tuple[str, ...]


def origins_of(report_input: ReportInput) -> Origins:
    """From run.json, or from benchmark.json or result.json where there is no run."""
    run, bench = report_input.run, report_input.benchmark
    record = run.record if run else RunRecord()
    if record.is_empty and bench is not None:
        record = RunRecord(versions=bench.versions, remarks=bench.remarks)
    meanings = dict(_meanings(RunSettings))
    settings = [
        (name, _value_text(value), record.sources.get(name, "default"), meanings.get(name, ""))
        for name, value in list(flatten(record.settings))[:_MAX_ROWS]
    ]
    versions = [(name, value) for name, value in record.versions.items() if value is not None]
    if record.platform:
        versions.append(("platform", " ".join(record.platform.values())))
    return Origins(
        chosen=tuple(setting for setting in settings if setting[2] != "default"),
        defaults=tuple(setting for setting in settings if setting[2] == "default"),
        facts=_facts(report_input, record),
        versions=tuple(versions[:_MAX_ROWS]),
        steps=tuple(_steps(report_input)),
        remarks=tuple(short(remark) for remark in record.remarks[:20]),
    )


def _meanings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The description of each setting, by its dotted name."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _meanings(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def _value_text(value: object) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _facts(
    report_input: ReportInput, record: RunRecord
) -> tuple[tuple[str, object, str | None], ...]:
    """Base model, device, data fingerprints: what was chosen or found, with the reason."""
    base, git, adapter = record.base, record.git or {}, record.adapter
    size = None
    if "parameters" in adapter:
        size = f"{adapter['parameters']:,} parameters in {adapter.get('modules')} modules"
    rows: list[tuple[str, object, str | None]] = [
        ("made", record.created, ""),
        ("base model", base.name, " · ".join(
            filter(None, (base.family, base.source, base.revision)))),
        *((name, choice.get("name"), choice.get("reason"))
          for name, choice in (("device", record.device), ("dtype", record.dtype))),
        ("normalizer", record.normalizer, ""),
        ("seed", record.seed, ""),
        ("adapter", size, ""),
        *_origins(record),
        ("synthetic speech", record.synthetic and record.synthetic.sentence, ""),
        ("pseudo-labels", record.pseudo_labels and record.pseudo_labels.sentence, ""),
        ("against the base on dev", record.result.gain and record.result.gain.sentence, ""),
        ("where the time went", record.result.time_sentence, ""),
        *((f"data: {name}", f"sha256 {digest}", "") for name, digest in record.data.items()),
        ("code", git.get("commit"), "with uncommitted changes" if git.get("dirty") else ""),
    ]  # fmt: skip
    if report_input.kind == "evaluation":
        scored = report_input.evaluations[0].result
        rows += [
            ("model", scored.model, ""),
            ("adapter", scored.adapter, ""),
            ("backend", scored.backend, ""),
            ("normalizer", scored.normalizer, ""),
            ("audio seconds", scored.audio_seconds, ""),
            ("seconds", scored.seconds, ""),
            ("manifest", scored.manifest_sha256 and f"sha256 {scored.manifest_sha256}", ""),
        ]
    return tuple(row for row in rows[:_MAX_ROWS] if row[1] not in (None, ""))


def _origins(record: RunRecord) -> list[tuple[str, object, str | None]]:
    """The adapters that a run goes back to."""
    if parts := record.result.combined:
        return [("sum of", item.name, f"strength {item.strength:g}, adapter "
                 f"{item.adapter_sha256[:12]}") for item in parts]  # fmt: skip
    return [
        ("started at" if number == 1 else f"{number} runs back", item.path or "an adapter",
         item.summary)
        for number, item in enumerate(record.lineage, start=1)
    ]  # fmt: skip


def _steps(report_input: ReportInput) -> Iterator[ReproductionStep]:
    plan, run = report_input.summary.plan, report_input.run
    if plan.settings:
        command = "moonshine-tune plan run plan.yaml --out plan-out"
        settings = _without_defaults(plan.settings)
        # What is done in the folder of the plan stays done.
        yield _yaml_step("The whole plan", command, "plan.yaml", settings)
    words = run.record.command if run else []
    # A run that was started from Python has that program's words here, which are no command.
    if len(words) > 1 and words[1] in _COMMANDS and (typed := _command(words)):
        what = {"demo": "demonstration", "plan": "plan's training"}.get(report_input.kind, "run")
        yield ReproductionStep(f"The command of this {what}", typed)
    if run and run.record.settings and not run.record.result.combined:
        command = "moonshine-tune train --config settings.yaml --out runs/again"
        title = "Train from the settings alone"
        yield _yaml_step(title, command, "settings.yaml", run.record.settings)
    if report_input.kind == "evaluation":
        typed = _command(_evaluation_command(report_input.evaluations[0].result))
        if typed:
            yield ReproductionStep("Evaluate again", typed)


def _command(words: Sequence[str]) -> str | None:
    """A command of this program to paste into a shell; None where it cannot be shown safely.

    Quotes do not help against control characters: a terminal acts on them as they are pasted. A
    command that is cut off leaves a quotation mark open.
    """
    command = shlex.join(["moonshine-tune", *words[1:]])
    is_safe = command.isprintable() and len(command) <= _MAX_COMMAND
    return command if is_safe else None


def _yaml_step(title: str, command: str, name: str, content: Any) -> ReproductionStep:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return ReproductionStep(title, command, name, short(text, 20_000))


def _without_defaults(value: Any, inside: str = "") -> Any:
    """Without what was not set; a gate that was set to off is kept."""
    if isinstance(value, dict):
        off = "off" if inside == "gates" else None
        filled = {k: off if v is None else _without_defaults(v, str(k)) for k, v in value.items()}
        return {k: v for k, v in filled.items() if v is not None and v != {} and v != []}
    return [_without_defaults(item) for item in value] if isinstance(value, list) else value


def _evaluation_command(result: EvaluationRecord) -> list[str]:
    """From result.json; names in capitals are for the reader to fill in."""
    words = ["moonshine-tune", "evaluate"]
    words += ["--model" if result.backend in ("torch", "") else "--runtime-dir"]
    words += [result.model or "MODEL"]
    words += ["--backend", result.backend] if result.backend == SHERPA_ONNX else []
    words += ["--adapter", result.adapter] if result.adapter and "--model" in words else []
    words += ["--manifest", "MANIFEST"]
    words += ["--normalizer", result.normalizer] if result.normalizer else []
    return [*words, "--out", "eval/again"]
