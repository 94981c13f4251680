"""The doctor's pages: one profile in full, or all side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from ..profiles import Profile
from .finding import Finding


def ready(findings: Sequence[Finding]) -> bool:
    """Can the profile run?"""
    return all(finding.good for finding in findings if finding.needed)


def report(profile: Profile, findings: Sequence[Finding]) -> str:
    """The page for one profile: the table, what to do, and what would be downloaded."""
    lines = [f"Profile {profile.profile} (model: {profile.model})", ""]
    lines.append(_table([(f.item, f.mark, f.detail) for f in findings]))
    missing = [f for f in findings if not f.good and f.remedy]
    needed = [f for f in missing if f.needed]
    optional = [f for f in missing if not f.needed and f.remedy != "not needed"]
    for title, some in (("To do:", needed), ("Optional:", optional)):
        if some:
            lines += ["", title, *(f"  {f.item}: {f.remedy}{_gb(f.download)}" for f in some)]
    total = sum(f.download for f in needed)
    lines += ["", f"To download: {total / 1e9:.2f} GB" if total else "To download: nothing"]
    lines.append("Ready." if ready(findings) else f"Not ready: {len(needed)} to do.")
    return "\n".join(lines)


def overview(examined: Mapping[str, Sequence[Finding]]) -> str:
    """The table of every profile side by side."""
    order = [f.item for f in max(examined.values(), key=len)]
    items: dict[str, Finding | None] = dict.fromkeys(order)
    for findings in examined.values():  # the most demanding profile comes last
        items |= {finding.item: finding for finding in findings}
    rows = [("", *examined, "found")]
    for item, last in items.items():
        marks = []
        for findings in examined.values():
            own = next((f for f in findings if f.item == item), None)
            marks.append("-" if own is None else own.mark)
        rows.append((item, *marks, last.detail if last else ""))
    rows.append(("can run", *("yes" if ready(f) else "no" for f in examined.values()), ""))
    name = next((n for n in reversed(examined) if not ready(examined[n])), next(iter(examined)))
    hint = f"make doctor PROFILE={name}"
    return "\n".join([_table(rows), "", f"What to do, profile by profile: {hint}"])


def _table(rows: Sequence[Sequence[str]]) -> str:
    text = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _gb(size: int) -> str:
    return f"  ({size / 1e9:.2f} GB)" if size else ""
