"""From scores, clusters and a budget to the tokens that stay: Algorithm 1 and its alternatives.

Every selection returns a boolean mask (..., N) over the tokens in their original order. All are
deterministic: scores are compared on a grid and ties go to the lower index, so rounding that
differs between devices or batch sizes does not change the choice. `check=False` skips validating
the data; nothing then makes a GPU wait. Shapes are static, but for the greedy strategies a Python
loop runs over the k picks.
"""

from .algorithm_1 import CLUSTER_ON, WEIGHTINGS, Selection, hierarchical
from .greedy import adaptive, dpp, greedy, renyi2_greedy
from .ranking import coverage, top_k
from .strategies import STRATEGIES, algorithm_1, k_medoids, one_shot, proportions, random
from .token_level import token_level

__all__ = [
    "CLUSTER_ON",
    "STRATEGIES",
    "WEIGHTINGS",
    "Selection",
    "adaptive",
    "algorithm_1",
    "coverage",
    "dpp",
    "greedy",
    "hierarchical",
    "k_medoids",
    "one_shot",
    "proportions",
    "random",
    "renyi2_greedy",
    "token_level",
    "top_k",
]
