"""`moonshine-tune data audit` and `data fix`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moonshine_tune.cli.console import (
    JsonFlag,
    TerminalProgress,
    refuse,
    say,
    show,
    table,
)
from moonshine_tune.cli.options import DeviceOption
from moonshine_tune.core.text import quoted
from moonshine_tune.corpus.transcript_form import clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moonshine_tune.data.base_style import StyledTexts
    from moonshine_tune.data.checks.audit import Audit
    from moonshine_tune.data.checks.base import Finding
    from moonshine_tune.data.checks.fix import FixResult

_EXAMPLES = 3
_SHOWN = 10
_STYLE = "base"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "audit",
        epilog="Example: moonshine-tune data audit train.jsonl --against test.jsonl --out audit",
    )(audit)
    app.command(
        "fix",
        epilog="Examples: moonshine-tune data fix audit ; "
        "moonshine-tune data fix audit --out fixed.jsonl --apply --also doubtful_text ; "
        "moonshine-tune data fix train.jsonl --style base --out styled.jsonl --apply",
    )(fix)


def audit(
    manifest: Annotated[Path, typer.Argument(help="Manifest to audit.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for audit.html and audit.json.")
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another split, to detect leakage and unseen words; repeatable."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Base model whose tokenizer and transcripts are used.")
    ] = "tiny",
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Skip what needs a model: seconds, not minutes.")
    ] = False,
    normalizer: Annotated[
        str | None, typer.Option(help="english-1, spelled-1 or basic-1 [default: by language].")
    ] = None,
    max_listened: Annotated[
        int, typer.Option(min=1, help="Maximum number of utterances that the model transcribes.")
    ] = 2_000,
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Audit a corpus: recordings, texts, words, doubtful transcripts and leakage, with players.

    Exit 1 if a finding is an error. `data fix` acts on the findings.
    """
    from moonshine_tune.core.locks import one_writer
    from moonshine_tune.data.checks.audit import AUDIT_FILE, PAGE_FILE, audit_data
    from moonshine_tune.report.audit_page import write_audit_page

    progress = TerminalProgress()
    with one_writer(out):
        result = audit_data(
            manifest,
            progress,
            against=against or (),
            model=None if no_model else model,
            device=device,
            normalizer=normalizer,
            max_transcribed=max_listened,
        )
        record = result.to_record()
        record.write(out / AUDIT_FILE)
        write_audit_page(result, out / PAGE_FILE, progress)
    say(f"report: {out / PAGE_FILE}")
    show(_audit_text(result, out), record.to_json(), as_json=as_json)
    refuse(not result.passed)


def fix(
    audit_folder: Annotated[
        Path,
        typer.Argument(
            metavar="AUDIT", help="Folder of `data audit`; with --style, or a manifest."
        ),
    ],
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="The new manifest.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it; without, only show what would be done.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Also act on this finding, which may be right as it is, such as doubtful_text; "
            "repeatable."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Ignore this kind of finding; repeatable.")
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            help="base: write punctuation and case as the base model does; words stay as they are."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="With --style: the base model to train.")] = "tiny",
    device: DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing manifest.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a manifest without the problems of an audit, and count what was left out."""
    from moonshine_tune.core.errors import RequestError
    from moonshine_tune.data.checks.fix import StyleRequest, fix_data

    if style not in (None, _STYLE):
        raise RequestError(f"no style is called {style!r}", hint=f"write: --style {_STYLE}")
    if apply and out is None:
        raise RequestError(
            "--apply needs a name for the new manifest", hint="name it with: --out fixed.jsonl"
        )
    result = fix_data(
        audit_folder,
        out=out if apply else None,
        also=also or (),
        skip=skip or (),
        force=force,
        style=StyleRequest(model, device) if style else None,
        progress=TerminalProgress(),
    )
    show(_fix_text(result), result.to_record(), as_json=as_json)


def finding_lines(finding: "Finding", manifest: str = "") -> list[str]:
    """A finding with some examples and what to do.

    Args:
        manifest: name to show.
    """
    examples = list(zip(finding.ids, finding.details, strict=True))
    hidden = len(examples) - _EXAMPLES
    return [
        f"{finding.severity}: {manifest}{finding.kind} × {finding.count:,}",
        f"    {finding.explanation}",
        *(f"    - {name}: {detail}" for name, detail in examples[:_EXAMPLES]),
        *([f"    … and {hidden:,} more"] if hidden > 0 else []),
        f"    what to do: {finding.action}",
    ]


def _audit_text(result: "Audit", out: Path) -> str:
    lines = []
    for finding in result.findings:
        lines += finding_lines(finding)
    rows = [
        [item.name, item.unit, *(f"{item.quantiles[index]:.4g}" for index in (1, 3, 5))]
        for item in result.distributions
    ]
    lines.append(table(["measure", "unit", "5 %", "median", "95 %"], rows))
    if result.vocabulary:
        words = result.vocabulary
        lines.append(
            f"{words.words:,} distinct words, {words.pieces_a_word:.2f} tokens per word"
            + (f", {words.unseen_share:.1%} not in the other splits" if words.unseen else "")
        )
    if result.transcription:
        base = result.transcription
        lines.append(
            f"{base.model} transcribed {base.utterances:,} of {base.of:,} utterances: "
            f"{base.character_error_rate:.1f} % of the characters differ"
        )
    lines += result.advice
    num_fixes = sum(item.usual for item in result.fixes)
    lines.append(
        f"{result.utterances:,} utterances, {result.clean:,} clean; {num_fixes:,} fixes: "
        f"moonshine-tune data fix {quoted(out)}"
    )
    return "\n".join(lines)


def _fix_text(result: "FixResult") -> str:
    would_be = "would be " if result.out is None else ""
    reasons = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result.dropped.items()))
    lines = [
        f"{would_be}kept {result.kept:,} of {result.lines:,}" + (f": {reasons}" if reasons else "")
    ]
    for action, count in sorted(result.edited.items()):
        lines.append(f"{would_be}edited, {action}: {count:,}")
    for name, before, after in result.changes[:_SHOWN]:
        lines.append(f"  {name}: {_visible(before)} → {after}")
    if len(result.changes) > _SHOWN:
        lines.append(f"  … and {len(result.changes) - _SHOWN:,} more; --json lists all")
    if result.style is not None:
        lines += _style_lines(result.style)
    lines += [
        f"left as {'it is' if count == 1 else 'they are'}: {count:,} {kind}; "
        f"act on with: --also {kind}"
        for kind, count in sorted(result.asked.items())
    ]
    lines.append(
        "write it with: --out fixed.jsonl --apply"
        if result.out is None
        else f"{result.out}\nnext: moonshine-tune data check {quoted(result.out)}"
    )
    return "\n".join(lines)


def _style_lines(style: "StyledTexts") -> list[str]:
    """Which texts do not have the base's style, and why."""
    lines = []
    if style.sentence_form:
        lines.append(
            f"a capital and a final mark only, {style.model} transcribes other words: "
            f"{_listed(style.sentence_form)}"
        )
    return lines + [f"{reason}, left alone: {_listed(ids)}" for reason, ids in style.kept.items()]


def _listed(ids: "Sequence[str]") -> str:
    """A number of ids, and the first ones."""
    hidden = len(ids) - _EXAMPLES
    more = f", … and {hidden:,} more" if hidden > 0 else ""
    return f"{len(ids):,} ({', '.join(ids[:_EXAMPLES])}{more})"


def _visible(text: str) -> str:
    """The text; with escapes if it differs from what is read in white space or code points only."""
    return text if clean_text(text) == text else ascii(text)
