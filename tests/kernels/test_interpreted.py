"""The kernels run by Triton's interpreter.

It must be chosen before they are imported (`TRITON_INTERPRET=1`): the tests in `interpreted`, which
compare every kernel with the plain code, run in a process of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
FOLDER = str(Path(__file__).parent / "interpreted")


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: pip install triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU runs them: test_on_a_gpu.py")
def test_the_kernels_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", FOLDER]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {k: v for k, v in environment.items() if not k.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr  # every failure, each with its report
    assert re.search(r"^\d+ passed", done.stdout.splitlines()[-1]), done.stdout
