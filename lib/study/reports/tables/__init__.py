"""The numbers of the report as data frames, as text, and as the files of Table 1.

A module a table: `quality`, `divergence`, `comparisons`, `cost`, `ablations` (captions at every
budget), `benchmark` (the large model on a GPU), `paper` (what was printed there), `table1` (the
files). `format` turns any frame into Markdown, LaTeX or HTML; `words` and `findings` say in
sentences what a frame holds.
"""
