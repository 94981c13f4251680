"""The plug-in's tests run with the installed lmms-eval, or else with a stand-in for it."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("lmms_eval") is None:
    sys.path.append(str(Path(__file__).with_name("standin")))
