"""The study: everything that compares methods on images, above the library and never below it.

What is asked
    `profiles` (how much, of which model and images), `methods`, `ablations`, `places` and `grid`
    (which runs; `fitting`: on which models), `comparisons` (what is tested, declared beforehand),
    `labels` (names that tables and figures share).
What is done
    `run` takes a profile through `stages`, a file each, which use `data`, `models`, `captioning`,
    `divergence`, `inspection`, `evaluation` and `cost` and keep what they find as `records`.
    `dependencies` says what is done again after a change. Beside the flow: `trials` and `clusters`
    (side questions about the photograph model), `dependence` (estimators), `training`.
What is shown
    `claims` judges, `reports` draws and writes; `compare` sets a run beside the committed
    reference, `machines` one of another machine, `publish` makes it the reference.
How it is reached
    `cli`, a file a group of commands; `doctor` says what is missing.
What everything uses
    `paths` (no other module spells one), `files` (whole or not at all), `stored`, `examples`,
    `hub`, `cores`, `forking`.
"""
