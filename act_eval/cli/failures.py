"""How the program ends when a command fails: one line and an exit code; the traceback only where it is asked for."""

from __future__ import annotations

import functools
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

import typer

from act_eval.errors import InputError
from act_eval.launch import is_first_launched

__all__ = ["DEBUG_HELP", "failures_in_one_line", "goes_on", "split_debug"]

DEBUG_HELP = "With --debug anywhere on the line, or with ACT_EVAL_DEBUG=1, an error shows its traceback."

_DEBUG_OPTION = "--debug"
_DEBUG_VARIABLE = "ACT_EVAL_DEBUG"
_LONGEST_REASON = 400
_BAD_INPUT, _OTHER_FAILURE = 2, 1
_UsageError = typer.BadParameter.__bases__[0]  # of click, which typer has inside or beside it, depending on its release

Command = TypeVar("Command", bound=Callable[..., Any])


class Termination(KeyboardInterrupt):
    """The program was told to end, by SIGTERM."""


def split_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take `--debug` out of a command line, wherever it stands before `--`.

    No option of the program or of lm_eval has this name, so that what is left is what they would have got.

    Returns:
        The other arguments, and whether tracebacks are to be shown, as the option or the environment says.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != _DEBUG_OPTION]
    asked = len(rest) < end or os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0")
    return [*rest, *arguments[end:]], asked


def goes_on(command: Command) -> Command:
    """Mark a command that, given again, goes on where it was stopped: the line that its interruption ends with says so."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            stop.args = ("the same command goes on where it stopped.",)
            raise

    return run  # type: ignore[return-value]


@contextmanager
def failures_in_one_line(debug: bool) -> Iterator[None]:
    """End the program with one line on stderr where the block raises.

    The exit code is 2 for what the user can mend (InputError, and a command line that cannot be read), 130 for Ctrl-C, 143 for
    SIGTERM, and 1 for everything else.

    Args:
        debug: whether the traceback is shown before the line.

    Raises:
        SystemExit: the block raised.
    """
    with _stopped_by_signals():
        try:
            yield
        except SystemExit as end:
            if debug and end.__cause__ is not None:
                traceback.print_exception(end.__cause__)
            raise
        except typer.Exit as end:
            raise SystemExit(end.exit_code) from None
        except BrokenPipeError:  # whoever reads the output has had enough; Python would complain at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_OTHER_FAILURE) from None
        except BaseException as error:
            _end(error, debug)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end the program as Ctrl-C does, and both end its children silently."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Termination

    def end_silently() -> None:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    previous = signal.signal(signal.SIGTERM, terminate)
    os.register_at_fork(after_in_child=end_silently)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(error: BaseException, debug: bool) -> NoReturn:
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the program at once, and silently
    if debug:
        traceback.print_exception(error)
    _clear_frames(error)
    line, exit_code = _explained(error)
    if line and (is_first_launched() or not isinstance(error, KeyboardInterrupt)):
        print(f"act-eval: {line}", file=sys.stderr)
    raise SystemExit(exit_code) from None


def _clear_frames(error: BaseException | None) -> None:
    """Free what was under way when an error was raised, so that progress bars end before the line is printed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _explained(error: BaseException) -> tuple[str, int]:
    """What to tell the user in a line, and the exit code."""
    if isinstance(error, Termination):
        return _stopped("terminated", error), 128 + signal.SIGTERM
    if isinstance(error, KeyboardInterrupt):
        return _stopped("interrupted", error), 128 + signal.SIGINT
    if isinstance(error, _UsageError):
        return _usage(error), _BAD_INPUT
    if isinstance(error, InputError):
        return " ".join(str(error).split()), _BAD_INPUT
    reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
    name = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return f"{name.rstrip('.')}. The same command with {_DEBUG_OPTION} shows where.", _OTHER_FAILURE


def _stopped(what: str, error: KeyboardInterrupt) -> str:
    return ": ".join([what, *map(str, error.args)])


def _usage(error: Any) -> str:
    """What is wrong with a command line; empty where its help has been printed, since it names no command."""
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "act-eval"
    return message and f"{message[0].lower()}{message[1:]} (see `{command} --help`)."
