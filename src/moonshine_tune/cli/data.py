"""`moonshine-tune data`: import, check, split and synthesize recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli import data_aliases as aliases
from moonshine_tune.cli import data_align as align
from moonshine_tune.cli import data_audit as audit
from moonshine_tune.cli import data_forget as forget
from moonshine_tune.cli import data_next as next_sentences
from moonshine_tune.cli import data_synth as synth
from moonshine_tune.cli.console import JsonFlag, TerminalProgress, plain, refuse, say, show, table
from moonshine_tune.cli.help import CommandGroup
from moonshine_tune.cli.options import MaxClipOption, longest_clip_s
from moonshine_tune.core.errors import RequestError
from moonshine_tune.core.text import quoted

if TYPE_CHECKING:
    from moonshine_tune.data.checks.check import CheckReport

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Import, check, split and synthesize recordings with transcripts.",
)

_SHOWN = 10
_NAMED = 3


@app.command(
    "import",
    epilog="Examples: moonshine-tune data import recordings --table words.csv --out train.jsonl ; "
    "moonshine-tune data import hf://owner/name --dataset-config en --split train --limit 2000 "
    "--out train.jsonl",
)
def import_command(
    out: Annotated[Path, typer.Option(help="Manifest to write, such as train.jsonl.")],
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of recordings, one recording, a table beside them, or hf://OWNER/NAME: a "
            "dataset of the Hugging Face hub. With --corrections, the folder of the log is the "
            "default."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV or JSON; without it, the folder is searched for transcripts."),
    ] = None,
    audio_column: Annotated[
        str | None, typer.Option(help="Column of the recording: its name or number.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the transcript: its name or number.")
    ] = None,
    speaker_column: Annotated[
        str | None, typer.Option(help="Column of the speaker: its name or number.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the table, such as cp1252; UTF-8 and UTF-16 need no name."),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of all, such as en or ko.")] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Import without transcripts (replay audio).")
    ] = False,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut",
            help="Cut recordings that are longer than --max-clip-s at their pauses, without texts; "
            "with transcripts: data align.",
        ),
    ] = False,
    max_clip_s: MaxClipOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out invalid rows instead of refusing all.")
    ] = False,
    tier: Annotated[
        str | None,
        typer.Option(
            help="Tier of TextGrid or ELAN files that has the texts; several, separated by "
            "commas, or * for all are speakers."
        ),
    ] = None,
    transcripts: Annotated[
        str | None,
        typer.Option(
            help="Of several transcripts of a recording, the ending (.en.vtt) or folder to read."
        ),
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            help="What two numbers in front of a text are: seconds, milliseconds, samples, 100ns, "
            "or none: words [default: by content]."
        ),
    ] = None,
    audio_out: Annotated[
        Path | None,
        typer.Option(help="Also write each utterance as the model reads it: mono, 16 kHz, FLAC."),
    ] = None,
    channel: Annotated[
        int | None, typer.Option(help="With --audio-out: this channel, from 1, not their mean.")
    ] = None,
    dataset_config: Annotated[
        str | None, typer.Option(help="Configuration of a hub dataset, often a language.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a hub dataset, such as train [default: all].")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub dataset.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of rows of each split of a hub dataset.")
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="CSV, TSV or JSON of recordings, what a recognizer wrote, and what a person made "
            "of it."
        ),
    ] = None,
    hypothesis_column: Annotated[
        str | None,
        typer.Option(
            help="With --corrections: column of what the recognizer wrote. --text-column names "
            "the corrections."
        ),
    ] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(
            help="With --corrections: of several for one recording, the first or last row counts "
            "[default: the latest by its time]."
        ),
    ] = None,
    empty_correction: Annotated[
        str | None,
        typer.Option(
            help="With --corrections: what an empty one means: silence, unchanged or skip."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing manifest.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a manifest of a folder of recordings and their transcripts.

    Detected automatically: tables, .txt beside recordings, LibriSpeech, Common Voice, NeMo, Kaldi,
    lhotse, folders of `datasets`, and cues beside long recordings: captions, TextGrid, ELAN, label
    tracks of Audacity, JSON of speech recognizers, STM and CTM.
    Datasets of the hub are streamed: only the requested rows are fetched.
    """
    from moonshine_tune.corpus.transcript_form import KINDS
    from moonshine_tune.importers.base import (
        ColumnNames,
        CorrectionOptions,
        HubOptions,
        ImportRequest,
    )
    from moonshine_tune.importers.run import import_data

    location = folder if corrections is None or folder is not None else corrections.parent
    if location is None:
        raise RequestError(
            "no folder of recordings", hint="name it: moonshine-tune data import FOLDER --out F"
        )
    request = ImportRequest(
        location=location,
        out=out,
        table=table,
        columns=ColumnNames(audio=audio_column, text=text_column, speaker=speaker_column),
        hub=HubOptions(dataset_config, split, revision, limit),
        want_text=not no_text,
        language=language,
        skip_bad=skip_bad,
        force=force,
        tier=tier,
        transcripts=transcripts,
        times=times,
        audio_out=audio_out,
        channel=channel,
        encoding=encoding,
        corrections=corrections,
        correction_options=CorrectionOptions(hypothesis_column, duplicates, empty_correction),
        max_clip_s=longest_clip_s(max_clip_s) if cut else None,
    )
    result = import_data(request, TerminalProgress())
    for item in result.dropped[:_SHOWN]:
        say(f"left out, {item.reason}: {item.location}: {item.detail}")
    if len(result.dropped) > _SHOWN:
        say(f"… and {len(result.dropped) - _SHOWN:,} more; --json lists all")
    if result.left_out is not None:
        say(f"left-out corrections, with their reasons: {result.left_out}")
    if result.unlisted:
        say(f"{result.unlisted:,} recordings of the folder are in no row")
    if names := result.recordings.names:
        shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        say(f"without a transcript: {shown}; add one for each, or import them with --no-text")
    # The manifest has the cleaned texts: only what is still in them can be checked.
    form = {kind: count for kind, count in result.form.items() if kind != "cleaned_text"}
    if cleaned := result.form.get("cleaned_text"):
        say(f"{cleaned:,} texts had {KINDS['cleaned_text']}")
    if form:
        kinds = ", ".join(f"{count:,} with {KINDS[kind]}" for kind, count in form.items())
        say(f"texts {kinds}: data check names them")
    speakers = f"{result.speakers} speakers" if result.speakers else "no speakers named"
    text = (
        f"{result.summary()}\n{result.recordings.summary()}\n"
        f"{result.manifest}: {_duration(result.seconds)}, {speakers}\n"
        f"next: moonshine-tune data check {quoted(result.manifest)}"
    )
    show(text, result.to_record(), as_json=as_json)


