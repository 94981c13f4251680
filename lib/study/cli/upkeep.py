"""Commands that look after a checkout; each passes its options on to the module that does it."""

from __future__ import annotations

import typer


def doctor(context: typer.Context) -> int:
    """Say what is missing for which profile, and how to get it."""
    from .. import doctor as looking

    return looking.main(context.args)


def spice(context: typer.Context) -> int:
    """Install CoreNLP, which SPICE needs."""
    from ..evaluation import spice as installing

    return installing.main(context.args)


COMMANDS = (doctor, spice)
for command in COMMANDS:
    command.passes_on = True
