"""A forked process is as one that was started, and only there is one forked."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch

from lib.study import forking, paths
from lib.study.reports import notebooks

ONLY_LINUX = pytest.mark.skipif(not forking.possible(), reason="no process is forked here")
#: what may depend on the order in which libraries are loaded, or on where they look as they load
CELLS = (
    "import gc\ngc.isenabled(), gc.get_threshold()",
    "import importlib\ngc.disable()\n"
    f"for name in {forking.PRELOADED}:\n    importlib.import_module(name)\ngc.enable()",
    "import os, signal, sys, threading\nprint(sys.executable, os.getcwd(), *sys.path, sep='\\n')",
    "import lib; from lib.study import paths\nprint(lib.__file__, paths.ROOT)",
    "sorted((k, v) for k, v in os.environ.items() if k != 'JPY_PARENT_PID')",
    "import torch\nseeded = torch.manual_seed(0)\nprint(torch.get_num_threads(), torch.randn(2))",
    "import numpy as np, pandas as pd\n"
    "pd.DataFrame(np.arange(60.0).reshape(2, 30), columns=[f'column {n}' for n in range(30)])",
    "pd.get_option('display.max_columns'), pd.get_option('display.width')",
    "import matplotlib, seaborn\nprint(matplotlib.get_backend(), dict(matplotlib.rcParams))",
    "from matplotlib import pyplot\npyplot.figure(figsize=(2, 1)).gca().plot([1, 2]);",
    "from tqdm.auto import tqdm\nprint(tqdm)",
    "import warnings\nsorted(map(str, warnings.filters))",
    "signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), signal.getsignal(17)",
    "import subprocess\nsubprocess.run(['echo', 'said'], capture_output=True, text=True).stdout",
    "import multiprocessing\nmultiprocessing.current_process().daemon",
    "multiprocessing.get_start_method(allow_none=True), sys.flags, sys.warnoptions, sys.argv[1:2]",
)


def outputs(folder, forked, cells=CELLS):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(book, folder / "a.ipynb")
    output = folder / "out.ipynb"
    notebooks.execute(
        folder / "a.ipynb", output, {}, log=folder / "log", progress=False, forked=forked
    )
    return [cell.outputs for cell in nbformat.read(output, as_version=4).cells]


@ONLY_LINUX
def test_a_forked_kernel_says_what_a_started_one_says(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        forking, "start", lambda *a, _=forking.start, **k: asked.append(_(*a, **k)) or asked[-1]
    )
    monkeypatch.syspath_prepend(tmp_path)  # what this process has added is its own
    started, forked = outputs(tmp_path, False), outputs(tmp_path, True)
    assert [type(process) for process in asked] == [forking.Forked]
    for source, one, other in zip(CELLS, started, forked, strict=True):
        assert other == one, source
    assert asked[0].wait() == 0, "it ends when it is asked to"


@pytest.fixture
def environment(monkeypatch):
    """Nothing was forked before, as far as `forking` knows; the server that runs is used again."""
    found = dict(os.environ)
    monkeypatch.setattr(forking, "_born", forking._early(found))
    return found


def test_a_process_works_where_it_is_told_and_its_code_is_known(tmp_path, environment):
    if not forking.possible():
        pytest.skip("no process is forked here")
    said = tmp_path / "said"
    asked = {**environment, "ENTROPY_PRUNE_PLACE": "run"}
    command = f"echo $ENTROPY_PRUNE_PLACE $PWD > {said}; exit 7"
    given = {"environment": asked, "folder": tmp_path}
    process = forking.start(shell, command, **given)
    assert process.wait() == 7 and process.poll() == 7
    assert said.read_text().split() == ["run", str(tmp_path)]
    process.kill()  # nobody is there any more
    process = forking.start(nap, tmp_path / "asleep", **given)
    while not (tmp_path / "asleep").is_file():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1, "as a KeyboardInterrupt ends Python"
    process = forking.start(time.sleep, 60, **given)
    process.terminate()
    assert process.wait() == -signal.SIGTERM


def nap(file):
    file.touch()
    time.sleep(60)


def shell(command):
    return subprocess.run(command, shell=True).returncode


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "HF_HOME", "MPLBACKEND"])
def test_a_process_of_another_environment_is_not_forked(name, environment, tmp_path):
    other = {**environment, name: "3"}
    assert forking.start(time.sleep, 0, environment=other, folder=tmp_path) is None
    assert not forking.warmed(other)


def test_where_libraries_must_not_be_forked_none_is(monkeypatch, environment, tmp_path):
    monkeypatch.setattr(forking, "_born", {})
    assert not forking.warmed(environment), "nobody asked for a server"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not forking.possible()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert not forking.possible()
        assert forking.start(time.sleep, 0, environment=environment, folder=tmp_path) is None


#: what somebody else may have done to the process that asks: options of its own, another server
#: that has imported other things, changed filters, a path, an argument
CHANGED = """
import multiprocessing, os, signal, sys, time, warnings
from pathlib import Path
from lib.study import forking
from tests.study.forked import say

