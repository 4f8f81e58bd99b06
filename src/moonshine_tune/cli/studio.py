"""`moonshine-tune studio`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from moonshine_tune.cli.console import emit, say
from moonshine_tune.core.errors import MachineError

_EXAMPLE = "Examples: moonshine-tune studio my-voice ; moonshine-tune studio my-voice --port 8400"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("studio", epilog=_EXAMPLE)(studio)


def studio(
    folder: Annotated[
        Path | None,
        Argument(
            help="Project folder; made if it does not exist [default: this one if it is a "
            "project, or my-voice]."
        ),
    ] = None,
    port: Annotated[
        int,
        Option(min=0, max=65535, help="Port of the page [default: as before, or a free one]."),
    ] = 0,
    model: Annotated[str | None, Option(help="Model of the project [default: tiny].")] = None,
    browser: Annotated[
        bool, Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Record, label, train and try on one local page, which only this machine can open.

    Everything is ordinary files in the folder: the command line goes on with them. Ctrl-C ends it;
    a training that runs is saved first.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MachineError(
            "the page needs the packages starlette and uvicorn",
            hint="install them with: pip install 'moonshine-tune[studio]'",
        ) from error
    from moonshine_tune.studio.serve import serve

    def on_ready(address: str) -> None:
        emit(f"{address}\n")
        say("open this address in a browser on this machine; Ctrl-C ends the studio")
        if browser:
            import webbrowser

            webbrowser.open(address)

    if folder is None:
        folder = Path() if Path("studio.json").is_file() else Path("my-voice")
    say(f"project folder: {folder.resolve()}")
    serve(folder, port, model, on_ready, say)
