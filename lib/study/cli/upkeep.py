"""Commands that look after a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Quiet


def doctor(context: typer.Context) -> int:
    """Say what is missing for which profile, and how to get it."""
    from .. import doctor as looking

    return looking.main(context.args)


def spice(
    url: Annotated[str | None, typer.Option(help="the archive; default Stanford's")] = None,
    checksum: Annotated[
        str | None, typer.Option("--hash", help="of the archive, or 'none'; default the known one")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="where the jars go; default pycocoevalcap's")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Install CoreNLP, which SPICE needs (536 MB)."""
    from ..evaluation.corenlp import CORENLP_HASH, CORENLP_URL, install_corenlp

    known = None if (checksum or "").lower() == "none" else checksum or CORENLP_HASH
    status = install_corenlp(
        url or CORENLP_URL, known_hash=known, folder=folder, progress=not quiet
    )
    print(f"CoreNLP 3.6.0 is in place: {status.folder}")


COMMANDS = (doctor, spice)
doctor.passes_on = True
