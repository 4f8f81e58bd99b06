"""Write a commented plan file from a few answers."""

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from string import Template

from moonshine_tune.core.errors import ProblemsError, RequestError
from moonshine_tune.core.files import holds_out, write_text_atomic
from moonshine_tune.core.yaml import parse_yaml
from moonshine_tune.plan.schema import check_plan

_PILOT_PRESETS = {"medium": "medium-pilot", "streaming-medium": "medium-pilot"}
_ROLES = {
    "train": "",
    "test": "judges the result; no choice is made on it",
    "dev": "chooses the best adapter; without it, speakers are held out of train",
    "canary": "general speech that must not get worse",
    "replay": "general speech, a manifest or a folder without transcripts; without it: auto",
}


@dataclass(frozen=True)
class PlanAnswers:
    """What a plan file is made from: its model, its manifests and the bounds of its gates.

    Paths are relative to the plan file; None leaves a line out.
    """

    model: str = "medium"
    train: str = "data/train.jsonl"
    test: str = "data/test.jsonl"
    dev: str | None = None
    canary: str | None = None
    replay: str | None = None
    hours: float = 10.0
    canary_points: float = 2.0
    p95_ms: float = 1000.0
    peak_memory_mb: float = 2000.0


@holds_out(lambda path, answers: path)
def write_plan(path: Path, answers: PlanAnswers) -> None:
    """Write the plan file.

    Raises:
        RequestError: the file exists.
        ProblemsError: a manifest does not exist, or a bound makes no sense.
    """
    if path.exists():
        raise RequestError("the plan file exists", where=path, hint="choose another file name")
    text = plan_text(answers)
    try:
        check_plan(parse_yaml(text), source=path.name, folder=path.absolute().parent)
    except ProblemsError as error:
        raise ProblemsError(
            "no plan was written",
            error.problems,
            hint="paths are relative to the plan file; make manifests with: "
            "moonshine-tune data import, then data split",
        ) from error
    write_text_atomic(path, text, replace=False)


def plan_text(answers: PlanAnswers) -> str:
    """The content of the plan file, with a comment for each choice."""
    given = {key: _quoted(value) for key, value in asdict(answers).items() if value is not None}
    lines = []
    for role, purpose in _ROLES.items():
        line = f"  {role}: {given[role]}" if role in given else f"  # {role}: …"
        lines.append(f"{line}        # {purpose}" if purpose else line)
    file = resources.files("moonshine_tune.plan") / "template.yaml"
    return Template(file.read_text(encoding="utf-8")).substitute(
        given,
        name=_quoted(f"Adapt {answers.model}"),
        preset=_PILOT_PRESETS.get(answers.model, "tiny"),
        data="\n".join(lines),
    )


def _quoted(value: str | float) -> str:
    """As YAML: JSON strings are YAML too."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value:g}"
