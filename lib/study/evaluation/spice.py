"""SPICE: pycocoevalcap's jar, run on files of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.spice import spice as _spice

from ..paths import raw_dir
from . import java
from .corenlp import corenlp_status

__all__ = ["spice", "spice_missing"]


def spice_missing() -> str | None:
    """Why SPICE cannot run, with the remedy; None when it can."""
    status = corenlp_status()
    if status.installed:
        return None
    return f"SPICE needs Stanford CoreNLP 3.6.0 ({', '.join(status.missing)}): `make spice`"


def spice(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """SPICE's F-score of n tokenised captions, `(n,)`; NaN where it has none.

    Parses of references are kept in `data/raw/spice/` for the next method.

    Raises `JavaError` if CoreNLP is missing or SPICE fails. Needs up to 8 GB of memory.
    """
    if reason := spice_missing():
        raise java.JavaError(reason)
    rows = [
        {"image_id": index, "test": text, "refs": list(texts)}
        for index, (text, texts) in enumerate(zip(hypotheses, references))
    ]
    cache = raw_dir() / "spice"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as name:
        folder = Path(name)
        (folder / "in.json").write_text(json.dumps(rows), encoding="utf-8")
        # the cache unpacks a native library: the system's own folder may forbid running it
        arguments = [f"-Djava.io.tmpdir={folder}", "-Xmx8G", "-jar", _spice.SPICE_JAR]
        arguments += [
            f"{folder / 'in.json'}",
            "-cache",
            f"{cache}",
            "-out",
            f"{folder / 'out.json'}",
        ]
        java.run("SPICE", [*arguments, "-subset", "-silent"], folder=Path(_spice.__file__).parent)
        try:
            found = json.loads((folder / "out.json").read_text(encoding="utf-8"))
            scores = {item["image_id"]: item["scores"]["All"]["f"] for item in found}
            return np.array([scores[index] for index in range(len(rows))], dtype=float)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise java.JavaError(f"SPICE did not score every caption: {error!r}") from error
