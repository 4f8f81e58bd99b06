"""`moonshine-tune demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table

if TYPE_CHECKING:
    from moonshine_tune.demo.run import DemoResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: moonshine-tune demo --out demo-out")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="New folder for everything it makes.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int, typer.Option(help="Seed of sentences, voices and training.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Adapt the real tiny model to air-traffic phraseology and prove it, in a few minutes."""
    from moonshine_tune.demo.run import demo as run_demo

    result = run_demo(out, TerminalProgress(), seed=seed)
    show(_summary(result), result.to_record(), as_json=as_json)
    refuse(not result.passed)


def _summary(result: "DemoResult") -> str:
    rows = []
    for what in ("domain", "canary"):
        for backend in ("torch", "runtime"):
            cells = [f"{what}, {backend}"]
            for model in ("base", "adapted"):
                score = result.scores[what, model, backend].score
                cells.append(f"{score.wer:.2f} [{score.ci95[0]:.1f}–{score.ci95[1]:.1f}]")
            rows.append(cells)
    gates = [
        f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.figure} (asked: {gate.bound})"
        for gate in result.gates
    ]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    return "\n".join(
        [
            table([f"WER % ({result.normalizer})", "base", "adapted"], rows),
            "",
            *gates,
            "",
            f"{times}; peak memory {result.peak_memory_mb} MB",
            f"adapter:       {result.adapter}",
            f"runtime files: {result.runtime_dir}",
            f"run folder:    {result.run}",
            f"look at it:    moonshine-tune report {result.run.parent}",
        ]
    )
