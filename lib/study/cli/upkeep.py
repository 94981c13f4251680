"""Commands that look after a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Quiet


def doctor(
    profile: Annotated[
        str | None, typer.Option("--profile", help="one profile in full; default all, briefly")
    ] = None,
    model: Annotated[str | None, typer.Option(help="another model than the profile's")] = None,
    revision: Annotated[str | None, typer.Option(help="revision of a hub model")] = None,
    split: Annotated[str | None, typer.Option(help="another split")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="number of images")] = None,
    json_path: Annotated[str | None, typer.Option(help="JSON in Karpathy's layout")] = None,
    image_root: Annotated[str | None, typer.Option(help="folder of the images")] = None,
) -> int:
    """Say what is missing for which profile, and how to get it."""
    from dataclasses import replace

    from ..doctor import examine, examine_all, overview, ready, report
    from ..profiles import load_profile

    others = {
        "model": model,
        "revision": revision,
        "split": split,
        "limit": limit,
        "json_path": json_path,
        "image_root": image_root,
    }
    changes = {name: value for name, value in others.items() if value is not None}
    if profile is None and not changes:
        examined = examine_all()
        print(overview(examined))
        return 0 if ready(examined["embedded"]) else 1
    settings = replace(load_profile(profile or "embedded"), **changes)
    findings = examine(settings)
    print(report(settings, findings))
    return 0 if ready(findings) else 1


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
