"""`moonshine-tune evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, change_text, number, show, table
from moonshine_tune.cli.options import (
    BoostOption,
    DeviceOption,
    KeyTermsOption,
    ModelOption,
    NormalizerOption,
)
from moonshine_tune.core.errors import RequestError

if TYPE_CHECKING:
    from moonshine_tune.evaluation.results import Evaluation
    from moonshine_tune.runs.records import KeyTermsRecord

_EXAMPLE = (
    "Examples: moonshine-tune evaluate --model tiny --adapter runs/a --manifest test.jsonl "
    "--out eval/a ; also in noise: moonshine-tune evaluate --adapter runs/a --manifest test.jsonl "
    "--conditions noises/ --snr 20 --snr 5"
)


_MAX_SPEAKERS = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog=_EXAMPLE)(evaluate)


def evaluate(
    manifest: Annotated[Path, Option(help="Manifest with texts.")],
    model: ModelOption = None,
    adapter: Annotated[
        Path | None, Option(help="Run or adapter folder; the base is scored too.")
    ] = None,
    backend: Annotated[
        str, Option(help="torch, runtime, or sherpa-onnx, which loads --runtime-dir too.")
    ] = "torch",
    runtime_dir: Annotated[
        Path | None,
        Option(
            help="Runtime folder of the runtime back end; with --adapter the one exported from it: "
            "base, torch and runtime side by side."
        ),
    ] = None,
    compare: Annotated[
        Path | None, Option(help="Folder of an earlier evaluation to compare with.")
    ] = None,
    normalizer: NormalizerOption = None,
    keyterms: KeyTermsOption = None,
    boost: BoostOption = 2.0,
    context: Annotated[
        Path | None,
        Option(
            help="Text from which the runtime picks terms to boost; scored without it too "
            "(streaming models only)."
        ),
    ] = None,
    base_runtime: Annotated[
        Path | None,
        Option(help="Runtime folder of the base: compares adapter, key terms and both."),
    ] = None,
    aliases: Annotated[
        Path | None,
        Option(help="File of `data aliases`: also score with aliases mapped back to their terms."),
    ] = None,
    device: DeviceOption = "auto",
    conditions: Annotated[
        Path | None,
        Option(help="Folder or manifest of noises: also score in each kind at each ratio."),
    ] = None,
    snr: Annotated[
        list[float] | None,
        Option(help="Signal-to-noise ratio, dB; repeatable [default: 20 10 5 0]."),
    ] = None,
    rooms: Annotated[
        Path | None, Option(help="With --conditions: folder of room impulse responses.")
    ] = None,
    out: Annotated[
        Path | None, Option(file_okay=False, help="Folder for result.json and hypotheses.jsonl.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a model: WER, CER, kinds of error, interval, worst utterances, base against adapted."""
    from moonshine_tune.evaluation.evaluate import EvaluateRequest
    from moonshine_tune.evaluation.evaluate import evaluate as run_evaluation
    from moonshine_tune.evaluation.noise_conditions import SNRS_DB, ConditionsRequest

    if conditions is None and (snr or rooms):
        raise RequestError(
            "--snr and --rooms need --conditions", hint="name noises: --conditions FOLDER"
        )
    request = EvaluateRequest(
        manifest=manifest,
        model=model,
        adapter=adapter,
        # Files beside an adapter are scored with it, torch and runtime side by side.
        backend="runtime" if runtime_dir and not adapter and backend == "torch" else backend,
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
        aliases=aliases,
        context=context,
    )
    result = run_evaluation(request, out, TerminalProgress())
    show(summary(result), result.to_record(), as_json=as_json)


def summary(result: "Evaluation") -> str:
    """The evaluation as text."""
    score, words = result.score, result.score.words
    sides = {"before": result.base} if result.base else {}
    sides["adapted" if result.base else "model"] = score
    rows = [
        [
            name,
            number(side.wer if side.has_wer else None),
            _range(side.ci95 if side.has_wer else None),
        ]
        for name, side in sides.items()
    ]
    cer = number(score.cer if score.has_wer else None)
    lines = [
        table([f"WER % ({result.normalizer})", "WER", "95 % interval"], rows),
        f"{score.utterances} utterances, {words.reference} words: {words.substitutions} "
        f"substituted, {words.deletions} deleted, {words.insertions} inserted; CER {cer}",
        *([result.voices.sentence] if result.voices else []),
        *_empty_lines(result),
        f"{result.audio_seconds:.0f} s of audio in {result.seconds:.1f} s ({result.backend})",
    ]
    if result.comparison and score.has_wer:
        lines.append(f"difference {change_text(result.comparison)}")
    # Base and adapted alone are in the table above.
    is_side_by_side = len(result.systems) > 2
    if is_side_by_side:
        lines.append(_systems_tables(result))
    lines += result.remarks
    lines += _metric_lines(result)
    if result.keyterms:
        boost = result.keyterms.boost
        lines.append(
            _key_terms_table(result.keyterms, "counted" if boost is None else f"boost {boost:g}")
        )
    if result.aliases:
        lines.append(_key_terms_table(result.aliases, "with aliases"))
    if len(score.by_speaker) > 1 and not is_side_by_side:
        worst = sorted(score.by_speaker.items(), key=lambda item: -item[1])[:5]
        lines.append("hardest speakers: " + ", ".join(f"{name} {wer:.1f}" for name, wer in worst))
    for item in score.worst[:5]:
        lines.append(f"  {item.id}\n    reference:  {item.reference}")
        lines.append(f"    hypothesis: {item.hypothesis}")
    if result.conditions:
        lines.append(_conditions_table(result.conditions))
    return "\n".join(lines)


