"""A plugin for nbval, `-p tests.nbval_forked`: kernels forked from a process that has torch loaded.

Each would import it for seconds. Where `lib.study.forking` allows none they start as usual.
"""

import nbval.kernel

from lib.study.reports.kernel import BlockingForkedKernel


def kernel(**asked):
    """Whatever is asked for, the kernel of a report: this interpreter with this `lib`."""
    return BlockingForkedKernel()


nbval.kernel.KernelManager = kernel
