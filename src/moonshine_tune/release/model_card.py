"""The model card: metadata for a model hub and a text, both filled from what was recorded.

What was not measured is named as such.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from moonshine_tune import __version__
from moonshine_tune.registry.catalog import ModelRecord, lookup_model
from moonshine_tune.release.inputs import PackageInputs, comparable

_UNSAFE = re.compile(r"[\r\n|`<>]+")
_TASK = "automatic-speech-recognition"
_CARD = "---\n{{ card_data }}\n---\n\n{{ body }}"


def model_card(inputs: PackageInputs, name: str, architecture: str) -> str:
    """The text of README.md.

    Args:
        name: the package's name.
        architecture: the runtime's name of the architecture, such as TINY.
    """
    run = inputs.run
    settings, result = run.get("settings") or {}, run.get("result") or {}
    benchmark = inputs.benchmark or {}
    record = lookup_model(str(run["base"]["name"]))
    words = [evaluation.get("reference_words") or 0 for evaluation in inputs.evaluations.values()]
    versions = run.get("versions") or {}
    body = render(
        "model_card.md",
        name=cell(name),
        base=run["base"],
        record=record,
        version=__version__,
        architecture=architecture,
        accuracy=_accuracy_rows(inputs.evaluations),
        baseline=result.get("baseline") or {},
        best=result.get("best") or {},
        canary_bound=(settings.get("select") or {}).get("canary_bound"),
        canary_held=result.get("canary_held"),
        benchmark=benchmark,
        machine=benchmark.get("machine") or {},
        speed=_speed_rows(benchmark),
        parity=(inputs.export or {}).get("parity") or {},
        data=[_data_row(manifest) for manifest in inputs.manifests],
        num_samples=len(inputs.sample),
        settings=[
            (f"{section}.{key}", value)
            for section in ("adapter", "train", "retain")
            for key, value in (settings.get(section) or {}).items()
        ],
        versions=", ".join(
            cell(f"{package} {versions[package]}")
            for package in ("python", "torch", "transformers", "peft", "moonshine-voice")
            if versions.get(package)
        ),
        max_clip_s=(settings.get("data") or {}).get("max_clip_s"),
        fewest_words=min(words, default=None),
        status=run.get("status", "–"),
    )
    card = ModelCard.from_template(
        _metadata(inputs, cell(name), record), template_str=_CARD, body=body
    )
    return str(card)


def render(template: str, **values: Any) -> str:
    """A file of `templates/`, filled in; a value that the template lacks is an error."""
    environment = Environment(
        loader=PackageLoader("moonshine_tune.release"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "number": _number, "table": _table}
    return environment.get_template(template).render(values)


def cell(value: object) -> str:
    """A value that cannot break a line, a table or a code block of a Markdown text."""
    return _UNSAFE.sub(" ", str(value)).strip()


def _table(rows: Sequence[Sequence[object]], *headers: str) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _interval(value: object) -> str:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return "–"
    return f"{_number(value[0])}–{_number(value[1])}"


def _metadata(inputs: PackageInputs, name: str, record: ModelRecord | None) -> ModelCardData:
    results = [
        EvalResult(
            task_type=_TASK,
            # The hub groups results by type and revision; a name is unique in a package.
            dataset_type=title,
            dataset_name=title,
            dataset_revision=evaluation.get("manifest_sha256"),
            metric_type=metric,
            metric_value=evaluation[metric],
            metric_name=f"{metric.upper()} ({evaluation.get('normalizer', 'unknown normalizer')})",
        )
        for title, evaluation in inputs.evaluations.items()
        for metric in ("wer", "cer")
        if evaluation["of"] == "adapted" and evaluation.get(metric) is not None
    ]
    known = {} if record is None else {
        "language": record.language,
        "license": "mit" if record.licence == "MIT" else "other",
        "base_model": record.hub_ids[0] if record.hub_ids else None,
    }  # fmt: skip
    return ModelCardData(
        library_name="peft",
        pipeline_tag=_TASK,
        tags=["moonshine", "lora", "speech-recognition"],
        model_name=name if results else None,
        eval_results=results or None,
        **known,
    )


def _accuracy_rows(evaluations: Mapping[str, Mapping[str, Any]]) -> list[list[object]]:
    """One row for each adapted evaluation, and for each of the base that none of them shows."""
    rows: list[list[object]] = []
    shown = [comparable(each) for each in evaluations.values() if each["of"] == "adapted"]
    for name, evaluation in evaluations.items():
        is_base = evaluation["of"] == "base"
        if is_base and comparable(evaluation) in shown:
            continue
        base = evaluation if is_base else evaluation.get("base") or {}
        adapted = {} if is_base else evaluation
        rows.append([
            name,
            evaluation.get("backend", "–"),
            _number(base.get("wer")),
            _interval(base.get("ci95")),
            _number(adapted.get("wer")),
            _interval(adapted.get("ci95")),
            evaluation.get("utterances", "–"),
            evaluation.get("reference_words", "–"),
            evaluation.get("normalizer", "–"),
            str(evaluation.get("manifest_sha256", "–"))[:12],
        ])  # fmt: skip
    return rows


def _speed_rows(benchmark: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory, stream = benchmark.get("memory_mb") or {}, benchmark.get("stream")
    ratio = (benchmark.get("ratios") or {}).get("latency")
    rows = [
        ("load, ms", _times(benchmark.get("load_ms"))),
        ("latency of a clip, ms", _times(benchmark.get("latency_ms"))),
    ]
    for band in benchmark.get("by_length", []):
        upper = "" if band.get("to_s") is None else f"{band['to_s']:g}"
        rows.append((f"clips of {band['from_s']:g}–{upper} s, ms", _times(band.get("latency_ms"))))
    if stream:
        rows.append(("end of speech to final text, ms", _times(stream.get("final_ms"))))
    rows += [
        ("real-time factor", _number(benchmark.get("rtf"), 4)),
        ("peak memory of a fresh process, MB", _number(memory.get("peak"), 0)),
        ("files, MB", _number(benchmark.get("total_bytes", 0) / 1e6, 1)),
    ]
    if ratio:
        interval = _interval(ratio.get("ci95"))
        rows.append(
            ("latency ratio to the compared folder", f"{_number(ratio['ratio'], 3)} ({interval})")
        )
    return rows


def _times(spread: object) -> str:
    if not isinstance(spread, Mapping):
        return "–"
    return " / ".join(_number(spread.get(key), 0) for key in ("median", "p95", "max"))


def _data_row(manifest: Mapping[str, Any]) -> list[object]:
    seconds = manifest.get("seconds")
    return [
        manifest["role"],
        manifest.get("utterances", "–"),
        "–" if seconds is None else f"{seconds / 60:.1f}",
        manifest.get("speakers") or "–",
        manifest.get("sha256") or "–",
    ]
