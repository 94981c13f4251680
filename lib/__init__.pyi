"""The public names for type checkers; `__init__.py` loads them when first asked for."""

from .clustering import (
    centroid_gram as centroid_gram,
)
from .clustering import (
    kmeans as kmeans,
)
from .decoding import (
    StaticDecoder as StaticDecoder,
)
from .entropy import (
    dime as dime,
)
from .entropy import (
    effective_rank as effective_rank,
)
from .entropy import (
    entropy_operator as entropy_operator,
)
from .entropy import (
    gram as gram,
)
from .entropy import (
    joint_entropy as joint_entropy,
)
from .entropy import (
    leave_one_out as leave_one_out,
)
from .entropy import (
    matrix_entropy as matrix_entropy,
)
from .entropy import (
    mutual_information as mutual_information,
)
from .geometry import (
    average_tokens as average_tokens,
)
from .geometry import (
    kept_count as kept_count,
)
from .geometry import (
    kept_for_average as kept_for_average,
)
from .pruning import (
    Chosen as Chosen,
)
from .pruning import (
    EntropyPrune as EntropyPrune,
)
from .pruning import (
    FastV as FastV,
)
from .pruning import (
    FixedPrune as FixedPrune,
)
from .pruning import (
    ImageTokens as ImageTokens,
)
from .pruning import (
    PrunedCache as PrunedCache,
)
from .pruning import (
    RandomPrune as RandomPrune,
)
from .pruning import (
    SelectionPrune as SelectionPrune,
)
from .pruning import (
    ToMe as ToMe,
)
from .pruning import (
    VisualPruner as VisualPruner,
)
from .pruning import (
    available as available,
)
from .pruning import (
    create as create,
)
from .rollout import (
    rolled_importance as rolled_importance,
)
from .selection import (
    STRATEGIES as STRATEGIES,
)
from .selection import (
    coverage as coverage,
)
from .selection import (
    dpp as dpp,
)
from .selection import (
    greedy as greedy,
)
from .selection import (
    hierarchical as hierarchical,
)
from .selection import (
    proportions as proportions,
)
from .selection import (
    token_level as token_level,
)
from .selection import (
    top_k as top_k,
)

__version__: str
