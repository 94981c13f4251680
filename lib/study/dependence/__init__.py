"""How much one variable says about another: the estimators of the paper's section 2.1.

Each is tried where the answer is known (correlated Gaussians) before it is applied to features of
images and captions.
"""

from .estimators import binned, gaussian_gram, matrix_based, mine
from .features import caption_features, image_features, pairing
from .gaussians import Gaussians, gaussian_pair, sweep

__all__ = [
    "Gaussians",
    "binned",
    "caption_features",
    "gaussian_gram",
    "gaussian_pair",
    "image_features",
    "matrix_based",
    "mine",
    "pairing",
    "sweep",
]
