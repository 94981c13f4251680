"""One METEOR process for all: it takes seconds to load its tables.

It is started under a German locale, where a comma separates decimals: whatever these tests find
right is right there, too.
"""

import shutil
import subprocess

import pytest

from lib.study.evaluation import score_many
from lib.study.evaluation.meteor import Meteor
from tests.study.evaluation.corpora import corpus

LOCALES = {"de_DE": "ISO-8859-1", "tr_TR": "ISO-8859-9"}


@pytest.fixture(scope="session")
def locales(tmp_path_factory):
    """A folder of compiled locales that most machines lack; None where none can be made."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        return None
    for name, charset in LOCALES.items():
        subprocess.run(["localedef", "-i", name, "-f", charset, folder / name], capture_output=True)
    return folder if all((folder / name).exists() for name in LOCALES) else None


@pytest.fixture(scope="session")
def meteor(locales):
    with pytest.MonkeyPatch.context() as patch:
        if locales is not None:
            patch.setenv("LOCPATH", str(locales))
            patch.setenv("LC_ALL", "de_DE")
        process = Meteor()
    with process:
        yield process


@pytest.fixture(scope="session")
def scored(meteor):
    references, records = corpus()
    return references, records, score_many(records, references, meteor=meteor)
