"""The mechanism under every pruning method: hooks, passes, sequence surgery, and the cache."""
