"""`moonshine-tune benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import (
    JsonFlag,
    TerminalProgress,
    change_text,
    number,
    show,
    table,
    with_interval,
)
from moonshine_tune.cli.options import BoostOption, KeyTermsOption, NormalizerOption

if TYPE_CHECKING:
    from moonshine_tune.runs.records import (
        BenchmarkRecord,
        Figures,
        MeasurementRecord,
        RatioRecord,
    )

PLOT_FILE = "latency.svg"
# Row of the table to the key of its ratio.
_RATIOS = {
    "load": "load",
    "latency": "latency",
    "peak memory": "peak_memory",
    "files": "size",
    "end of speech to text": "stream",
}
_EXAMPLE = (
    "Example: moonshine-tune benchmark --runtime-dir exported --manifest test.jsonl "
    "--compare base-runtime --out bench/a"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("benchmark", epilog=_EXAMPLE)(benchmark)


def benchmark(
    runtime_dir: Annotated[Path, Option(help="Runtime folder to measure.")],
    manifest: Annotated[Path, Option(help="Clips; with texts, the WER is measured too.")],
    compare: Annotated[
        Path | None, Option(help="Another runtime folder, measured alternately.")
    ] = None,
    normalizer: NormalizerOption = None,
    rounds: Annotated[int, Option(help="Timed calls of each clip.")] = 3,
    max_clips: Annotated[
        int | None, Option(help="Maximum number of clips, spread over the lengths.")
    ] = None,
    stream: Annotated[
        bool | None,
        Option(
            "--stream/--no-stream",
            help="Feed clips at the pace of speech [default: for streaming models].",
        ),
    ] = None,
    stream_clips: Annotated[int, Option(help="Number of streamed clips.")] = 10,
    keyterms: KeyTermsOption = None,
    boost: BoostOption = 2.0,
    out: Annotated[
        Path | None, Option(file_okay=False, help="Folder for benchmark.json and latency.svg.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure load time, latency, memory, size and WER of a runtime folder, or of two."""
    from moonshine_tune.evaluation.benchmark.run import BenchmarkRequest
    from moonshine_tune.evaluation.benchmark.run import benchmark as run_benchmark

    request = BenchmarkRequest(
        runtime_dir=runtime_dir,
        manifest=manifest,
        compare=compare,
        normalizer=normalizer,
        rounds=rounds,
        max_clips=max_clips,
        stream=stream,
        stream_clips=stream_clips,
        keyterms=keyterms,
        boost=boost,
    )
    result = run_benchmark(request, out, TerminalProgress())
    if out is not None:
        from moonshine_tune.core.files import write_text_atomic
        from moonshine_tune.report.figures import latency_plot

        write_text_atomic(out / PLOT_FILE, latency_plot(result))
    show(summary(result.record), result.record, as_json=as_json)


def summary(record: "BenchmarkRecord") -> str:
    """The measurement for people."""
    ratios = record.ratios or {}
    columns = [_column(side) for side in (record, record.other) if side is not None]
    rows = [
        [label, *(column.get(label, "-") for column in columns)]
        + ([_ratio(ratios.get(_RATIOS.get(label, "")))] if record.other else [])
        for label in dict.fromkeys(label for column in columns for label in column)
    ]
    lines = [
        table(["", "this", *(["other", "ratio"] if record.other else [])], rows),
        f"{record.clips} clips, {record.audio_seconds:.0f} s of audio, {record.rounds} calls each "
        f"after {record.warm_up_clips} warm-up clips; times in ms: median / 95 % / maximum",
    ]
    if record.wer_comparison:
        lines.append(f"WER difference {change_text(record.wer_comparison)}")
    if record.other and record.same_text_clips != record.clips:
        same = ratios.get("same_text")
        lines.append(
            f"equal transcripts on {record.same_text_clips} of {record.clips} clips; "
            "a longer text takes longer to decode"
            + (f"; latency ratio on these {_ratio(same)}" if same else "")
        )
    return "\n".join([*lines, *record.remarks])


def _column(side: "MeasurementRecord") -> dict[str, str]:
    column = {"load": _times(side.load_ms), "latency": _times(side.latency_ms)}
    for band in side.by_length:
        upper = number(band.to_s, "g", missing="")
        column[f"  clips of {band.from_s:g}–{upper} s"] = _times(band.latency_ms)
    column["real-time factor"] = number(side.rtf, ".4f")
    if side.stream:
        column["end of speech to text"] = _times(side.stream.final_ms)
    memory = side.memory_mb
    column["peak memory"] = f"{memory['peak']:.0f} MB ({memory['process']:.0f} before loading)"
    column["files"] = f"{(side.total_bytes or 0) / 1e6:.1f} MB"
    if side.wer:
        column[f"WER % ({side.wer.normalizer})"] = with_interval(side.wer.wer, side.wer.ci95)
    if terms := side.keyterms:
        recall = number(terms.recall, ".1f")
        column["key terms: recall %"] = f"{recall} of {terms.spoken} spoken"
        column["key terms: false alarms"] = str(terms.false_alarms)
    return column


def _times(figures: "Figures") -> str:
    return " / ".join(number(figures[name], ".0f") for name in ("median", "p95", "max"))


def _ratio(item: "RatioRecord | None") -> str:
    return "" if item is None else with_interval(item.ratio, item.ci95, ".3f")
