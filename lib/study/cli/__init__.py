"""One command line: `python -m lib COMMAND`, or `entropy-prune COMMAND` where installed.

A user's error ends in one line, `error: ...`, and exit code 1; Ctrl-C in one line and 130. With
`ENTROPY_PRUNE_TRACEBACK=1` an error shows where it arose, too. What a command needs is imported
when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

import typer

from . import make, measure, reports, upkeep

__all__ = ["app", "main"]

TRACEBACK = "ENTROPY_PRUNE_TRACEBACK"
INTERRUPTED = 130
#: what typer raises for a wrong option; the package it takes its parser from differs by version
WRONG_USE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
#: errors that a user can mend: bad input, a stopped part, or what the system refuses
USER_ERRORS = (ValueError, RuntimeError, OSError)


def _typer(name: str, about: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=about,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def _add(to: typer.Typer, commands: Sequence[Callable[..., object]]) -> None:
    for command in commands:
        to.command()(command)


app = _typer(
    "entropy-prune",
    "Entropy-Prune: matrix-entropy pruning of visual tokens, and its reproducible study.",
)
for module in (make, measure, upkeep):
    _add(app, module.COMMANDS)
pages = _typer("report", "Notebooks, figures and pages of a profile.")
_add(pages, reports.COMMANDS)
app.add_typer(pages)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, this process's if None is given; returns the exit code."""
    if argv is None:
        # a start imports much, in which a search for garbage finds none
        gc.set_threshold(20_000, 20, 50)
    with contextlib.suppress(AttributeError):  # a terminal without some sign shows '?' for it
        sys.stdout.reconfigure(errors="replace")
    try:
        code = app(args=None if argv is None else list(argv), standalone_mode=False)
    except WRONG_USE as error:
        return _say(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        return _say(_text(error))
    if code == INTERRUPTED and os.environ.get("RANK", "0") == "0":  # once for several processes
        print("interrupted: all that was recorded is kept", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _say(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


def _text(error: BaseException) -> str:
    """What went wrong, in one line, with the notes that were added on the way."""
    said = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        said = f"the disk is full: {said}. All that was recorded is kept."
    said = "\n".join([said, *getattr(error, "__notes__", ())]).strip()
    # lists stand on lines of their own, indented
    said = re.sub(r":\n\s+", ": ", said)
    said = re.sub(r"\n\s+", "; ", said)
    return re.sub(r"\s*\n\s*", " ", said)
