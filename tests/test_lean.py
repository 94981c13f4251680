"""What `-p tests.lean` ends early has said what it found."""

import subprocess
import sys

import pytest

from lib.study.paths import ROOT


@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["alone", "worker"])
@pytest.mark.parametrize("wanted, code", [("True", 0), ("False", 1)])
def test_the_exit_code_says_whether_tests_failed(tmp_path, wanted, code, more):
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    assert {wanted}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.lean", "-p", "no:nbval", "--no-cov"]
    command += ["-p", "no:cacheprovider", "-q", *more, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert ("1 failed" if code else "1 passed") in done.stdout.splitlines()[-1]
