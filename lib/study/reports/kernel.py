"""The kernel of a report: this interpreter with this very `lib`, whatever Jupyter has installed.

A machine may offer another Python under the name "python3" (JupyterHub, environment modules, a
virtual environment's own), which would run other versions unnoticed.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning import LocalProvisioner

from .. import forking, paths
from ..cores import THREADS, threads_each

__all__ = [
    "KERNEL",
    "BlockingForkedKernel",
    "ForkedKernel",
    "OwnKernel",
    "kernel_spec",
    "sharing_cores",
]

#: the name that notebooks carry; any Jupyter finds a kernel for it
KERNEL = "python3"


def kernel_spec() -> KernelSpec:
    """A kernel in this interpreter, looking at this root; no telemetry, no debugger warnings."""
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(paths.PACKAGE.parent), before]))
    return KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        env={
            "PYTHONPATH": path,
            "ENTROPY_PRUNE_ROOT": str(paths.ROOT),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
    )


class _Own(KernelManager):
    @property
    def kernel_spec(self) -> KernelSpec:
        return kernel_spec()


class BlockingForkedKernel(_Own):
    """`ForkedKernel` for whoever waits for each answer, as nbval does."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kernel_id = self.kernel_id or str(uuid.uuid4())
        self.provisioner = _Forking(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )


class OwnKernel(_Own, AsyncKernelManager):
    """Starts `kernel_spec`, whatever kernel it is asked for."""


class ForkedKernel(BlockingForkedKernel, AsyncKernelManager):
    """The same kernel, forked where that is possible: worth it from the second one on."""


class _Forking(LocalProvisioner):
    """Forks a kernel, or starts one as usual."""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        folder = Path(options.get("cwd") or Path.cwd())
        environment = options.get("env") or os.environ
        forked = forking.start(_kernel, arguments, environment=environment, folder=folder)
        if forked is None:
            return await super().launch_kernel(cmd, **options)
        self.process, self.pid, self.pgid, self.cwd = forked, forked.pid, forked.pid, folder
        return self.connection_info


def _kernel(arguments: list[str]) -> None:
    """Be a kernel: as `ipykernel_launcher`, in a session of its own, which no Ctrl-C reaches."""
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()
    sys.argv = ["ipykernel_launcher", *arguments]
    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


@contextmanager
def sharing_cores(kernels: int) -> Iterator[None]:
    """Kernels started inside the block take an equal part of the cores, unless a number is set.

    Threads that fight over cores wait for each other at every operation: several times slower.
    """
    if THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(threads_each(kernels))
    try:
        yield
    finally:
        del os.environ[THREADS]
