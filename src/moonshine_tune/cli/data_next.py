"""`moonshine-tune data next`: which sentences to record next."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, say, show
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.data.next_sentences.run import NextResult

_EPILOG = (
    "Examples: moonshine-tune data next notes.txt --terms terms.txt --recorded train.jsonl "
    "--out next.txt ; moonshine-tune data next --evaluation eval/a --count 40 --out next.txt"
)


def register(app: typer.Typer) -> None:
    """Add the command `next` to the `data` commands."""
    app.command("next", epilog=_EPILOG)(next_command)


def next_command(
    texts: Annotated[
        list[Path] | None,
        Argument(
            help="Manifests or texts with sentences to choose from, one per line [default: "
            "everyday English sentences]."
        ),
    ] = None,
    count: Annotated[int, Option(help="Number of sentences.")] = 20,
    terms: Annotated[Path | None, Option(help="Terms that need recordings, one per line.")] = None,
    recorded: Annotated[
        list[Path] | None, Option(help="Manifest of what is recorded already; repeatable.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        Option(help="Folder of `evaluate`: words that it got wrong are wanted; repeatable."),
    ] = None,
    transcripts: Annotated[
        list[Path] | None,
        Option(
            help="Manifest of `transcribe --words`: words that it was unsure of are wanted; "
            "repeatable."
        ),
    ] = None,
    language: Annotated[str, Option(help="Language, such as en or de.")] = "en",
    max_words: Annotated[int, Option(help="Longest sentence, in words.")] = 20,
    out: Annotated[
        Path | None, Option(dir_okay=False, help="File to write, one sentence per line.")
    ] = None,
    force: Annotated[bool, Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Choose the sentences to record next, and say what each would teach.

    Together they have the listed terms, the words that a model gets wrong, and many sounds.
    """
    from moonshine_tune.data.next_sentences.run import NextRequest, next_sentences

    request = NextRequest(
        tuple(texts or ()),
        out,
        count,
        terms,
        tuple(recorded or ()),
        tuple(evaluation or ()),
        tuple(transcripts or ()),
        language,
        max_words,
        force,
    )
    result = next_sentences(request, TerminalProgress())
    for remark in result.remarks:
        say(remark)
    show(_summary(result), result.to_record(), as_json=as_json)


def _summary(result: "NextResult") -> str:
    lines = []
    for number, item in enumerate(result.sentences, start=1):
        lines += [f"{number:3}. {item.text}", f"     {'; '.join(item.why)}"]
    lines.append(f"{len(result.sentences)} of {result.candidates:,} sentences")
    if result.out is not None:
        lines.append(
            f"wrote {result.out}: record them, then moonshine-tune data import FOLDER "
            f"--out {quoted(result.out.with_suffix('.jsonl'))}"
        )
    return "\n".join(lines)
