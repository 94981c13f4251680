"""K-means in Gram space: no iteration depends on the width of the tokens.

Distances between unit tokens and centroids follow from the Gram matrix alone (kernel k-means with
a linear kernel), so clustering N tokens of width D costs O(N²D) once and O(N²M) per iteration.
Everything is batched: an item's result does not depend on its neighbours. With `check=False` a CUDA
call never waits for the host; on a CPU, where looking at the data costs nothing, items that have
come to rest are left alone.
"""

from .kmeans import KMeans, centroid_gram, kmeans
from .seeding import item_seeds

__all__ = ["KMeans", "centroid_gram", "item_seeds", "kmeans"]
