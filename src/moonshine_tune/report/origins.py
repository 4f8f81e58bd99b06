"""Where a result came from: settings with their sources, versions, and how to get it again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from moonshine_tune.config.settings import RunSettings
from moonshine_tune.core.nested import flatten
from moonshine_tune.report.reading import ReportInput, RunPart, mapping, sequence
from moonshine_tune.report.tables import Cell, Column, Table, short, text_cell

_MAX_ROWS = 300
_COMMANDS = ("train", "demo", "plan", "ablate")


@dataclass(frozen=True)
class ReproductionStep:
    """How to get the result again: a command, and the file it needs, if any."""

    title: str
    command: str
    file_name: str = ""
    file_text: str = ""


@dataclass(frozen=True)
class Origins:
    """Everything about the circumstances."""

    settings: Table | None
    defaults: Table | None
    facts: Table | None
    versions: Table | None
    recipes: tuple[ReproductionStep, ...]
    remarks: tuple[str, ...]


def origins_of(report_input: ReportInput) -> Origins:
    """From run.json, or from result.json where there is no run."""
    record = report_input.run.record if report_input.run else {}
    record = record or report_input.benchmark
    chosen, defaults = _settings(record)
    return Origins(
        settings=chosen,
        defaults=defaults,
        facts=_facts(report_input, record),
        versions=_versions(record),
        recipes=_recipes(report_input),
        remarks=tuple(short(str(remark)) for remark in sequence(record.get("remarks")))[:20],
    )


def _settings(record: Mapping[str, Any]) -> tuple[Table | None, Table | None]:
    """Settings with value, source and meaning: those that someone chose, and the defaults."""
    leaves = list(flatten(mapping(record.get("settings"))))[:_MAX_ROWS]
    sources, meanings = mapping(record.get("sources")), dict(_meanings(RunSettings))
    chosen: list[tuple[Cell, ...]] = []
    defaults: list[tuple[Cell, ...]] = []
    for name, value in leaves:
        source = str(sources.get(name, "default"))
        row = (
            text_cell(name, "code"),
            text_cell(_value_text(value), "code"),
            text_cell(source, "quiet" if source == "default" else ""),
            text_cell(meanings.get(name, ""), "quiet"),
        )
        (defaults if source == "default" else chosen).append(row)
    columns = (Column("Setting"), Column("Value"), Column("From"), Column("Meaning", "aside"))
    return (
        Table("Settings", columns, tuple(chosen)) if chosen else None,
        Table("Settings left at their defaults", columns, tuple(defaults)) if defaults else None,
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


def _facts(report_input: ReportInput, record: Mapping[str, Any]) -> Table | None:
    """Base model, device, data fingerprints: what was chosen or found, with the reason."""
    rows: list[tuple[str, object, object]] = [
        ("made", record.get("created"), ""),
        ("base model", mapping(record.get("base")).get("name"), _model_detail(record)),
        *((name, mapping(record.get(name)).get("name"), mapping(record.get(name)).get("reason"))
          for name in ("device", "dtype")),
        ("normalizer", record.get("normalizer"), ""),
        ("seed", record.get("seed"), ""),
        ("adapter", _adapter_text(mapping(record.get("adapter"))), ""),
    ]  # fmt: skip
    rows += [(f"data: {k}", f"sha256 {v}", "") for k, v in mapping(record.get("data")).items()]
    commit = mapping(record.get("git")).get("commit")
    dirty = (
        "with changes that were not committed" if mapping(record.get("git")).get("dirty") else ""
    )
    rows.append(("code", commit, dirty))
    if report_input.kind == "evaluation":
        result = report_input.evaluations[0].result
        names = ("model", "adapter", "backend", "normalizer", "audio_seconds", "seconds")
        rows += [(name.replace("_", " "), result.get(name), "") for name in names]
        rows.append(("manifest", _prefixed(result.get("manifest_sha256")), ""))
    cells = tuple(
        (text_cell(name), Cell(short(str(value)), detail=short(str(detail or "")), kind="code"))
        for name, value, detail in rows[:_MAX_ROWS]
        if value is not None
    )
    if not cells:
        return None
    return Table("Circumstances", (Column("What"), Column("Value")), cells, sortable=False)


def _prefixed(fingerprint: object) -> str | None:
    return f"sha256 {fingerprint}" if isinstance(fingerprint, str) else None


def _model_detail(record: Mapping[str, Any]) -> str:
    base = mapping(record.get("base"))
    return " · ".join(str(base[key]) for key in ("family", "source", "revision") if base.get(key))


def _adapter_text(adapter: Mapping[str, Any]) -> str | None:
    modules, parameters = adapter.get("modules"), adapter.get("parameters")
    if not isinstance(parameters, int):
        return None
    return f"{parameters:,} parameters in {modules} modules"


def _versions(record: Mapping[str, Any]) -> Table | None:
    found = [(k, v) for k, v in mapping(record.get("versions")).items() if v is not None]
    platform = " ".join(str(value) for value in mapping(record.get("platform")).values())
    found += [("platform", platform)] if platform else []
    if not found:
        return None
    rows = tuple((text_cell(name), text_cell(value, "code")) for name, value in found[:_MAX_ROWS])
    return Table("Versions", (Column("Package"), Column("Version")), rows, sortable=False)


def _recipes(report_input: ReportInput) -> tuple[ReproductionStep, ...]:
    found: list[ReproductionStep] = []
    if report_input.kind == "plan":
        found += _of_plan(report_input.demo)
    if report_input.run is not None and report_input.run.record:
        found += _of_run(report_input.run, report_input.kind)
    if report_input.kind == "evaluation":
        found.append(_of_evaluation(report_input.evaluations[0].result))
    return tuple(found)


def _of_plan(plan: Mapping[str, Any]) -> Iterator[ReproductionStep]:
    """The plan's file again: what is done in its folder stays done."""
    settings = mapping(mapping(plan.get("plan")).get("settings"))
    if settings:
        text = yaml.safe_dump(_told(settings), sort_keys=False, allow_unicode=True)
        yield ReproductionStep(
            "The whole plan",
            "moonshine-tune plan run plan.yaml --out plan-out",
            "plan.yaml",
            short(text, 20_000),
        )


