"""Stands in for lmms-eval where it is not installed: what the plug-in uses of it, in small.

Names, fields and signatures are those of the release that `contract.json` was recorded from.
"""
