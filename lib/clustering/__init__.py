"""K-means in Gram space: no iteration depends on the width of the tokens.

Distances between tokens and centroids follow from the Gram matrix alone (kernel k-means with a
linear kernel), so clustering N tokens of width D costs O(N²D) once and O(N²M) per iteration.
Everything is batched: an item's result does not depend on its neighbours. With `check=False` a CUDA
call never waits for the host; on a CPU, where looking at the data costs nothing, items that have
come to rest are left alone.

Rounding. The plain route works in float64. Distances are compared on a grid of 1/65536 of the mean
squared norm, and of equals the first counts: copies of a token are one token, whatever their
rounding. Distances that are added up, to draw a centre, lie on a grid 65536 times finer. Between
two processors' arithmetic, which had moved the tokens themselves by a relative 2e-7, none of 200
images was clustered otherwise, into 32, 64 or 192 clusters. In float32 with the coarse grid alone
it was 5, 10 and 38, for a centre drawn otherwise moves all that follow; that is how the kernels of
a CUDA device draw. Tokens that are equally far from two centroids by symmetry, as on a circle, may
go either way.
"""

from .kmeans import KMeans, centroid_gram, kmeans
from .seeding import item_seeds

__all__ = ["KMeans", "centroid_gram", "item_seeds", "kmeans"]
