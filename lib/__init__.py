"""Entropy-Prune: matrix-entropy pruning of visual tokens in large vision-language models."""

__version__ = "0.1.0"
