"""Notebooks' kernels forked from one process that has the heavy libraries: they load once.

Each notebook still has a kernel, and imports this project, of its own. What starts a kernel without
this is tested in `tests/study/reports/test_kernel.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ != "__main__":  # kernels import this project themselves
    import pytest

    from lib.study.reports import kernel

#: not matplotlib, which asks the kernel for its backend as it loads
LIBRARIES = ("torch._dynamo", "transformers.models.llava_next.modeling_llava_next", "pandas",
             "scipy.stats", "ipykernel.kernelapp", "IPython.display")  # fmt: skip
#: what Jupyter takes for the kernel: it lives until the kernel, which has the other end, has gone
CLIENT = """
import json, os, socket, sys
path, *arguments = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as server:
    server.connect(path)
    request = json.dumps([arguments, dict(os.environ), os.getcwd()])
    server.sendall(request.encode() + b"\\n")
    server.recv(1)
"""


@contextlib.contextmanager
def warm_kernels(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Inside the block, `OwnKernel` forks; of the environment, libraries see what it is now."""
    spec, path = kernel.kernel_spec(), folder / "kernels"
    command = [sys.executable, __file__, str(path)]
    environment = os.environ | spec.env
    pipe, given = subprocess.PIPE, kernel.kernel_spec

    def forked() -> kernel.KernelSpec:
        found = given()
        at = found.argv.index("ipykernel_launcher") + 1
        found.argv = [sys.executable, "-S", "-c", CLIENT, str(path), *found.argv[at:]]
        return found

    # it ends when its input is closed, which a test that is killed does, too
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as server:
        assert server.stdout.readline() == b"ready\n"
        patch.setattr(kernel, "kernel_spec", forked)
        yield


def serve(path: str) -> None:
    """Fork a kernel for every request."""
    for name in LIBRARIES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                be_kernel(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):  # what has ended is let go, and counted
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def be_kernel(connection: socket.socket) -> None:
    """Go on as the kernel that was asked for; does not return."""
    try:
        arguments, environment, folder = json.loads(connection.makefile().readline())
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:1] = ["", *environment["PYTHONPATH"].split(os.pathsep)]
        sys.argv = ["ipykernel_launcher", *arguments]
        sys.modules["ipykernel.kernelapp"].launch_new_instance()
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
