"""`moonshine-tune data forget`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moonshine_tune.cli.console import JsonFlag, TerminalProgress, show

if TYPE_CHECKING:
    from moonshine_tune.release.forget import ForgetPlan, ForgetRequest

_LISTED = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "forget",
        epilog="Examples: moonshine-tune data forget anna --in . ; "
        "moonshine-tune data forget anna --in . --audio --yes",
    )(forget)


def forget(
    speakers: Annotated[list[str], typer.Argument(help="Names as in the manifests.")],
    manifests: Annotated[
        list[Path] | None, typer.Option("--manifest", help="Manifest to change; repeatable.")
    ] = None,
    folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--in",
            help="Folder whose manifests, runs, reports and packages are looked through; "
            "repeatable.",
        ),
    ] = None,
    audio: Annotated[
        bool, typer.Option("--audio", help="Delete the recordings themselves, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only shown.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take a person's recordings out of manifests, scores, reports and caches; shows it first.

    Runs, exported files and packages that learned from them are listed, also through
    `train --from`: what a model has learned cannot be taken out of it.
    """
    from moonshine_tune.release.forget import ForgetRequest, plan_forgetting
    from moonshine_tune.release.forget import forget as run_forget

    request = ForgetRequest(tuple(speakers), tuple(manifests or ()), tuple(folders or ()), audio)
    plan = (run_forget if yes else plan_forgetting)(request, TerminalProgress())
    show(_summary(request, plan), _document(plan), as_json=as_json)


def _document(plan: "ForgetPlan") -> dict[str, Any]:
    files = {"manifests": plan.manifests, "scored": plan.scored}
    return {
        "speakers": plan.names,
        "utterances": plan.num_utterances,
        **{name: {str(i.path): i.removed for i in items} for name, items in files.items()},
        "records": [str(path) for path in plan.records],
        "deleted": [str(path) for path in plan.deleted],
        "caches": [str(path) for path in plan.caches],
        "recordings": [str(path) for path in plan.recordings],
        "shared": [str(path) for path in plan.shared],
        "learned": dict(plan.learned),
        "remarks": plan.remarks,
        "done": plan.is_done,
    }


def _summary(request: "ForgetRequest", plan: "ForgetPlan") -> str:
    names = ", ".join(plan.names)
    lines = [f"{names}: {plan.num_utterances} utterances in {len(plan.manifests)} manifests"]
    lines += _listed("lose lines", [f"{i.path}: {i.removed}" for i in plan.manifests + plan.scored])
    lines += _listed("lose the name and its scores", list(map(str, plan.records)))
    lines += _listed("are deleted, and can be made again", list(map(str, plan.deleted)))
    if plan.caches:
        lines.append(f"{len(plan.caches)} files of the cache are deleted, and made again if needed")
    if request.deletes_audio:
        lines += _listed("recordings are deleted", list(map(str, plan.recordings)))
    elif plan.recordings:
        lines.append(f"{len(plan.recordings)} recordings stay; --audio deletes them")
    lines += _listed("recordings stay: other people speak in them", list(map(str, plan.shared)))
    lines += _listed(
        "learned from these recordings", [f"{path}: {todo}" for path, todo in plan.learned.items()]
    )
    lines += plan.remarks
    if plan.is_done:
        lines.append("done; forgotten.json says what was removed, without texts")
    else:
        lines.append(f"nothing is changed yet; do it with: {_command(request)}")
    return "\n".join(lines)


def _listed(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = len(items) - _LISTED
    shown = [f"  - {item}" for item in items[:_LISTED]]
    return [f"{len(items)} {title}:", *shown, *([f"  … and {more} more"] if more > 0 else [])]


def _command(request: "ForgetRequest") -> str:
    words = ["moonshine-tune", "data", "forget", *request.speakers]
    words += [word for path in request.manifests for word in ("--manifest", str(path))]
    words += [word for path in request.folders for word in ("--in", str(path))]
    return shlex.join([*words, *(["--audio"] if request.deletes_audio else []), "--yes"])
