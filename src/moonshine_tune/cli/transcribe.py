"""`moonshine-tune transcribe`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, emit, refuse, say, show
from moonshine_tune.cli.options import DeviceOption, ModelOption

if TYPE_CHECKING:
    from moonshine_tune.transcription.run import TranscribeResult

_EXAMPLE = (
    "Examples: moonshine-tune transcribe talk.mp3 ; moonshine-tune transcribe interviews/ "
    "--adapter runs/a --format srt --format textgrid --words --out transcripts ; "
    "moonshine-tune transcribe calls/ --out labels.jsonl"
)
_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("transcribe", epilog=_EXAMPLE)(transcribe)


def transcribe(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="INPUT...",
            help="Recordings of any length, folders, manifests (.jsonl), or - for paths on "
            "standard input, one a line.",
        ),
    ],
    model: ModelOption = None,
    adapter: Annotated[Path | None, Option(help="Run or adapter folder.")] = None,
    runtime_dir: Annotated[
        Path | None, Option(help="Runtime folder, which the Moonshine runtime decodes.")
    ] = None,
    device: DeviceOption = "auto",
    formats: Annotated[
        list[str] | None,
        Option(
            "--format",
            help="text, jsonl, srt, vtt or textgrid; repeatable, or separated by commas "
            "[default: text, or the ending of --out].",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder with files of each recording, or one file "
            "[default: standard output, as it comes]."
        ),
    ] = None,
    words: Annotated[
        bool, Option("--words", help="Also the time and confidence of each word: jsonl, textgrid.")
    ] = False,
    aliases: Annotated[
        Path | None, Option(help="File of `data aliases`: map aliases back to their terms.")
    ] = None,
    channel: Annotated[
        int | None, Option(help="Only this channel, from 1, not the mean of all.")
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Continue a stopped job; skip what is complete.")
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", "--force", help="Replace existing transcripts.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Transcribe recordings: text, captions, or manifests with times and confidence.

    A long recording is cut in its pauses, and silence is skipped.
    """
    from moonshine_tune.transcription.output import output_request
    from moonshine_tune.transcription.run import TranscribeRequest
    from moonshine_tune.transcription.run import transcribe as run_transcription

    names = [name.strip() for item in formats or () for name in item.split(",") if name.strip()]
    request = TranscribeRequest(
        inputs=tuple(inputs),
        output=output_request(out, names, with_words=words, resume=resume, overwrite=overwrite),
        model=model,
        adapter=adapter,
        runtime_dir=runtime_dir,
        device=device,
        channel=channel,
        aliases=aliases,
    )
    result = run_transcription(request, TerminalProgress(), sys.stdin, emit)
    if out is None:
        # Transcripts are on stdout already.
        say(summary(result))
        if as_json:
            show("", result.to_record(), as_json=True)
    else:
        show(summary(result), result.to_record(), as_json=as_json)
    refuse(bool(result.failed))


def summary(result: "TranscribeResult") -> str:
    """What became of the recordings, as text."""
    counts = [f"{result.transcribed:,} transcribed"]
    if result.silent:
        counts.append(f"{len(result.silent):,} of them silent")
    if result.skipped:
        counts.append(f"{result.skipped:,} complete already, skipped")
    if result.failed:
        counts.append(f"{len(result.failed):,} failed")
    lines = [
        f"recordings: {', '.join(counts)}; "
        f"{result.audio_seconds:.0f} s of audio in {result.seconds:.1f} s"
    ]
    if result.files:
        more = f" and {len(result.files) - 1:,} more" if len(result.files) > 1 else ""
        lines.append(f"written: {result.files[0]}{more}")
    if result.failed:
        lines.append("failed:")
        lines += [f"  {item.recording}: {item.reason}" for item in result.failed[:_SHOWN]]
        if len(result.failed) > _SHOWN:
            lines.append(f"  … and {len(result.failed) - _SHOWN:,} more; --json lists all")
    return "\n".join(lines)