@app.command(
    "check",
    epilog="Examples: moonshine-tune data check train.jsonl test.jsonl ; "
    "moonshine-tune data check all.jsonl --report findings.json",
)
def check_command(
    manifests: Annotated[
        list[Path] | None,
        typer.Argument(help="One or several manifests; several are compared as splits."),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Training manifest.")] = None,
    dev: Annotated[Path | None, typer.Option(help="Development manifest.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test manifest.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write all findings with all ids to this JSON file.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find what spoils training or scores; exit 1 if there is an error."""
    from moonshine_tune.core.files import write_json_atomic
    from moonshine_tune.data.checks.check import check_data

    paths = [*(manifests or []), *(path for path in (train, dev, test) if path is not None)]
    if not paths:
        raise RequestError(
            "no manifest to check",
            hint="name one or several: moonshine-tune data check train.jsonl test.jsonl",
        )
    if report is not None and report.resolve() in [path.resolve() for path in paths]:
        raise RequestError(
            "the report would overwrite a manifest that is checked",
            where=report,
            hint="choose another name: --report findings.json",
        )
    result = check_data(paths, TerminalProgress())
    if report is not None:
        write_json_atomic(report, plain(result))
        say(f"report: {report}")
    show(_findings_text(result), result, as_json=as_json)
    refuse(not result.passed)


def _findings_text(result: "CheckReport") -> str:
    """Each finding, then a line for each manifest."""
    lines = []
    for finding in result.findings:
        several = finding.manifest and len(result.manifests) > 1
        lines += audit.finding_lines(finding, f"{finding.manifest}: " if several else "")
    for manifest in result.manifests:
        lines.append(
            f"{manifest.path}: {manifest.lines:,} lines, {manifest.utterances:,} utterances, "
            f"{manifest.clean:,} clean, {_duration(manifest.seconds)}"
        )
    lines.append(
        f"{result.errors} kinds of errors, {result.warnings} of warnings, {result.notes} of notes"
    )
    return "\n".join(lines)


@app.command(
    "split",
    epilog="Examples: moonshine-tune data split all.jsonl --out split --dev 0.1 --test 0.1 "
    "--seed 0 ; each session in one split: moonshine-tune data split all.jsonl --out split "
    "--by session",
)
def split_command(
    manifest: Annotated[Path, typer.Argument(help="Manifest to split.")],
    out: Annotated[
        Path,
        typer.Option(file_okay=False, help="Folder for train.jsonl, dev.jsonl and test.jsonl."),
    ],
    dev: Annotated[float, typer.Option(help="Share for development; 0 for none.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test; 0 for none.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Same seed, same split.")] = 0,
    disjoint_texts: Annotated[
        bool, typer.Option("--disjoint-texts", help="Keep each text in one split, dropping some.")
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            help="What stays in one split: speaker, session, text, or auto: by speaker where there "
            "are enough speakers, else by session and text."
        ),
    ] = "auto",
    by_field: Annotated[
        bool, typer.Option("--by-field", help="Split by the manifest's own split field instead.")
    ] = False,
    local_speakers: Annotated[
        bool | None,
        typer.Option(
            "--local-speakers/--global-speakers",
            help="Labels such as SPEAKER_00 or A are another person in each recording, or the same "
            "[default: by how they are spread over the recordings].",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier split.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Split a manifest into train, dev and test, with no speaker in two splits.

    With one voice, or none named, no text and where possible no session is in two splits.
    """
    from moonshine_tune.data.split import SplitRequest, split_data

    request = SplitRequest(
        manifest, out, dev, test, seed, disjoint_texts, by_field, force, local_speakers, by
    )
    result = split_data(request, TerminalProgress())
    for remark in result.remarks:
        say(remark)
    rows = [
        [side.name, str(side.utterances), _duration(side.seconds), str(side.speakers or "-")]
        for side in result.sides
    ]
    lines = [table(["split", "utterances", "length", "speakers"], rows)]
    lines.append(f"kept {result.kept:,} of {result.total:,}")
    for name in ("speakers", "recordings", "texts"):
        lines.append(f"{len(getattr(result.leaks, name)):,} {name} in more than one split")
    lines += [
        f"a score on {side.name} is {side.voices.sentence}" for side in result.sides if side.voices
    ]
    if result.leaks.texts and not disjoint_texts:
        say("hint: if sentences should be new to the model, split with --disjoint-texts")
    lines.append(_after_split(out, {side.name for side in result.sides if side.utterances}))
    show("\n".join(lines), result, as_json=as_json)


def _after_split(out: Path, splits: set[str]) -> str:
    """The next command, with paths quoted for a shell."""
    dev = f" --dev {quoted(out / 'dev.jsonl')}" if "dev" in splits else ""
    train = quoted(out / "train.jsonl")
    return f"next: moonshine-tune train --train {train}{dev} --out runs/first"


@app.command(
    "keyterms",
    epilog="Examples: moonshine-tune data keyterms train.jsonl --model streaming-tiny "
    "--out terms.txt ; moonshine-tune data keyterms --from-corrections corrected.jsonl "
    "--out terms.txt",
)
def keyterms_command(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Manifests (.jsonl) or plain texts.")
    ] = None,
    from_corrections: Annotated[
        Path | None,
        typer.Option(
            help="Manifest of data import --corrections: propose the words that were corrected."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model whose tokenizer decides which words are rare.")
    ] = "tiny",
    at_most: Annotated[
        int, typer.Option(help="Maximum number of terms: a long list costs the other words.")
    ] = 100,
    least: Annotated[
        int, typer.Option(help="Minimum number of occurrences, or corrections, of a word.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write, one term per line.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Propose key terms: words that the model's tokenizer has no token of its own for, or words
    that a person had to correct.
    """
    if bool(sources) == (from_corrections is not None):
        raise RequestError(
            "name either manifests and texts, or a manifest of corrections",
            hint="moonshine-tune data keyterms train.jsonl, or moonshine-tune data keyterms "
            "--from-corrections corrected.jsonl",
        )
    if from_corrections is not None:
        from moonshine_tune.data.corrected_terms import propose_from_corrections

        result = propose_from_corrections(
            from_corrections, out=out, at_most=at_most, least=least, force=force
        )
        rows = [[item.term, str(item.count), str(item.missed)] for item in result.terms]
        text = table(["term", "occurrences", "corrected"], rows)
    else:
        from moonshine_tune.data.keyterms import propose

        result = propose(
            sources or [],
            model=model,
            progress=TerminalProgress(),
            out=out,
            at_most=at_most,
            least=least,
            force=force,
        )
        rows = [[item.term, str(item.count), str(item.pieces)] for item in result.terms]
        text = table(["term", "occurrences", "tokens"], rows)
    if out is not None:
        text += f"\nwrote {len(rows)} terms to {out}: remove terms that need no help"
    show(text, result.to_record(), as_json=as_json)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


align.register(app)
aliases.register(app)
audit.register(app)
forget.register(app)
next_sentences.register(app)
synth.register(app)
