"""Processes that have torch and transformers loaded as they start: forked from one that has.

Importing them takes a process five seconds; a study and its notebooks start some fifteen. A server
(`multiprocessing.forkserver`) imports them once, computes nothing and forks. What it forks is what
a new interpreter would be after these imports, so no result changes; it is asked for only where
that is certain, and `start` returns None elsewhere, for the caller to start a process as usual:

- on Linux: elsewhere a fork is missing, or unsafe in a process that uses the system's libraries;
- without a GPU, since drivers do not survive a fork;
- in the environment the server was started in, since libraries read variables as they load: the
  number of threads, above all. Those in `LATER` may differ.

Nothing of the process that asks reaches what is forked, but for the environment and the folder it
names: not its path, its main module or its warnings, nor the options Python was given (`-W`, `-X`).
"""

from __future__ import annotations

import functools
import gc
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection, context, forkserver, popen_forkserver, process, util
from pathlib import Path
from typing import Any

from . import paths

__all__ = ["Forked", "command", "possible", "start", "warm", "warmed"]

#: what the server imports; a package that is missing is left to whoever needs it. Nothing of this
#: project, and nothing that looks as it loads whether it is in a notebook, as pandas does.
PRELOADED = (
    "torch._dynamo",
    "transformers.models.llava_next.modeling_llava_next",
    "scipy.optimize",
    "scipy.stats",
    "matplotlib.pyplot",
    "ipykernel.kernelapp",
)
#: what some of these bring along that looks for a notebook, too, and is loaded anew
_AGAIN = ("tqdm.auto", "tqdm.autonotebook")
#: how the variables begin that are read when they are asked for, not as one of these loads, or that
#: libraries set themselves as they load
LATER = (
    "ENTROPY_PRUNE_", "JPY_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTEST_", "COV_", "KMP_",
    "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
#: the server's unless they are set: what a kernel says of figures, debuggers and hubs
_SERVER = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_OWN = _SERVER.keys() - {"MPLBACKEND"}
#: what the server does first: it searches nothing it imports for garbage, nor takes it apart as it
#: ends. Ctrl-C ends it, and what it has just forked, without a word: whoever asked has one to say.
_QUICKLY = (
    "import atexit, gc, os, signal; gc.disable(); atexit.register(os._exit, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
)

_LOCK = threading.RLock()
_born: dict[str, str] = {}
#: multiprocessing's may be running already, with whatever somebody else had it import
_OWN_SERVER = forkserver.ForkServer()


class Forked:
    """A forked process, with what callers use of `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, process: Any) -> None:
        self._process = process
        self.pid: int = process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with _LOCK:  # whoever reads the code first has it
            return self._process.exitcode

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        connection.wait([self._process.sentinel])
        while (code := self.poll()) is None:
            pass
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class _Process(process.BaseProcess):
    """A process of our server. begins: what is set in it before it reads what it has to do."""

    _start_method = None  # how it starts others is Python's default

    def __init__(self, begins: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.begins = begins

    @staticmethod
    def _Popen(process_obj: _Process) -> _Popen:
        return _Popen(process_obj)


class _Popen(popen_forkserver.Popen):
    """As multiprocessing's, but that our server is asked and nothing else said of this process."""

    def _launch(self, process_obj: _Process) -> None:
        begins = {"name": process_obj.name, "authkey": bytes(process.current_process().authkey)}
        said = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            context.reduction.dump(begins | process_obj.begins, said)
            context.reduction.dump(process_obj, said)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, given = _OWN_SERVER.connect_to_new_process(self._fds)
        # whose other end tells the child that this process lives
        ours = os.dup(given)
        self.finalizer = util.Finalize(self, util.close_fds, (ours, self.sentinel))
        with open(given, "wb") as pipe:
            pipe.write(said.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def possible() -> bool:
    """Whether a forked process is as good as a started one here."""
    if sys.platform != "linux":
        return False
    import torch

    return not torch.cuda.is_available()


def warm(environment: Mapping[str, str]) -> bool:
    """Have the server import meanwhile; False: it cannot serve a process of this environment."""
    wanted = _early(environment)
    with _LOCK:
        if not _born and possible():
            _start_server(dict(environment))
            _born.update(wanted)
        return _born == wanted


def warmed(environment: Mapping[str, str]) -> bool:
    """Whether the server was started, and can serve a process of this environment."""
    return bool(_born) and warm(environment)


def start(
    function: Callable[..., Any],
    *args: Any,
    environment: Mapping[str, str],
    folder: Path,
    interrupted: bool = True,
) -> Forked | None:
    """Call a function of a module in a forked process; None where it has to be a new one.

    environment: all variables of the process. folder: where it works. It ends with this process.
    interrupted: Ctrl-C interrupts the function, as any of Python's; or it is let alone.
    """
    if not warm(environment):
        return None
    path = list(dict.fromkeys([*_own_path(environment), *_interpreter_path()]))
    child = _Process(
        {"sys_path": path, "dir": str(folder)},
        target=_become, args=(dict(environment), str(paths.ROOT), interrupted, function, args),
        daemon=True,
    )  # fmt: skip
    with _LOCK:
        child.start()
    return Forked(child)


def command(arguments: Sequence[str]) -> int:
    """`python -m lib` with these arguments: for `start`."""
    # by name, as a started process has it: what is forked does not depend on the command line
    sys.argv = [str(paths.PACKAGE / "__main__.py"), *arguments]
    return importlib.import_module(".cli", __package__).main(arguments)


def _own_path(environment: Mapping[str, str]) -> list[str]:
    """What PYTHONPATH adds, ours first: there a new interpreter finds our package."""
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    return [str(paths.PACKAGE.parent), *filter(None, named)]


@functools.cache
def _interpreter_path() -> tuple[str, ...]:
    """Where a new interpreter looks for modules, whatever this process has added since it began."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "import json, sys; print(json.dumps([p for p in sys.path if p]))"
    asked = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    )
    return tuple(json.loads(asked.stdout))


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment may decide what an import does."""
    later = {name for name in environment if name.startswith(LATER)} | _OWN
    return {name: value for name, value in environment.items() if name not in later}


def _start_server(environment: dict[str, str]) -> None:
    """Start the server with these variables, which it takes from this process, and nothing else."""
    before, options = dict(os.environ), util._args_from_interpreter_flags
    spawn = util.spawnv_passfds

    def quickly(path: Any, args: list[Any], passed: Sequence[int]) -> int:
        return spawn(path, [*args[:-1], _QUICKLY + args[-1]], passed)

    try:
        _set_variables(_SERVER | environment)
        util._args_from_interpreter_flags = list  # a started kernel is given none either
        util.spawnv_passfds = quickly
        _OWN_SERVER.set_forkserver_preload(list(PRELOADED))
        _OWN_SERVER.ensure_running()
    finally:
        util._args_from_interpreter_flags, util.spawnv_passfds = options, spawn
        _set_variables(before)


def _set_variables(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _become(
    environment: dict[str, str],
    root: str,
    interrupted: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """Go on as the process that was asked for."""
    gc.freeze()  # what the server imported is no garbage, and its memory is shared while untouched
    gc.enable()
    threading.Thread(target=_end_with, args=(process.parent_process(),), daemon=True).start()
    _set_variables(environment)
    paths.ROOT = Path(root)
    for name in _AGAIN:
        sys.modules.pop(name, None)
    _reseed()
    # which may start others
    process.current_process().daemon = False
    signal.signal(signal.SIGINT, signal.default_int_handler if interrupted else signal.SIG_IGN)
    sys.exit(function(*args))


def _reseed() -> None:
    """What is not seeded differs from process to process, as ever."""
    import numpy
    import torch

    torch.seed()
    numpy.random.seed()


def _end_with(parent: Any) -> None:
    """The server outlives whoever asked it, and would be waited for."""
    connection.wait([parent.sentinel])
    os._exit(1)
