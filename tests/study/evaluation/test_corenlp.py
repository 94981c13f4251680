"""CoreNLP for SPICE: detected, downloaded, checked and unpacked, against a loopback server."""

import hashlib
import io
import re
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from lib.study.data.http import Client, DownloadError
from lib.study.data.http import archives as download
from lib.study.evaluation import corenlp
from lib.study.evaluation.corenlp import (
    CORENLP_FOLDER,
    JARS,
    corenlp_folder,
    corenlp_status,
    install_corenlp,
)
from tests.loopback import Loopback, stall, status, truncate


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return stream.getvalue()


JAR = zipped({"META-INF/MANIFEST.MF": "Manifest-Version: 1.0\n"})
OFFICIAL = zipped(
    {
        f"{CORENLP_FOLDER}/{name}": JAR
        for name in (*JARS, "stanford-corenlp-3.6.0-sources.jar", "ejml-0.23.jar")
    }
)
HASH = "sha1:" + hashlib.sha1(OFFICIAL).hexdigest()
ZIP = "/corenlp.zip"


def install(server, folder, **options):
    client = Client(retries=1, backoff=0.01, timeout=0.3)
    options = {"known_hash": HASH, "client": client, "progress": False, **options}
    return install_corenlp(f"{server.url}{ZIP}", folder=folder, **options)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(corenlp, "CORENLP_BYTES", 10_000)


def test_the_names_are_those_that_pycocoevalcap_looks_for():
    source = (corenlp_folder().parent / "get_stanford_models.py").read_text()
    constants = dict(re.findall(r"^([A-Z]+) = '(.*)'$", source, re.MULTILINE))
    assert constants["CORENLP"] == CORENLP_FOLDER
    assert (f"{constants['JAR']}.jar", f"{constants['JAR']}-models.jar") == JARS
    assert corenlp_folder().name == constants["SPICELIB"]
    assert corenlp.CORENLP_URL.endswith(f"/software/{CORENLP_FOLDER}.zip")


def test_status_sees_each_jar(tmp_path):
    assert corenlp_status(tmp_path) == (False, tmp_path, JARS)
    (tmp_path / JARS[0]).write_bytes(JAR)
    assert corenlp_status(tmp_path) == (False, tmp_path, JARS[1:])
    (tmp_path / JARS[1]).write_bytes(JAR[:-10])  # a copy that was cut off
    assert corenlp_status(tmp_path).missing == JARS[1:]
    (tmp_path / JARS[1]).write_bytes(JAR)
    assert corenlp_status(tmp_path) == (True, tmp_path, ())


def test_without_pycocoevalcap_nothing_is_installed(monkeypatch):
    monkeypatch.setattr(corenlp.importlib.util, "find_spec", lambda _: None)
    assert corenlp_status() == (False, None, JARS)
    with pytest.raises(DownloadError, match="make setup"):
        install_corenlp()


def test_the_two_jars_are_installed_and_nothing_else_is_left(tmp_path):
    with Loopback({ZIP: OFFICIAL}) as server:
        assert install(server, tmp_path / "lib").installed
        assert sorted(p.name for p in (tmp_path / "lib").iterdir()) == sorted(JARS)
        install(server, tmp_path / "lib")
        assert len(server.requests) == 1  # the second call found them


def test_one_missing_jar_is_enough_to_install(tmp_path):
    (tmp_path / JARS[0]).write_bytes(JAR)
    with Loopback({ZIP: OFFICIAL}) as server:
        assert install(server, tmp_path).installed


@pytest.mark.parametrize(
    "trouble, says",
    [
        (status(404), "404"),
        (status(500), "500"),
        (truncate(OFFICIAL, 200), "ended at"),
        (stall(OFFICIAL, 200), "timed out"),
        (b"<html>", "checksum differs"),
    ],
    ids=["404", "500", "truncated", "stalled", "html"],
)
def test_trouble_is_one_error_and_a_rerun_ends_well(tmp_path, trouble, says):
    with Loopback({ZIP: trouble}) as server, pytest.raises(DownloadError, match=says) as error:
        install(server, tmp_path)
    assert "SPICE stays a dash" in str(error.value) and "\n" not in str(error.value)
    assert not corenlp_status(tmp_path).installed
    with Loopback({ZIP: OFFICIAL}) as server:
        assert install(server, tmp_path).installed


def test_without_network_it_is_one_error_with_the_ways_out(tmp_path):
    with Loopback({}) as server:
        url = server.url
    with pytest.raises(DownloadError, match="CoreNLP was not installed") as error:
        install_corenlp(f"{url}{ZIP}", folder=tmp_path, client=Client(retries=0), progress=False)
    message = str(error.value)
    assert "\n" not in message and "--hash none" in message and JARS[0] in message


def test_without_a_checksum_the_contents_are_still_checked(tmp_path):
    other = zipped({"stanford-corenlp-4.5.8/stanford-corenlp-4.5.8.jar": JAR})
    wrong = pytest.raises(DownloadError, match=f"does not contain {CORENLP_FOLDER}")
    with Loopback({ZIP: other}) as server, wrong:
        install(server, tmp_path, known_hash=None)
    broken = zipped({f"{CORENLP_FOLDER}/{name}": b"not a jar" for name in JARS})
    with Loopback({ZIP: broken}) as server, pytest.raises(DownloadError, match="unreadable jars"):
        install(server, tmp_path, known_hash=None)
    assert [p for p in tmp_path.iterdir() if p.suffix == ".zip"] == []


def test_too_little_space_is_said_before_the_download(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(1e9, 1e9, 1e3))
    with Loopback({ZIP: OFFICIAL}) as server:
        with pytest.raises(DownloadError, match="not enough disk space"):
            install(server, tmp_path)
        assert server.requests == []


def test_a_folder_that_cannot_be_written_is_said_before_the_download(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with Loopback({ZIP: OFFICIAL}) as server:
        with pytest.raises(DownloadError, match="cannot write"):
            install(server, Path(tmp_path / "file" / "lib"))
        assert server.requests == []
