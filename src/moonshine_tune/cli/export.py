"""`moonshine-tune export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, refuse, show, table
from moonshine_tune.cli.options import DeviceOption, OutFolder
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.runs.records import ExportRecord, ParityRecord

_VERDICTS = {"equal": "passed", "worse": "FAILED", "not decided": "NOT DECIDED"}
_EXAMPLE = "Example: moonshine-tune export --run runs/a --out exported --manifest test.jsonl"


class _Method(StrEnum):
    graft = "graft"
    trace = "trace"


class _Scales(StrEnum):
    auto = "auto"
    channel = "channel"
    tensor = "tensor"


class _Format(StrEnum):
    moonshine = "moonshine"
    sherpa_onnx = "sherpa-onnx"


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
        float,
        Option(
            help="Points by which the percentage of words that differ between torch and runtime "
            "may be above that of the base and its own runtime files."
        ),
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
    format_name: Annotated[
        _Format,
        Option(
            "--format",
            help="Runtime that is to load the files, and through which parity is checked; with "
            "sherpa-onnx the folder has tokens.txt too.",
        ),
    ] = _Format.moonshine,
    adapter_only: Annotated[
        bool,
        Option(
            "--adapter-only",
            help="Write one small file to --out instead of a folder: what changed in the base's "
            "files. `apply` makes the folder from it, byte for byte.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Write files for a runtime and check that they match the trained model."""
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
        format=format_name.value,
        adapter_only=adapter_only,
    )
    result = run_export(request, out, TerminalProgress())
    show(_summary(result), result.to_json(), as_json=as_json)
    # What is not decided is no answer of no: a warning, and the files stay.
    refuse(result.parity.passed is False)


def _summary(result: "ExportRecord") -> str:
    parity = result.parity
    what = "tensors built" if result.method == "trace" else "tensors adapted"
    lines = [
        f"wrote {_written(result)}: {result.changed} of {result.matrices} {what} in "
        f"{', '.join(result.changed_files) or 'no file'}, {result.seconds:.1f} s",
        f"parity {_VERDICTS[parity.verdict]}: {parity.word_difference:.2f} % of {parity.words} "
        f"words differ, {parity.identical} of {parity.clips} clips identical; judged by "
        f"{parity.judged_by}" + ("" if parity.against_base else f" ({parity.bound:g} %)"),
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
    lines.extend(_wer_lines(parity))
    if parity.chunked is not None:
        lines.append(
            f"fed in chunks: {parity.chunked.identical} of {parity.chunked.clips} clips as when "
            f"fed at once, {parity.chunked.word_difference:.2f} % of the words differ"
        )
    if parity.passed is not True:
        for torch_text, runtime_text in parity.examples[:3]:
            lines.append(f"  torch:   {torch_text}\n  runtime: {runtime_text}")
    if parity.passed is not False:
        if parity.advice:
            lines.append(f"not decided: the files are complete and may work. {parity.advice}")
        lines.append(f"next: {_next_command(result)}")
        return "\n".join(lines)
    return "\n".join(
        [
            *lines,
            f"first difference: {parity.first_difference}",
            "do not ship these files",
            "hint: a model with many errors is unsure of its words, and small differences change "
            "them: train longer or on more speech",
        ]
    )


def _written(result: "ExportRecord") -> str:
    if result.adapter_file is None:
        return str(result.runtime_dir)
    return f"{result.adapter_file} ({(result.adapter_bytes or 0) / 1e6:.2f} MB)"


def _next_command(result: "ExportRecord") -> str:
    if result.adapter_file is not None:
        file = quoted(result.adapter_file)
        return f"moonshine-tune apply {file} --to BASE_RUNTIME_FOLDER --out exported"
    folder = quoted(result.runtime_dir)
    backend = f" --backend {quoted(result.format)}" if result.format == "sherpa-onnx" else ""
    return f"moonshine-tune evaluate --runtime-dir {folder}{backend} --manifest test.jsonl"


def _wer_lines(parity: "ParityRecord") -> list[str]:
    """The WER in torch and in the runtime, and words and WER beside the base's."""
    against = parity.against_base
    lines = []
    if parity.wer is not None:
        low, high = parity.wer.ci95
        lines = [
            f"WER torch {parity.wer.torch:.2f}, runtime {parity.wer.runtime:.2f}, difference "
            f"{parity.wer.difference:+.2f} points [{low:+.2f}, {high:+.2f}]"
        ]
    elif against is None or against.wer is None:
        lines = ["WER not compared: not every clip has a text"]
    if against is None:
        return lines
    sets = " + ".join(f"{count} {name}" for name, count in against.sources.items())
    rows = [
        [
            f"{name}: {part.verdict}",
            f"{part.adapted:+.2f}",
            f"{part.base:+.2f}",
            f"{part.difference:+.2f} [{part.ci95[0]:+.2f}, {part.ci95[1]:+.2f}]",
            f"{part.margin:.2f}",
            str(part.clips),
        ]
        for name, part in (("words that differ", against.words), ("WER", against.wer))
        if part is not None
    ]
    head = f"torch to runtime, points ({sets})"
    return [*lines, table([head, "adapted", "base", "beyond base", "margin", "clips"], rows)]


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
