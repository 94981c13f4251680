"""Stanford CoreNLP 3.6.0, which pycocoevalcap's SPICE needs and does not bring along.

`make spice` puts the two jars where
pycocoevalcap looks for them.
Names, folder and address are those of `pycocoevalcap/spice/get_stanford_models.py`; unlike it, this
checks what it downloads, continues after an interruption, and notices when only one jar is there.
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

from ..data.http import Client, DownloadError, extract, fetch_archive, require_space

CORENLP_URL = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
#: Stanford publishes no checksum. This one stands in one public set-up script of a DeepDive
#: application that fetches the same archive (`CORENLP_SHA1SUM`); nobody has confirmed it since, and
#: other archives of the series were exchanged under the same name. See `install_corenlp`.
CORENLP_HASH = "sha1:55c9d653eb30ace7d5a60eb3138e424f9442e539"
#: size the CoreNLP project's own download page states for this release (536 MB)
CORENLP_BYTES = 536_000_000
CORENLP_FOLDER = "stanford-corenlp-full-2015-12-09"
JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class CoreNLPStatus(NamedTuple):
    """Is SPICE's parser there?

    Attributes:
        installed: whether both jars are in place and readable.
        folder: where pycocoevalcap looks for them, None without pycocoevalcap.
        missing: names of the jars that are absent or damaged.
    """

    installed: bool
    folder: Path | None
    missing: tuple[str, ...]


def corenlp_folder() -> Path | None:
    """pycocoevalcap's folder of SPICE jars, found without importing it; None if not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "spice" / "lib"


def corenlp_status(folder: Path | None = None) -> CoreNLPStatus:
    """Look for the two jars in `folder` (by default pycocoevalcap's)."""
    folder = folder or corenlp_folder()
    if folder is None:
        return CoreNLPStatus(False, None, JARS)
    missing = tuple(jar for jar in JARS if not is_zipfile(folder / jar))
    return CoreNLPStatus(not missing, folder, missing)


def install_corenlp(
    url: str = CORENLP_URL,
    *,
    known_hash: str | None = CORENLP_HASH,
    folder: Path | None = None,
    progress: bool = True,
    client: Client | None = None,
) -> CoreNLPStatus:
    """Download CoreNLP 3.6.0 and unpack its two jars; does nothing when they are there.

    Args:
        url: the archive.
        known_hash: its checksum in pooch's notation. None relies on the archive's own CRCs and on
            finding both jars in it, for the day when Stanford's file is another one than recorded.
        folder: where the jars go, by default pycocoevalcap's.
        client: how to retry and wait, by default `Client()`.

    Raises:
        DownloadError: one message, with the remedy.
    """
    status = corenlp_status(folder)
    if status.installed:
        return status
    if status.folder is None:
        raise DownloadError("pycocoevalcap is not installed; `make setup` installs it")
    folder = status.folder
    require_space(folder, 2 * CORENLP_BYTES)  # the archive and, for a moment, the jars beside it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DownloadError(
            f"cannot write to {folder} ({error.strerror or error}), where pycocoevalcap expects "
            "CoreNLP; use an environment of your own (`make setup`)"
        ) from error
    archive = folder / f"{CORENLP_FOLDER}.zip"
    try:
        fetch_archive(client or Client(), url, archive, known_hash=known_hash, progress=progress)
    except DownloadError as error:
        raise DownloadError(
            f"CoreNLP was not installed, so SPICE stays a dash: {error} If Stanford's file has "
            f"changed, `python -m lib spice --hash none` checks only its contents; or unpack "
            f"{' and '.join(JARS)} into {folder} by hand."
        ) from error
    try:
        extract(archive, {f"{CORENLP_FOLDER}/{jar}": folder / jar for jar in JARS})
    finally:
        archive.unlink(missing_ok=True)
    status = corenlp_status(folder)
    if not status.installed:
        raise DownloadError(f"{url} held unreadable jars: {', '.join(status.missing)}")
    return status
