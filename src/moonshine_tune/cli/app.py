"""The command line. Each command imports its work inside its function: `--help` loads no torch."""

import io
import os
import sys
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import typer

from moonshine_tune.cli.console import lasting_stderr, report_error, say, show_error_document
from moonshine_tune.cli.help import (
    SectionedCommandGroup,
    examples_at,
    improve_help,
    usage_error,
)
from moonshine_tune.core.environment import apply_environment_defaults
from moonshine_tune.core.errors import MachineError, RequestError, TuneError
from moonshine_tune.core.files import check_writable, disk_errors
from moonshine_tune.core.machine_errors import little_memory_error, machine_error
from moonshine_tune.core.signals import interrupt_on_signals
from moonshine_tune.core.text import first_line
from moonshine_tune.core.version import VERSION

# What Path.resolve raises before Python 3.13.
_LOOP = "Symlink loop from "
# Commands that only look into --out.
_READ_ONLY = {"doctor", "status"}
_INTERRUPTED = 130

app = typer.Typer(
    name="moonshine-tune",
    cls=SectionedCommandGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    # Plain help text: half the start-up time, and square brackets are printed as they are.
    rich_markup_mode=None,
    help="Adapt Moonshine speech recognition to your domain, on your own machine.",
    epilog="moonshine-tune COMMAND --help shows the options of a command, with an example. Add "
    "--debug to any command for the full stack trace of an error.",
)


def _version(requested: bool) -> None:
    if requested:
        sys.stdout.write(f"moonshine-tune {VERSION}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    del version


def _register() -> None:
    from moonshine_tune.cli import (
        ablate,
        apply,
        benchmark,
        combine,
        curve,
        data,
        demo,
        doctor,
        estimate,
        evaluate,
        export,
        merge,
        models,
        package,
        plan,
        report,
        runs,
        settings,
        studio,
        train,
        transcribe,
        try_models,
    )

    app.add_typer(models.app, name="models")
    app.add_typer(data.app, name="data")
    for module in (doctor, settings, estimate, train, evaluate, transcribe, try_models, export,
                   combine, apply, merge, benchmark, package, report, demo, ablate, curve, plan,
                   runs, studio):  # fmt: skip
        module.register(app)


_register()


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code and never raises.

    0 done; 1 the answer is no; 2 the request is wrong; 3 this machine cannot; 130 interrupted, by
    Ctrl-C, SIGTERM or SIGHUP.
    """
    with lasting_stderr():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    apply_environment_defaults()
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    as_json = "--json" in arguments
    try:
        _refuse_windows()
        with interrupt_on_signals(), disk_errors(Path.cwd()):
            command = typer.main.get_command(app)
            _check_outputs(command)
            improve_help(command)
            code = command(arguments, standalone_mode=False)
        if code == _INTERRUPTED:
            # Newer typer releases turn the exception into this code.
            say("interrupted")
        return code if isinstance(code, int) else 0
    except (typer.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError) and not sys.stdin.isatty():
            # The parser takes every end of a file for that of what is typed.
            return report_error(_plain_error(error.__cause__), as_json=as_json)
        say("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        return _end_without_reader()
    except SystemExit as ended:
        # The parser ends the program with 1, which would be an answer of no.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _end_without_reader()
    except Exception as error:
        usage = _usage_error_code(error, as_json=as_json)
        if usage is not None:
            return usage
        if debug:
            say(traceback.format_exc())
        return report_error(_plain_error(error), as_json=as_json)


def _end_without_reader() -> int:
    """The reader of stdout (head, less) is gone, so there is nobody to report to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _plain_error(error: Exception) -> TuneError:
    """The error that is shown for any exception. Only faults of this program are unexpected."""
    known = machine_error(error)
    if known is None and isinstance(error, TuneError):
        return error
    if known is None and isinstance(error, OSError) and error.filename is not None:
        # A name that is too long, a folder in the place of a file, a file that is gone.
        return RequestError(f"cannot be opened ({error.strerror})", where=str(error.filename))
    if known is None and isinstance(error, FileNotFoundError) and _is_folder_gone():
        return RequestError(
            "the folder in which this was started is gone", hint="change to another: cd ~"
        )
    if known is None and isinstance(error, RuntimeError) and str(error).startswith(_LOOP):
        return RequestError(
            "a symbolic link that leads to itself",
            where=str(error).removeprefix(_LOOP).strip("'"),
            hint="remove it, or name the folder that was meant",
        )
    return (
        known
        or little_memory_error(error)
        or TuneError(
            f"unexpected {type(error).__name__}: {first_line(error)}",
            hint="run the same command again with --debug, and report what it prints",
        )
    )


def _is_folder_gone() -> bool:
    """Whether the working folder was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _check_outputs(command: Any) -> None:
    """Let every command check its --out before it works: hours of work must have a place."""
    for child in getattr(command, "commands", {}).values():
        _check_outputs(child)
    for option in command.params:
        if option.name == "out" and command.name not in _READ_ONLY:
            option.callback = _writable


def _writable(_context: Any, _option: Any, path: Any) -> Any:
    if path is not None:
        check_writable(Path(path))
    return path


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise MachineError(
            "moonshine-tune does not run on Windows itself, only inside WSL (Linux on Windows)",
            hint="run: wsl --install ; then install and run moonshine-tune in its terminal",
        )


def _usage_error_code(error: Exception, *, as_json: bool) -> int | None:
    """Show an error of the command-line parser and return its code; None for any other error.

    Recognized by its interface, because newer typer releases have parser classes of their own.
    """
    shows, code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if not callable(shows) or not isinstance(code, int):
        return None
    # It quotes what was typed.
    message = io.StringIO()
    with redirect_stderr(message):
        shows()
    say(message.getvalue())
    if not _is_list_of_commands(error):
        if examples := examples_at(error):
            say(f"\n{examples}")
        if as_json:
            show_error_document(usage_error(error))
    return code


def _is_list_of_commands(error: Exception) -> bool:
    """Whether the parser shows the help of a group that was called without a command."""
    return type(error).__name__ == "NoArgsIsHelpError"
