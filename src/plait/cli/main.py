"""``plait``: the commands, and what every one of them does with errors, signals and the exit code.

Exit codes: 0 fine, 1 a mistake in what was given, 2 wrong usage, 75 the disk is full (the same
command goes on from there), 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from plait.cli import (
    compare,
    convert,
    demo,
    doctor,
    export,
    init,
    merge,
    methods,
    models,
    report,
    reshape,
    status,
    validate,
)
from plait.cli.helping import Command, Group, epilog, prose

app = typer.Typer(
    name="plait",
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Many tasks, one model: train it in every known way, measured by one ruler.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "init": init.init,
    "validate": validate.validate,
    "compare": compare.compare,
    "status": status.status,
    "report": report.report,
    "train": models.train,
    "predict": models.predict,
    "export": export.export,
    "merge": merge.merge,
    "convert": convert.convert,
    "extract": reshape.extract,
    "stack": reshape.stack,
    "upcycle": reshape.upcycle,
    "methods": methods.methods,
    "doctor": doctor.doctor,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command, help=prose(command), epilog=epilog(name))(command)


def _version(asked: bool) -> None:
    if asked:
        from plait import __version__

        typer.echo(f"plait {__version__}")
        raise typer.Exit


@app.callback()
def plait(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Many tasks, one model: train it in every known way, measured by one ruler."""
    del debug, version  # the one is read by run(), where errors arrive; the other has left


def run(arguments: list[str] | None = None) -> NoReturn:
    """The command line, then exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal cannot show a character
    before, separator, after = _cut(arguments)
    debug = "--debug" in before
    plain = [word for word in before if word != "--debug"] + separator + after
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=plain, prog_name="plait", standalone_mode=True)
    except KeyboardInterrupt:
        if debug:
            raise
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        if "--json" in before:
            from plait.cli.console import dump

            dump({"error": _message(error)})
        sys.exit(_explain(error))
    sys.exit(0)


def _cut(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What stands before ``--``, and what after: file names there may look like options."""
    if "--" not in arguments:
        return arguments, [], []
    at = arguments.index("--")
    return arguments[:at], ["--"], arguments[at + 1 :]


def _terminate(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _explain(error: Exception) -> int:
    """Say what went wrong in words a user can act on; the exit code."""
    from plait.cli.console import fail

    for line in _message(error).splitlines() or [type(error).__name__]:
        fail(line)
    return int(getattr(error, "exit_code", 1))


def _message(error: Exception) -> str:
    match error:
        case FileNotFoundError() if error.filename:
            return f"{error.filename}: there is no such file"
        case PermissionError() if error.filename:
            return f"{error.filename}: not allowed to read or write it"
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}"
        case ValueError() | OSError() | ImportError():
            return str(error)
        case KeyError():
            detail: Any = error.args[0] if error.args else ""
        case _:
            detail = error
    return f"{type(error).__name__}: {detail}; run again with --debug to see where"


if __name__ == "__main__":
    run()