def _systems_tables(result: "Evaluation") -> str:
    """The base, the adapter before, the adapted model and its files: in all, and by speaker."""
    sides = [(item, item.evaluation.score) for item in result.systems]
    titles = {"parent": "adapter before"}
    names = [f"{titles.get(item.side, item.side)}, {item.evaluation.backend}" for item, _ in sides]
    rows = [
        [
            name,
            number(score.wer if score.has_wer else None),
            _range(score.ci95 if score.has_wer else None),
            change_text(item.comparison) if item.comparison and item.side != "parent" else "",
        ]
        for name, (item, score) in zip(names, sides, strict=True)
    ]
    tables = [table(["WER %", "WER", "95 % interval", "torch to runtime"], rows)]
    tables += [
        f"from the adapter before to this one: {change_text(item.comparison)}"
        for item, _ in sides
        if item.side == "parent" and item.comparison
    ]
    counts = result.to_record().speakers
    # The hardest first: there are the surprises.
    speakers = sorted(counts, key=lambda name: -sides[-1][1].by_speaker.get(name, 0.0))
    rows = [
        [
            name,
            str(counts[name].utterances),
            *(number(score.by_speaker.get(name)) for _, score in sides),
        ]
        for name in speakers[:_MAX_SPEAKERS]
    ]
    if len(counts) > 1:
        tables.append(table(["speaker", "clips", *names], rows))
    if len(counts) > _MAX_SPEAKERS:
        tables.append(f"the hardest {_MAX_SPEAKERS} of {len(counts)} speakers; result.json has all")
    return "\n".join(tables)


def _empty_lines(result: "Evaluation") -> list[str]:
    """What no WER counts: words where the reference is empty."""
    empty = result.score.empty
    if not empty.utterances:
        return []
    sides = [result.base.empty] if result.base and result.base.empty.utterances else []
    sides.append(empty)
    words = " → ".join(str(side.made_up_words) for side in sides)
    rates = " → ".join(number(side.made_up_per_minute, ".1f") for side in sides)
    return [
        f"words made up where the reference is empty, not part of the WER: {words} on "
        f"{empty.utterances} utterances"
        + ("" if empty.made_up_per_minute is None else f", {rates} per minute")
    ]


def _range(ci95: tuple[float, float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.2f}–{ci95[1]:.2f}"


def _metric_lines(result: "Evaluation") -> list[str]:
    """The table of the extra metrics; a line for each that the references cannot be scored with."""
    before = {item.metric.name: item.value for item in result.base_metrics}
    rows = [
        [
            f"{item.metric.name} ({item.metric.better} is better)",
            number(before.get(item.metric.name)),
            number(item.value),
            _range(item.ci95),
            f"{item.counted:g} of {item.out_of:g}",
            item.metric.unit,
        ]
        for item in result.metrics
        if not item.reason
    ]
    columns = ["metric", "before", "value", "95 % interval", "count", "unit"]
    reasons = [f"no {item.metric.name}: {item.reason}" for item in result.metrics if item.reason]
    return [*([table(columns, rows)] if rows else []), *reasons]


def _conditions_table(conditions: "tuple[Evaluation, ...]") -> str:
    """A row for each kind of noise, a column for each ratio; base → adapted where both exist."""
    cells = {}
    for item in conditions:
        before = "" if item.base is None else f"{item.base.wer:.1f} → "
        cells[item.condition.noise, item.condition.snr_db] = f"{before}{item.score.wer:.1f}"
    columns = sorted({snr for _, snr in cells if snr is not None}, reverse=True)
    rows = [
        [noise, *(cells.get((noise, snr), "-") for snr in (None, *columns))]
        for noise in dict.fromkeys(noise for noise, _ in cells)
    ]
    return table(["WER %", "no noise", *(f"{snr:g} dB" for snr in columns)], rows)


def _key_terms_table(record: "KeyTermsRecord", note: str) -> str:
    """Base, adapter, key terms and both, or with and without aliases, one row each."""
    rows = [
        [
            item.arm,
            number(item.wer),
            number(item.change.difference, "+.2f"),
            f"{number(item.recall, '.1f')} ({item.recalled} of {item.spoken})",
            f"{item.false_alarms} ({number(item.false_alarms_per_1000_words, '.1f')} in 1,000 "
            "words)",
        ]
        for item in record.arms
    ]
    head = f"{record.terms} terms, {note}"
    return table([head, "WER", "change", "recall %", "false alarms"], rows)
