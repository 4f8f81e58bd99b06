"""`moonshine-tune evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show, table
from moonshine_tune.cli.options import DeviceOption, ModelOption
from moonshine_tune.core.errors import RequestError

if TYPE_CHECKING:
    from moonshine_tune.evaluation.arms import KeyTermsTable
    from moonshine_tune.evaluation.results import ConditionScore, Evaluation

_EXAMPLE = (
    "Example: moonshine-tune evaluate --model tiny --adapter runs/a --manifest test.jsonl "
    "--out eval/a ; with --conditions noises/ --snr 20 --snr 5 also in noise"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog=_EXAMPLE)(evaluate)


def evaluate(
    manifest: Annotated[Path, typer.Option(help="Manifest with texts.")],
    model: ModelOption = "tiny",
    adapter: Annotated[
        Path | None, typer.Option(help="Run or adapter folder; the base is scored too.")
    ] = None,
    backend: Annotated[str, typer.Option(help="torch or runtime.")] = "torch",
    runtime_dir: Annotated[
        Path | None, typer.Option(help="Runtime folder of the runtime back end.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Folder of an earlier evaluation to compare with.")
    ] = None,
    normalizer: Annotated[
        str | None, typer.Option(help="english-1, spelled-1 or basic-1 [default: by language].")
    ] = None,
    keyterms: Annotated[
        Path | None,
        typer.Option(help="Terms that the runtime listens for, one a line; streaming models."),
    ] = None,
    boost: Annotated[float, typer.Option(min=0, help="How strongly it listens for them.")] = 2.0,
    base_runtime: Annotated[
        Path | None,
        typer.Option(help="Runtime folder of the base: shows adapter, key terms and both."),
    ] = None,
    device: DeviceOption = "auto",
    conditions: Annotated[
        Path | None,
        typer.Option(help="Folder or manifest of noises: score in each kind at each ratio too."),
    ] = None,
    snr: Annotated[
        list[float] | None,
        typer.Option(help="Signal-to-noise ratio, dB; repeatable [default: 20 10 5 0]."),
    ] = None,
    rooms: Annotated[
        Path | None, typer.Option(help="With --conditions: folder of room impulse responses.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for result.json and hypotheses.jsonl.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a model: WER, CER, error kinds, an interval, worst utterances, base against adapted."""
    from moonshine_tune.evaluation.evaluate import EvaluateRequest
    from moonshine_tune.evaluation.evaluate import evaluate as run_evaluation
    from moonshine_tune.evaluation.noise_conditions import SNRS_DB, ConditionsRequest

    if conditions is None and (snr or rooms):
        raise RequestError(
            "--snr and --rooms belong to --conditions", hint="name noises: --conditions FOLDER"
        )
    request = EvaluateRequest(
        manifest=manifest,
        model=model,
        adapter=adapter,
        backend="runtime" if runtime_dir and backend == "torch" else backend,
        runtime_dir=runtime_dir,
        compare=compare,
        normalizer=normalizer,
        device=device,
        conditions=ConditionsRequest(conditions, rooms, tuple(snr or SNRS_DB))
        if conditions
        else None,
        keyterms=keyterms,
        boost=boost,
        base_runtime=base_runtime,
    )
    result = run_evaluation(request, out, TerminalProgress())
    show(summary(result), result.to_record(), as_json=as_json)


def summary(result: "Evaluation") -> str:
    """The evaluation for people."""
    score, words = result.score, result.score.words
    rows = [["adapted" if result.base else "model", f"{score.wer:.2f}",
             f"{score.ci95[0]:.2f}–{score.ci95[1]:.2f}"]]  # fmt: skip
    if result.base:
        base = result.base
        rows.insert(0, ["before", f"{base.wer:.2f}", f"{base.ci95[0]:.2f}–{base.ci95[1]:.2f}"])
    lines = [
        table([f"WER % ({result.normalizer})", "WER", "95 % interval"], rows),
        f"{score.utterances} utterances, {words.reference} words: {words.substitutions} "
        f"substituted, {words.deletions} deleted, {words.insertions} inserted; CER {score.cer:.2f}",
        f"{result.audio_seconds:.0f} s of audio in {result.seconds:.1f} s ({result.backend})",
    ]
    if result.comparison:
        change = result.comparison
        lines.append(
            f"difference {change.difference:+.2f} points "
            f"[{change.ci95[0]:+.2f}, {change.ci95[1]:+.2f}]: {change.verdict}"
        )
    if result.keyterms:
        lines.append(_arms(result.keyterms))
    if len(score.by_speaker) > 1:
        worst = sorted(score.by_speaker.items(), key=lambda item: -item[1])[:5]
        lines.append("hardest speakers: " + ", ".join(f"{name} {wer:.1f}" for name, wer in worst))
    for item in score.worst[:5]:
        lines.append(f"  {item.id}\n    said:  {item.reference}\n    heard: {item.hypothesis}")
    if result.conditions:
        lines.append(conditions_table(result.conditions))
    lines.extend(result.remarks)
    return "\n".join(lines)


def conditions_table(conditions: "tuple[ConditionScore, ...]") -> str:
    """A row for each kind of noise, a column for each ratio; base → adapted where both are."""
    columns = sorted({one.snr_db for one in conditions if one.snr_db is not None}, reverse=True)
    cells = {(one.noise, one.snr_db): one for one in conditions}

    def cell(noise: str, snr: float | None) -> str:
        one = cells.get((noise, snr))
        if one is None:
            return "-"
        before = "" if one.base is None else f"{one.base.wer:.1f} → "
        return f"{before}{one.score.wer:.1f}"

    rows = []
    for noise in dict.fromkeys(one.noise for one in conditions):
        rows.append([noise, cell(noise, None), *(cell(noise, snr) for snr in columns)])
    return table(["WER %", "no noise", *(f"{snr:g} dB" for snr in columns)], rows)


def _arms(found: "KeyTermsTable") -> str:
    """Adapter, key terms and both, a line each."""
    rows = []
    for arm in found.arms:
        recall = "-" if arm.terms.recall is None else f"{arm.terms.recall:.1f}"
        rows.append(
            [arm.name, f"{arm.score.wer:.2f}", f"{arm.change.difference:+.2f}",
             f"{recall} ({arm.terms.recalled} of {arm.terms.spoken})",
             f"{arm.terms.false_alarms} ({arm.terms.false_alarms_per_1000:.1f} in 1,000 words)"]
        )  # fmt: skip
    head = [f"{len(found.terms)} terms, boost {found.boost:g}", "WER", "change", "recall %",
            "false alarms"]  # fmt: skip
    return table(head, rows)
