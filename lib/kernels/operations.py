"""The operations of the kernels, as a `Backend` offers them. Needs Triton."""

from .centroids import centroid_gram, unit_centroids
from .choice import choose
from .gram import gram
from .greedy import forward
from .kmeans import kmeans
from .picks import farthest
from .resolvent import entropy_operator, resolvent_diagonal
from .rollout import rolled_diagonal
from .volume import volume

__all__ = [
    "centroid_gram",
    "choose",
    "entropy_operator",
    "farthest",
    "forward",
    "gram",
    "kmeans",
    "resolvent_diagonal",
    "rolled_diagonal",
    "unit_centroids",
    "volume",
]
