"""`moonshine-tune benchmark`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show, table
from moonshine_tune.cli.options import BoostOption, KeyTermsOption, NormalizerOption

if TYPE_CHECKING:
    from moonshine_tune.evaluation.benchmark.run import BenchmarkResult, Measurement
    from moonshine_tune.metrics.latency import Ratio, Spread

PLOT_FILE = "latency.svg"
_EXAMPLE = (
    "Example: moonshine-tune benchmark --runtime-dir exported --manifest test.jsonl "
    "--compare base-runtime --out bench/a"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("benchmark", epilog=_EXAMPLE)(benchmark)


def benchmark(
    runtime_dir: Annotated[Path, typer.Option(help="Runtime folder to measure.")],
    manifest: Annotated[Path, typer.Option(help="Clips; with texts, the WER is measured too.")],
    compare: Annotated[
        Path | None,
        typer.Option(help="Another runtime folder, measured alternately."),
    ] = None,
    normalizer: NormalizerOption = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each clip.")] = 3,
    max_clips: Annotated[
        int | None, typer.Option(help="Maximum number of clips, spread over the lengths.")
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Feed clips at the pace of speech [default: for streaming models].",
        ),
    ] = None,
    stream_clips: Annotated[int, typer.Option(help="Number of streamed clips.")] = 10,
    keyterms: KeyTermsOption = None,
    boost: BoostOption = 2.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for benchmark.json and latency.svg.")
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
    show(summary(result), result.to_record(), as_json=as_json)


def summary(result: "BenchmarkResult") -> str:
    """The measurement for people."""
    sides = [result.this] + ([result.other] if result.other else [])
    names = ["this", "other"] if result.other else ["this"]
    columns = [_column(side) for side in sides]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows = [
        [label, *(column.get(label, "-") for column in columns)]
        + ([_ratio(result, label)] if result.other else [])
        for label in labels
    ]
    lines = [
        table(["", *names, *(["ratio"] if result.other else [])], rows),
        f"{result.clips} clips, {result.audio_seconds:.0f} s of audio, {result.rounds} calls each "
        f"after {result.warm_up} warm-up clips; times in ms: median / 95 % / maximum",
    ]
    if result.wer_comparison:
        lines.append(f"WER {result.wer_comparison.summary}")
    if result.ratios and result.same_text_clips != result.clips:
        same = result.ratios.get("same_text")
        lines.append(
            f"equal transcripts on {result.same_text_clips} of {result.clips} clips; "
            "a longer text takes longer to decode"
            + (f"; latency ratio on these {_interval(same)}" if same else "")
        )
    return "\n".join([*lines, *result.remarks])


def _column(side: "Measurement") -> dict[str, str]:
    from moonshine_tune.metrics.latency import spread_of

    column = {"load": _times(spread_of(side.loads)), "latency": _times(side.latency)}
    for band in side.bands:
        upper = "" if band.to_s == float("inf") else f"{band.to_s:g}"
        column[f"  clips of {band.from_s:g}–{upper} s"] = _times(band.latency)
    column["real-time factor"] = f"{side.rtf:.4f}"
    if side.stream_finals:
        column["end of speech to text"] = _times(spread_of(side.stream_finals))
    column["peak memory"] = f"{side.peak_mb:.0f} MB ({side.process_mb:.0f} before loading)"
    column["files"] = f"{side.total_bytes / 1e6:.1f} MB"
    if side.score is not None:
        low, high = side.score.ci95
        column[f"WER % ({side.normalizer})"] = f"{side.score.wer:.2f} [{low:.2f}, {high:.2f}]"
    if side.terms is not None:
        recall = "-" if side.terms.recall is None else f"{side.terms.recall:.1f}"
        column["key terms: recall %"] = f"{recall} of {side.terms.spoken} spoken"
        column["key terms: false alarms"] = str(side.terms.false_alarms)
    return column


def _times(spread: "Spread") -> str:
    return f"{1e3 * spread.median:.0f} / {1e3 * spread.p95:.0f} / {1e3 * spread.largest:.0f}"


def _ratio(result: "BenchmarkResult", label: str) -> str:
    key = {
        "load": "load",
        "latency": "latency",
        "peak memory": "peak_memory",
        "files": "size",
        "end of speech to text": "stream",
    }.get(label)
    if key is None or not result.ratios or key not in result.ratios:
        return ""
    return _interval(result.ratios[key])


def _interval(ratio: "Ratio") -> str:
    if ratio.ci95 is None:
        return f"{ratio.ratio:.3f}"
    return f"{ratio.ratio:.3f} [{ratio.ci95[0]:.3f}, {ratio.ci95[1]:.3f}]"
