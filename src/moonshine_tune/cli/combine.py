"""`moonshine-tune combine`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, number, refuse, show, table
from moonshine_tune.cli.options import DeviceOption, NormalizerOption, OutFolder
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.training.combine import CombineResult
    from moonshine_tune.training.selection import Candidate

_EXAMPLE = (
    "Example: moonshine-tune combine runs/voice runs/words --dev voice.jsonl --dev words.jsonl "
    "--canary general.jsonl --out runs/both"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("combine", epilog=_EXAMPLE)(combine)


def combine(
    adapters: Annotated[
        list[Path], Argument(help="Run or adapter folders of one base model, 2 to 4.")
    ],
    out: OutFolder,
    dev: Annotated[
        list[Path] | None,
        Option(help="Development manifest; once for each domain [default: those of the runs]."),
    ] = None,
    canary: Annotated[
        Path | None,
        Option(
            help="General speech; rejects strengths that get worse on it [default: that of the "
            "runs]."
        ),
    ] = None,
    strengths: Annotated[
        str | None,
        Option(help="Of each adapter, in their order: 1,0.5 [default: chosen on dev]."),
    ] = None,
    canary_bound: Annotated[
        float | None,
        Option(min=0, help="Points that the canary may lose [default: select.canary_bound]."),
    ] = None,
    model: Annotated[
        str | None, Option(help="Base model [default: the one that the adapters name].")
    ] = None,
    normalizer: NormalizerOption = None,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Combine adapters of one base into one, such as a voice and a vocabulary.

    Their effects are added, each with a strength that is chosen on dev.
    """
    from moonshine_tune.runs.records import BETTER
    from moonshine_tune.training.combine import CombineRequest
    from moonshine_tune.training.combine import combine as run_combine

    request = CombineRequest(
        adapters=tuple(adapters),
        dev=tuple(dev or ()),
        canary=canary,
        model=model,
        device=device,
        normalizer=normalizer,
        canary_bound=canary_bound,
        strengths=_numbers(strengths),
    )
    result = run_combine(request, out, TerminalProgress())
    document = {"run": str(result.run), "adapter": str(result.adapter)} | result.to_json()
    voices = {"voices": result.voices.to_json()} if result.voices else {}
    show(_summary(result), document | voices | {"remarks": result.remarks}, as_json=as_json)
    refuse(result.verdict != BETTER)


def _numbers(text: str | None) -> tuple[float, ...]:
    """The numbers of a list with commas."""
    try:
        return tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise RequestError(
            f"--strengths {text}: not a list of numbers", hint="such as: --strengths 1,0.5"
        ) from error


# What to do about a sum that should not be used, by the verdict.
_ADVICE = {
    "no better than one of the adapters alone": "use that one",
    "no better than the base": "do not use this adapter; train those that it is made of on more "
    "speech",
    "canary bound broken": "no strengths keep the canary within its bound: train the adapters with "
    "a higher retain.weight",
}


def _summary(result: "CombineResult") -> str:
    names = [item.name for item in result.combined]
    sets = list(result.baseline.dev_wers)
    several = ["mean"] if len(sets) > 1 else []
    canary = [result.best.canary_name.replace("canary", "canary WER", 1)]
    header = [*names, *sets, *several, *(canary if result.best.canary else [])]
    rows = [_row(result.baseline, len(names), "base")]
    rows += [
        _row(item, len(names), "chosen" if item == result.best else "") for item in result.tried
    ]
    lines = [
        table([*header, ""], rows),
        *([f"dev WER is {result.voices.sentence}"] if result.voices else []),
        "chosen: " + " + ".join(f"{item.strength:g} {item.name}" for item in result.combined),
        f"adapter: {result.adapter}",
    ]
    run = quoted(result.run)
    if advice := _ADVICE.get(result.verdict):
        lines.append(f"{result.verdict}; {advice}")
    else:
        lines.append(f"next: moonshine-tune evaluate --adapter {run} --manifest test.jsonl")
    return "\n".join(lines)


def _row(item: "Candidate", num_parts: int, mark: str) -> list[str]:
    strengths = [f"{value:g}" for value in item.strengths] or ["0"] * num_parts
    wers = [number(value) for value in item.dev_wers.values()]
    several = [number(item.dev_wer)] if len(wers) > 1 else []
    canary = [number(item.canary_wer)] if item.canary else []
    return [*strengths, *wers, *several, *canary, mark]
