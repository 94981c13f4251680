"""The figures, drawn from plain arrays and data frames; no module here knows a model.

One file a figure of the paper, or a family of them. Each function returns a
`matplotlib.figure.Figure` without title; `save` and `show` add the words of `captions.yaml`.
"""

from .saving import Picture, save, show

__all__ = ["Picture", "save", "show"]
