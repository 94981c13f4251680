"""The kernel of a report: this interpreter with this very `lib`, whatever Jupyter has installed.

A machine may offer another Python under the name "python3" (JupyterHub, environment modules, a
virtual environment's own), which would run other versions unnoticed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from .. import paths

__all__ = ["KERNEL", "OwnKernel", "kernel_spec", "sharing_cores"]

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


class OwnKernel(AsyncKernelManager):
    """Starts `kernel_spec`, whatever kernel it is asked for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return kernel_spec()


@contextmanager
def sharing_cores(kernels: int) -> Iterator[None]:
    """Kernels started inside the block take an equal part of the cores, unless a number is set.

    Threads that fight over cores wait for each other at every operation: several times slower.
    """
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // kernels))
    try:
        yield
    finally:
        del os.environ[name]
