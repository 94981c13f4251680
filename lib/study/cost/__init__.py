"""What pruning saves: floating-point operations, latency and memory, the scorer's price included.

`flops`, `scorer` and `analytic` count; `timing`, `parts` and `probe` take times; `rounds` times the
study's methods in turn and `latency` one after the other; `benchmark`, `growth`, `scaling` and
`ratios` are measurements of their own, each with a command (`python -m lib --help`).
"""
