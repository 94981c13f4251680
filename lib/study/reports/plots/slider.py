"""A slider over kept sets of one image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from ..templates import template
from .images import cells

__all__ = ["BudgetSlider"]


class BudgetSlider:
    """A slider over kept sets of one image: an ipywidget in JupyterLab, plain HTML elsewhere.

    `masks` maps a number of kept tokens to a bool mask (N,). The HTML holds the image once and the
    indices of every kept set, and works without a kernel or a network.
    """

    def __init__(
        self, image: np.ndarray, masks: Mapping[int, Any], grid: Sequence[int], *, size: int = 336
    ) -> None:
        if not masks:
            raise ValueError("masks is empty: give at least one kept set")
        self.image, self.grid, self.size = image, tuple(grid), size
        self.masks = {int(k): cells(m, grid).astype(bool) for k, m in sorted(masks.items())}

    def frame(self, kept: int) -> bytes:
        """The picture of one budget as PNG."""
        mask = self.masks[kept]
        picture = Image.fromarray(self.image).resize((self.size, self.size))
        veil = np.asarray(
            Image.fromarray(mask.astype(np.uint8) * 255).resize((self.size, self.size), 0)
        )
        pixels = np.asarray(picture, np.float32)
        pixels = np.where(veil[..., None] > 0, pixels, 255 - (255 - pixels) * 0.14)
        return _png(pixels.round().astype(np.uint8))

    def widget(self) -> Any:
        """The ipywidget: moving the slider exchanges the picture."""
        counts = list(self.masks)
        slider = widgets.SelectionSlider(
            options=counts,
            value=counts[len(counts) // 2],
            description="kept tokens",
            style={"description_width": "initial"},
            layout={"width": f"{self.size}px"},
        )
        picture = widgets.Image(value=self.frame(slider.value), format="png", width=self.size)
        slider.observe(
            lambda change: setattr(picture, "value", self.frame(change["new"])), names="value"
        )
        return widgets.VBox([slider, picture])

    def html(self) -> str:
        """A self-contained page fragment with a range input and a canvas."""
        rows, columns = self.grid
        return template("slider.html.j2").render(
            size=self.size,
            rows=rows,
            columns=columns,
            frames=[[k, np.flatnonzero(mask).tolist()] for k, mask in self.masks.items()],
            source=f"data:image/png;base64,{base64.b64encode(_png(self.image)).decode()}",
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = dict(self.widget()._repr_mimebundle_())
        said = {"text/html": self.html(), "text/plain": f"BudgetSlider({list(self.masks)})"}
        return bundle | said


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
