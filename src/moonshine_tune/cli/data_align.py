"""`moonshine-tune data align`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, say, show
from moonshine_tune.cli.options import DeviceOption, MaxClipOption, longest_clip_s
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.data.alignment.run import AlignResult

_NAMED = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "align",
        epilog="Examples: moonshine-tune data align talk.mp3 talk.txt --out talk.jsonl ; "
        "moonshine-tune data align talks --out train.jsonl",
    )(align)


def align(
    audio: Annotated[
        Path,
        typer.Argument(help="A long recording, or a folder of them with texts of the same names."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            dir_okay=False, help="Manifest to write; NAME-left-out.jsonl beside it lists the rest."
        ),
    ],
    transcript: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TEXT]",
            help="Its transcript, plain text (.txt, .md) [default: the one of its name beside it].",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Base model that transcribes the recording.")] = "tiny",
    language: Annotated[
        str | None, typer.Option(help="Language of all, such as en or ko [default: the model's].")
    ] = None,
    max_clip_s: MaxClipOption = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of letters in which text and base model agree; with less, an utterance is "
            "kept only if the model finds no other text likelier. Raise it to look more closely.",
        ),
    ] = 0.75,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the text, such as cp1252; UTF-8 and UTF-16 need no name."),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out texts of other recordings, not refuse all."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing manifest.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Divide the transcript of a long recording among utterances, without time stamps.

    The recording is cut at pauses and transcribed by the base model. Where text and model agree,
    the text gets its times. The rest is listed with reasons. Exit 1 if the text is another.
    """
    from moonshine_tune.data.alignment.run import AlignRequest, align_recordings

    request = AlignRequest(
        audio=audio,
        out=out,
        transcript=transcript,
        model=model,
        language=language,
        encoding=encoding,
        max_clip_s=longest_clip_s(max_clip_s),
        min_agreement=min_agreement,
        device=device,
        skip_bad=skip_bad,
        force=force,
    )
    result = align_recordings(request, TerminalProgress())
    if names := [path.name for path in result.without_text]:
        shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        say(f"{len(names):,} recordings without a text of their name: {shown}")
    for pair in result.pairs:
        if pair.problem is not None:
            say(f"left out: {pair.audio} and {pair.transcript}: {pair.problem}")
    show(_text(result), result.to_record(), as_json=as_json)


def _text(result: "AlignResult") -> str:
    """What was kept and left out, and the next command."""
    kept = f"{result.kept_s / 60:.1f} of {result.speech_s / 60:.1f} min with speech"
    lines = [f"{result.manifest}: {result.kept:,} utterances, {kept}"]
    if result.left_out_file is not None:
        shown = ", ".join(f"{count:,} {reason}" for reason, count in result.reasons.items())
        lines.append(f"{result.left_out_file}: {shown}")
    lines.append(f"next: moonshine-tune data check {quoted(result.manifest)}")
    return "\n".join(lines)
