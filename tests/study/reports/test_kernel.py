"""Notebooks run in this interpreter, whatever kernels the machine offers."""

import json
import os
import subprocess
import sys

import nbformat

from lib.study import paths
from lib.study.reports import notebooks
from lib.study.reports.kernel import kernel_spec


def test_another_kernel_of_the_same_name_is_not_started(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    other = {"argv": ["/usr/bin/false", "{connection_file}"], "display_name": "Other"}
    (spec / "kernel.json").write_text(json.dumps(other | {"language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    code = "import os, sys, lib; print(sys.executable); print(lib.__file__); print(os.getcwd())"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(book, tmp_path / "a.ipynb")
    output = tmp_path / "out.ipynb"
    notebooks.execute(tmp_path / "a.ipynb", output, {}, log=tmp_path / "log", progress=False)
    said = nbformat.read(output, as_version=4).cells[-1].outputs[0].text.split()
    assert said == [sys.executable, str(paths.PACKAGE / "__init__.py"), str(tmp_path)]


def test_the_check_of_the_notebooks_starts_this_interpreter_too(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    other = {"argv": ["/usr/bin/false", "{connection_file}"], "display_name": "Other"}
    (spec / "kernel.json").write_text(json.dumps(other | {"language": "python"}))
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-p", "no:xdist",
         "-p", "no:cacheprovider", "--no-cov", "a.ipynb"],
        cwd=tmp_path, env=os.environ | {"JUPYTER_PATH": str(tmp_path)}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_kernel_finds_this_library_before_any_other(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert kernel_spec().env["PYTHONPATH"] == f"{paths.PACKAGE.parent}{os.pathsep}/elsewhere"
