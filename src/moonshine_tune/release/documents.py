"""The texts of a package, filled from what was recorded: the model card, and `reproduce/`.

The card names what was not measured as such.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from moonshine_tune import __version__
from moonshine_tune.registry.catalog import ModelRecord, lookup_model
from moonshine_tune.release.inputs import MANIFEST_ROLES, PackageInputs, comparable
from moonshine_tune.runs.records import EvaluationRecord, ExportRecord
from moonshine_tune.runs.side_by_side import SYSTEMS, SideBySide, side_by_side

# What ends a line, a cell or a code block, starts HTML, or acts on a terminal that shows the file.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069|`<>]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TASK = "automatic-speech-recognition"
_CARD = "---\n{{ card_data }}\n---\n\n{{ body }}"


def model_card(inputs: PackageInputs, name: str, architecture: str) -> str:
    """The text of README.md.

    Args:
        name: the package's name.
        architecture: the runtime's name of the architecture, such as TINY.
    """
    run, settings = inputs.run, inputs.run.settings
    base_model = lookup_model(str(run.base.name))
    compared = {comparable(evaluation) for evaluation in inputs.evaluations.values()}
    words = [
        evaluation.reference_words or 0
        for evaluation in (inputs.evaluations | inputs.base_evaluations).values()
    ]
    voices = [*(evaluation.voices for evaluation in inputs.evaluations.values()), run.voices]
    packages = ("python", "torch", "transformers", "peft", "moonshine-voice")
    body = _render(
        "model_card.md",
        name=name,
        run=run,
        is_full=_is_full(inputs),
        base_model=base_model,
        version=__version__,
        architecture=architecture,
        evaluations=inputs.evaluations,
        base_only={
            title: each
            for title, each in inputs.base_evaluations.items()
            if comparable(each) not in compared
        },
        metrics=[
            (title, metric_name, metric)
            for title, each in inputs.evaluations.items()
            for metric_name, metric in each.metrics.items()
            if metric.value is not None
        ],
        sets=_side_by_side(inputs),
        titles=SYSTEMS,
        result=run.result,
        altered=inputs.altered,
        canary_bound=settings.get("select", {}).get("canary_bound"),
        benchmark=inputs.benchmark,
        parity=inputs.export and inputs.export.parity,
        manifests=inputs.manifests,
        num_aliases=len(inputs.aliases.aliases) if inputs.aliases else 0,
        num_samples=len(inputs.sample),
        versions=", ".join(
            f"{p} {_cell(run.versions[p])}" for p in packages if run.versions.get(p)
        ),
        max_clip_s=settings.get("data", {}).get("max_clip_s"),
        fewest_words=min(words, default=None),
        synthetic=run.synthetic.sentence if run.synthetic else "",
        pseudo_labels=run.pseudo_labels.sentence if run.pseudo_labels else "",
        known_voices=next((each.sentence for each in voices if each), ""),
    )
    metadata = _metadata(inputs.evaluations, name, base_model)
    if _is_full(inputs):
        # PEFT cannot load it.
        metadata.library_name = None
        metadata.tags = [tag for tag in metadata.tags or () if tag != "lora"]
    return str(ModelCard.from_template(metadata, template_str=_CARD, body=body))


def _is_full(inputs: PackageInputs) -> bool:
    """Whether the run was full fine-tuning."""
    return bool(inputs.run.settings.get("adapter", {}).get("kind") == "full")


def _side_by_side(inputs: PackageInputs) -> tuple[SideBySide, ...]:
    """The sets that torch and the runtime scored, those of the run by their role."""
    scored = [
        *((title, "adapted", each) for title, each in inputs.evaluations.items()),
        *((title, "base", each) for title, each in inputs.base_evaluations.items()),
    ]
    roles = {digest: role for role, digest in inputs.run.data.items() if digest}
    return side_by_side(scored, roles)


def _metadata(
    evaluations: Mapping[str, EvaluationRecord], name: str, base: ModelRecord | None
) -> ModelCardData:
    results = [
        EvalResult(
            task_type=_TASK,
            # The hub groups results by type and revision; a title is unique in a package.
            dataset_type=title,
            dataset_name=title,
            dataset_revision=evaluation.manifest_sha256 or None,
            metric_type=metric,
            metric_value=value,
            metric_name=f"{metric.upper()} ({evaluation.normalizer or 'unknown normalizer'})",
        )
        for title, evaluation in evaluations.items()
        for metric, value in (("wer", evaluation.wer), ("cer", evaluation.cer))
        if value is not None
    ]
    data = ModelCardData(
        library_name="peft",
        pipeline_tag=_TASK,
        tags=["moonshine", "lora", "speech-recognition"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    if base is not None:
        data.language = base.language
        data.license = "mit" if base.license == "MIT" else "other"
        data.base_model = base.hub_ids[0] if base.hub_ids else None
    return data


def reproduce_files(inputs: PackageInputs) -> dict[str, str]:
    """The texts of the files in `reproduce/` by name."""
    run, benchmark = inputs.run, inputs.benchmark
    evaluations = inputs.evaluations | inputs.base_evaluations
    roles = [role for role in MANIFEST_ROLES if role in run.data]
    # No file of the user: the word makes it again.
    made = bool(run.replay and run.replay.kind in ("auto", "hub"))
    digests = dict.fromkeys(record.manifest_sha256 for record in evaluations.values())
    if benchmark is not None:
        digests[benchmark.manifest_sha256] = None
    recorded = [digest for digest in digests if _SHA256.fullmatch(digest)]
    tests = {digest: f"TEST_{number}" for number, digest in enumerate(recorded, start=1)}
    readme = _render(
        "reproduce.md",
        inputs=inputs,
        run=run,
        model=run.settings["model"],
        roles=roles,
        made=made,
        # Shell variables: only a digest of the right form may stand beside one.
        manifests={
            role.upper(): _digest(run.data[role])
            for role in roles
            if not (role == "replay" and made)
        }
        | {variable: digest for digest, variable in tests.items()},
        tests=tests,
        export=inputs.export or ExportRecord(),
        evaluations=evaluations,
        benchmark=benchmark,
    )
    settings = yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True)
    return {"README.md": readme, "settings.yaml": settings}


def _digest(text: str | None) -> str | None:
    return text if text and _SHA256.fullmatch(text) else None


def _render(template: str, **values: Any) -> str:
    """A file of `templates/`, filled in; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("moonshine_tune.release"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "cell": _cell, "number": _number, "interval": _interval, "times": _times, "quote": _quote,
    }  # fmt: skip
    return environment.get_template(template).render(values)


def _cell(value: object) -> str:
    """A value that cannot be a link, or break a line, a table or a code block of Markdown."""
    if value in (None, ""):
        return "–"
    # An image would be fetched by whoever opens the card.
    return _UNSAFE.sub(" ", str(value)).replace("](", "] (").strip()


def _quote(value: object) -> str:
    return shlex.quote(_cell(value))


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _interval(value: object, between: str = "–") -> str:
    return between.join(map(_number, value)) if isinstance(value, tuple) else "–"


def _times(spread: Mapping[str, object]) -> str:
    return " / ".join(_number(spread.get(key), 0) for key in ("median", "p95", "max"))
