"""From scores, clusters and a budget to the tokens that stay: Algorithm 1 and its alternatives.

Every selection returns a boolean mask (..., N) over the tokens in their original order, and gives
the same one for the same numbers. Scores are compared on a grid and ties go to the lower index, so
copies of a token never fall by rounding. A choice between two scores that differ by as little as
rounding still may: no rule that looks at the scores can exclude that. How often it happens was
measured on the 256 tokens of each of the embedded model's 200 test images, computed once with this
processor's arithmetic and once with that of an older one (`MKL_CBWR=COMPATIBLE`), vision tower and
selection, at budgets of 12.5, 25, 50 and 75 %. Of 200 kept sets differed at most

    0               `hierarchical` over four layers, `token_level`, `dpp`, `renyi2_greedy`,
                    `k_medoids`
    1, by 1 token   `algorithm_1` on one layer, `greedy`
    2, by 1 token   `one_shot`
    5, by 3 tokens  `adaptive`, which follows its gains in float32

(`python -m tests.selection.rounding`). The kernels of a CUDA device draw the centres of k-means on
a coarser grid than the plain route, see `lib.clustering`: there clusters differ more often.

`check=False` skips validating the data; nothing then makes a GPU wait. Shapes are static, but for
the greedy strategies a Python loop runs over the k picks.
"""

from .adaptive_budget import rank_budgets, typical_rank
from .algorithm_1 import CLUSTER_ON, WEIGHTINGS, Selection, hierarchical
from .greedy import adaptive, dpp, greedy, renyi2_greedy
from .picks import conditional_dpp, facility_location, farthest_points
from .ranking import coverage, top_k
from .strategies import STRATEGIES, algorithm_1, k_medoids, one_shot, proportions, random
from .token_level import token_level
from .weighted import Worth, weighted, weighted_operator

__all__ = [
    "CLUSTER_ON",
    "STRATEGIES",
    "WEIGHTINGS",
    "Selection",
    "Worth",
    "adaptive",
    "algorithm_1",
    "conditional_dpp",
    "coverage",
    "dpp",
    "facility_location",
    "farthest_points",
    "greedy",
    "hierarchical",
    "k_medoids",
    "one_shot",
    "proportions",
    "random",
    "rank_budgets",
    "renyi2_greedy",
    "token_level",
    "top_k",
    "typical_rank",
    "weighted",
    "weighted_operator",
]
