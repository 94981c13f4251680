"""What tests of the engine ask models for, and read of pruners."""

GREEDY = {"do_sample": False, "max_new_tokens": 6}


def kept(pruner):
    """Indices of the tokens kept of each image."""
    return [k.tolist() for k in pruner.kept]