print("once", flush=True)
folder = Path(sys.argv[1])
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["requests"])
path = globals().pop("__file__")  # which multiprocessing's own server would run again
other = context.Process(target=print)
other.start()
other.join()
__file__ = path
multiprocessing.set_start_method("spawn", force=True)
warnings.simplefilter("error", UnicodeWarning)
sys.path.insert(0, str(folder / "inserted"))
given = {"environment": os.environ, "folder": folder}
print(forking.start(say, folder / "forked", **given).wait(), flush=True)
print(forking.start(print, "forked", **given).wait(), flush=True)
codes = set()
for number in range(16):
    child = forking.start(time.sleep, 0.1, interrupted=False, **given)
    time.sleep(number / 1000)
    child.send_signal(signal.SIGINT)
    codes.add(child.wait())
print(*sorted(codes), flush=True)
print(forking.start(time.sleep, 600, **given).pid, flush=True)
time.sleep(600)
"""
OPTIONS = ("-W", "error::UserWarning:nobody", "-X", "utf8=0", "-O")
AFRESH = f"""
import gc, importlib, os, sys
gc.disable()
for name in {forking.PRELOADED}:
    importlib.import_module(name)
gc.enable()
from tests.study.forked import say
say(sys.argv[1])
os._exit(0)
"""


def elsewhere(folder):
    path = os.pathsep.join([str(paths.PACKAGE.parent), str(folder / "elsewhere")])
    return os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "always::BytesWarning"}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The folder of a script that asks for processes, the process that runs it, and what it said.

    It imports torch, and its server everything: once for all tests.
    """
    folder = tmp_path_factory.mktemp("script")
    (folder / "script.py").write_text(CHANGED)
    command = [sys.executable, *OPTIONS, str(folder / "script.py"), str(folder)]
    with (
        open(folder / "errors", "w") as errors,
        subprocess.Popen(
            command, env=elsewhere(folder), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        said = [line for _ in range(7) if (line := process.stdout.readline().strip())]
        yield folder, process, said
        process.kill()


@ONLY_LINUX
def test_nothing_that_was_done_to_the_process_that_asks_reaches_what_is_forked(script):
    folder, _, _ = script
    command = [sys.executable, "-c", AFRESH, str(folder / "fresh")]
    done = subprocess.run(command, env=elsewhere(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    fresh, forked = (json.loads((folder / name).read_text()) for name in ("fresh", "forked"))
    assert fresh["path"].pop(0) == "", "where -c is run"
    modules = set(forked.pop("modules")) - set(fresh.pop("modules"))
    assert forked == fresh
    assert "requests" not in modules and not any(name.startswith("tests.") for name in modules)


@ONLY_LINUX
def test_ctrl_c_ends_a_process_that_has_not_begun_without_a_word(script):
    folder, _, said = script
    assert set(said[4].split()) <= {"0", str(-signal.SIGINT)}
    assert "Traceback" not in (folder / "errors").read_text()


@ONLY_LINUX
def test_of_a_script_nothing_is_run_again_and_what_is_forked_ends_with_it(script):
    _, process, said = script
    assert [*said[:4], *said[5:-1]] == ["once", "0", "forked", "0"]
    child = int(said[-1])
    assert alive(child)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@ONLY_LINUX
def test_what_libraries_set_as_they_load_is_no_other_environment():
    code = (
        "import gc, os\nfrom lib.study import forking\ngc.disable()\n"
        "forking._born.update(forking._early(os.environ))\n"
        "from lib.study import run\nfrom lib.study.reports import kernel, report\n"
        "print(forking.warmed(os.environ | kernel.kernel_spec().env), flush=True)\n"
        "os._exit(0)"
    )
    path = os.environ | {"PYTHONPATH": str(paths.PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=path, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "True"


@ONLY_LINUX
def test_a_kernel_is_started_where_it_cannot_be_forked(tmp_path, monkeypatch):
    monkeypatch.setattr(forking, "start", lambda *args, **options: None)
    ((said,),) = outputs(tmp_path, True, CELLS[3:4])
    assert said.text.split()[1] == str(paths.ROOT)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
