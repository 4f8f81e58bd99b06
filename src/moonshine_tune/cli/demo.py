"""`moonshine-tune demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.runs.records import DemoRecord


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: moonshine-tune demo --out demo-out")(demo)


def demo(
    out: Annotated[Path, Option(file_okay=False, help="New folder for all results.")] = Path(
        "demo-out"
    ),
    seed: Annotated[int, Option(help="Seed of sentences, voices and training.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Adapt the real tiny model to air-traffic phraseology and prove it, in a few minutes."""
    from moonshine_tune.demo.run import demo as run_demo

    record = run_demo(out, TerminalProgress(), seed=seed)
    show(_summary(record, out), record.to_json(), as_json=as_json)
    refuse(not all(gate.holds for gate in record.gates))


def _summary(record: "DemoRecord", out: Path) -> str:
    from moonshine_tune.demo.data import HUMAN_CANARY

    rows = []
    for name, scores in (("domain", record.domain), ("canary", record.canary)):
        for backend in ("torch", "runtime"):
            clips = scores["adapted"][backend].utterances
            which = f" ({HUMAN_CANARY}, {clips} clips)" if name == "canary" else ""
            cells = [f"{name}{which}, {backend}"]
            for side in ("base", "adapted"):
                score = scores[side][backend]
                low, high = score.ci95 or (0.0, 0.0)
                cells.append(f"{score.wer:.2f} [{low:.1f}–{high:.1f}]")
            rows.append(cells)
    gates = [
        f"{gate.word}  {gate.name}: {gate.figure} (required: {gate.bound})" for gate in record.gates
    ]
    times = ", ".join(f"{name} {value:.0f} s" for name, value in record.seconds.items())
    return "\n".join(
        [
            table([f"WER % ({record.normalizer})", "base", "adapted"], rows),
            "",
            *gates,
            "",
            f"{times}; peak memory {record.peak_memory_mb} MB",
            f"adapter:       {record.adapter}",
            f"runtime files: {record.runtime_dir}",
            f"run folder:    {record.run}",
            f"look at it:    moonshine-tune report {quoted(out)}",
        ]
    )
