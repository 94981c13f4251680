"""The operations of the kernels, as a `Backend` offers them. Needs Triton."""

from .centroids import centroid_gram
from .choice import choose
from .gram import gram, stretched
from .greedy import forward
from .kmeans import kmeans
from .picks import farthest, volume
from .resolvent import resolvent_diagonal, resolvent_sum

__all__ = [
    "centroid_gram",
    "choose",
    "farthest",
    "forward",
    "gram",
    "kmeans",
    "resolvent_diagonal",
    "resolvent_sum",
    "stretched",
    "volume",
]
