"""`moonshine-tune export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show
from moonshine_tune.cli.options import DeviceOption, OutFolder
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.runs.records import ExportRecord, ParityRecord

_EXAMPLE = "Example: moonshine-tune export --run runs/a --out exported --manifest test.jsonl"


class _Method(StrEnum):
    graft = "graft"
    trace = "trace"


class _Scales(StrEnum):
    auto = "auto"
    channel = "channel"
    tensor = "tensor"


class _Scheme(StrEnum):
    int8 = "int8"
    none = "none"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", epilog=_EXAMPLE)(export)


def export(
    out: OutFolder,
    run: Annotated[Path | None, Option(help="Run folder or adapter folder.")] = None,
    checkpoint: Annotated[
        Path | None,
        Option(help="Instead of --run: a fully tuned checkpoint; --model names its base."),
    ] = None,
    model: Annotated[
        str | None, Option(help="Base model [default: that of the run or adapter].")
    ] = None,
    base_runtime: Annotated[
        Path | None, Option(help="Runtime folder of the base [default: the model's].")
    ] = None,
    manifest: Annotated[
        Path | None, Option(help="Clips for the parity gate [default: the run's dev set].")
    ] = None,
    parity_bound: Annotated[
        float, Option(help="Percent of words that may differ between torch and runtime.")
    ] = 5.0,
    method: Annotated[
        _Method, Option(help="graft: patch the runtime's own files; trace: build new graphs.")
    ] = _Method.graft,
    calibrate: Annotated[
        str,
        Option(
            help="Graft: calibration clips for quantization. auto: the run's own, if they help; "
            "none: faster, less accurate; or a manifest."
        ),
    ] = "auto",
    scales: Annotated[
        _Scales,
        Option(
            help="Graft: one scale for an adapted matrix, as in the base's files (tensor), or one "
            "for each output channel (channel): closer to the trained model, a few percent slower. "
            "auto: for each channel where it takes no noticeable time."
        ),
    ] = _Scales.auto,
    quantize: Annotated[
        _Scheme, Option(help="Trace: 8-bit weights and activations (int8), or floats (none).")
    ] = _Scheme.int8,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Write files for the Moonshine runtime and check that they match the trained model."""
    from moonshine_tune.export.run import ExportRequest
    from moonshine_tune.export.run import export as run_export

    request = ExportRequest(
        run=run,
        checkpoint=checkpoint,
        model=model,
        base_runtime=base_runtime,
        manifest=manifest,
        parity_bound=parity_bound,
        device=device,
        method=method.value,
        calibrate=calibrate,
        quantize=quantize.value,
        scales=scales.value,
    )
    result = run_export(request, out, TerminalProgress())
    show(_summary(result), result.to_json(), as_json=as_json)
    refuse(not result.parity.passed)


def _summary(result: "ExportRecord") -> str:
    parity = result.parity
    what = "tensors built" if result.method == "trace" else "tensors adapted"
    lines = [
        f"wrote {result.runtime_dir}: {result.changed} of {result.matrices} {what} in "
        f"{', '.join(result.changed_files) or 'no file'}, {result.seconds:.1f} s",
        f"parity {'passed' if parity.passed else 'FAILED'}: {parity.word_difference:.2f} % of "
        f"{parity.words} words differ (bound {parity.bound:g} %), {parity.identical} of "
        f"{parity.clips} clips identical",
    ]
    if result.rounding is not None:
        lines.append(f"rounding: {result.rounding}")
    if result.channel_scales:
        lines.append(
            f"scales: one for each output channel in {result.channel_scales} of {result.changed} "
            f"adapted tensors (--scales {result.scales})"
        )
    if result.windows is not None:
        lines.append(f"windows read as {result.windows['rule']}: {result.windows['reason']}")
    lines.extend(_graph_lines(parity))
    if parity.wer is not None:
        low, high = parity.wer.ci95
        lines.append(
            f"WER torch {parity.wer.torch:.2f}, runtime {parity.wer.runtime:.2f}, difference "
            f"{parity.wer.difference:+.2f} points [{low:+.2f}, {high:+.2f}]"
        )
    else:
        lines.append("WER not compared: not every clip has a text")
    if parity.chunked is not None:
        lines.append(
            f"fed in chunks: {parity.chunked.identical} of {parity.chunked.clips} clips as when "
            f"fed at once, {parity.chunked.word_difference:.2f} % of the words differ"
        )
    if parity.passed:
        folder = quoted(result.runtime_dir)
        lines.append(f"next: moonshine-tune evaluate --runtime-dir {folder} --manifest test.jsonl")
        return "\n".join(lines)
    for torch_text, runtime_text in parity.examples[:3]:
        lines.append(f"  torch:   {torch_text}\n  runtime: {runtime_text}")
    return "\n".join(
        [
            *lines,
            f"first difference: {parity.first_difference}",
            "do not ship these files",
            "hint: a model with many errors is unsure of its words, and small differences change "
            "them: train longer or on more speech",
        ]
    )


def _graph_lines(parity: "ParityRecord") -> list[str]:
    lines = [
        f"  {item.graph} {item.output}: max {item.max:.3g}, mean {item.mean:.3g}, "
        f"{100 * item.relative:.1f} % (bound {100 * item.bound:g} %)"
        for item in parity.graphs
    ]
    weights = f"  weights: {parity.weights.checked} compared in place"
    if parity.weights.note:
        weights = f"  weights not compared: {parity.weights.note}"
    tokens = f"tokens: {100 * parity.tokens.agreement:.1f} % the same of {parity.tokens.count}"
    rule = f"; windows read as {parity.window_rule}" if parity.window_rule else ""
    return [*lines, f"{weights}; {tokens}{rule}"]