def _told(value: Any, inside: str = "") -> Any:
    """Without what was not said; a gate that was set to off is said."""
    if isinstance(value, dict):
        off = "off" if inside == "gates" else None
        filled = {k: off if v is None else _told(v, str(k)) for k, v in value.items()}
        return {k: v for k, v in filled.items() if v is not None and v != {} and v != []}
    return [_told(item) for item in value] if isinstance(value, list) else value


def _of_run(run: RunPart, kind: str) -> Iterator[ReproductionStep]:
    words = [str(word) for word in sequence(run.record.get("command"))]
    # A run that was started from Python has that program's words here, which are no command.
    if len(words) > 1 and words[1] in _COMMANDS:
        what = {"demo": "demonstration", "plan": "plan's training"}.get(kind, "run")
        yield ReproductionStep(f"The command of this {what}", short(shlex.join(words), 4000))
    settings = run.record.get("settings")
    if isinstance(settings, dict) and settings:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        yield ReproductionStep(
            "Training again, from its settings alone",
            "moonshine-tune train --config settings.yaml --out runs/again",
            "settings.yaml",
            short(text, 20_000),
        )


def _of_evaluation(result: Mapping[str, Any]) -> ReproductionStep:
    """Put together from what result.json says; names in capitals are the reader's to fill in."""
    model, adapter = str(result.get("model", "MODEL")), result.get("adapter")
    words = ["moonshine-tune", "evaluate"]
    if result.get("backend") == "runtime":
        words += ["--runtime-dir", model]
    else:
        words += ["--model", model]
        words += ["--adapter", str(adapter)] if adapter else []
    words += ["--manifest", "MANIFEST"]
    words += ["--normalizer", str(result["normalizer"])] if result.get("normalizer") else []
    words += ["--out", "eval/again"]
    return ReproductionStep("The same evaluation again", short(shlex.join(words), 4000))
