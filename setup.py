"""What gets installed: the library alone from a wheel, as `entropy_prune`; by an editable install
this checkout, named `lib`, with the study and its command.

pyproject.toml names this file as its build backend, which is setuptools' own. Setuptools then runs
the file as a script, in which nothing but the hook that was called tells an editable install.
"""

import os
import tempfile

from setuptools import build_meta, find_packages, setup
from setuptools.build_meta import *  # noqa: F403

EDITABLE = "ENTROPY_PRUNE_EDITABLE"


def prepare_metadata_for_build_editable(*args, **kwargs):
    os.environ[EDITABLE] = "1"
    return build_meta.prepare_metadata_for_build_editable(*args, **kwargs)


def build_editable(*args, **kwargs):
    os.environ[EDITABLE] = "1"
    return build_meta.build_editable(*args, **kwargs)


def checkout():
    """Everything in `lib`, and `entropy-prune` on the command line."""
    command = {"console_scripts": ["entropy-prune = lib.study.cli:main"]}
    return {
        "packages": find_packages(include=["lib", "lib.*"]),
        "entry_points": plugins("lib") | command,
    }


def library():
    """`lib` without `lib/study`, under the name it is imported by."""
    folders = find_packages("lib", exclude=["study", "study.*"])
    return {
        "packages": ["entropy_prune", *(f"entropy_prune.{name}" for name in folders)],
        "package_dir": {"entropy_prune": "lib"},
        "entry_points": plugins("entropy_prune"),
    }


def plugins(package):
    return {"lmms_eval.models": [f"entropy_prune = {package}.plugins.lmms_eval:manifest"]}


if __name__ == "__main__":
    # build/lib is packed whole: what an earlier build left there would go into the wheel
    with tempfile.TemporaryDirectory() as empty:
        setup(
            **(checkout() if os.environ.get(EDITABLE) else library()),
            options={"build": {"build_base": empty}},
        )
