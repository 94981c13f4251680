"""Figures to files and notebook cells, with their words and in bytes that depend on them alone."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import uniform_filter

from ... import paths
from ...files import write_atomically
from ...stored import mark
from ..captions import words

__all__ = ["Picture", "compact", "save", "show"]

#: a palette is taken if few pixels differ by more than so many of 255 levels: at most these shares
#: of the pixels alone, and of their means with their neighbours: an eye forgives dots, not bands
_LEVELS, _DOTS, _BANDS = 16, 1.5e-2, 2e-3


class Picture:
    """A drawn figure as a notebook shows it: a PNG with a text alternative.

    `paths` maps kind to file for a saved figure and is empty otherwise.
    """

    def __init__(
        self, png: bytes, alt: str, width: float, paths: Mapping[str, Path] | None = None
    ) -> None:
        self.png, self.alt, self.width, self.paths = png, alt, int(width), dict(paths or {})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        name = f"{self.paths['png'].stem}: {', '.join(self.paths)}" if self.paths else "a picture"
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": name}
        return data, {"image/png": {"alt": self.alt, "width": self.width}}


def show(fig: Figure, name: str, **numbers: Any) -> Picture:
    """The figure as the last value of a notebook cell, not saved; `name` is one of `captions.yaml`.

    numbers: what the title and the text alternative there are filled from.
    """
    said = words(name, **numbers)
    _headed(fig, said.title)
    png = compact(_rendered(fig, "png", dpi=110))
    return Picture(png, said.alt, 100 * fig.get_figwidth())


def save(fig: Figure | None, name: str, of: Any, **numbers: Any) -> Picture | str:
    """Write `figures/<profile>/<name>.png` and `.json` (caption, text alternative).

    A run's curves are written as SVG, too; a picture would make that heavy, and what is committed
    stays lean. Title and texts are those of `captions.yaml`, filled from `numbers`. What
    `lib.study.stored.mark` says of a profile stands under the title and opens caption and text
    alternative. As the last value of a notebook cell, what is returned shows the saved picture.
    Each file appears whole, and only if its bytes are new.

    fig: None where there was nothing to draw, which is then said in the figure's place.
    of: the profile's name, or a `Subject`, whose `source` is then known to the texts.

    Raises `ValueError` for a name or numbers that do not fit `captions.yaml`.
    """
    if fig is None:
        return "no figure: nothing was measured or scored"
    profile = of if isinstance(of, str) else of.profile
    said = words(name, **numbers, **({} if isinstance(of, str) else {"source": of.source}))
    title, caption, alt = said
    if marked := mark(profile):
        first = f"{marked[0].upper()}{marked[1:]}."
        title = "\n".join(filter(None, [title, f"({marked})"]))
        caption, alt = f"{first} {caption}", f"{first} {alt}"
    _headed(fig, title)
    folder = paths.figures_dir(profile)
    written = {"png": _write(folder / f"{name}.png", compact(_rendered(fig, "png")))}
    if _pictorial(fig) or paths.current(profile) == paths.reference(profile):
        (folder / f"{name}.svg").unlink(missing_ok=True)
    else:
        written["svg"] = _write(folder / f"{name}.svg", _rendered(fig, "svg"))
    about = {"name": name, "profile": profile, "caption": caption, "alt": alt}
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    written["json"] = _write(folder / f"{name}.json", text.encode())
    return Picture(written["png"].read_bytes(), alt, 100 * fig.get_figwidth(), written)


def _headed(fig: Figure, title: str) -> None:
    """The figure's claim above its panels, left-aligned, in as many lines as it takes."""
    if title:
        fig.suptitle(title, x=0.01, ha="left", wrap=True)


def _pictorial(fig: Figure) -> bool:
    """Does the figure hold an image or a heat map, of which an SVG would name every cell?"""
    meshes = [c for ax in fig.axes for c in ax.collections if isinstance(c, QuadMesh)]
    return bool(meshes) or any(ax.images for ax in fig.axes)


def _rendered(fig: Figure, kind: str, **options: Any) -> bytes:
    """The bytes of a figure, which depend on the figure alone: no date, fixed ids."""
    buffer = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "entropy-prune"}):
        fig.savefig(buffer, format=kind, metadata=metadata, **options)
    return buffer.getvalue()


def compact(png: bytes) -> bytes:
    """The same picture in fewer bytes: with a palette where nobody could see it, else as it is.

    A drawing has few colours and many shades along its lines' edges; of those, a palette of 256
    loses what no eye tells apart. A picture with more in it than that keeps all its colours.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    palette = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    pixels, coarse = (np.asarray(p.convert("RGB"), np.int16) for p in (picture, palette))
    difference = (pixels - coarse).astype(float)
    dots, bands = (
        (np.abs(one).max(-1) > _LEVELS).mean()
        for one in (difference, uniform_filter(difference, (3, 3, 0)))
    )
    buffer = io.BytesIO()
    (palette if dots <= _DOTS and bands <= _BANDS else picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> Path:
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)
    return path
