"""Training of the models that the study prunes: `embedded` on scenes, `photos` on photographs."""

from .curves import plot_curves, plot_stages
from .evaluation import draw_split, evaluate, greedy_captions
from .losses import (
    caption_loss,
    kept_counts,
    normalise,
    patch_loss,
    prompt_ids,
    random_keep,
    visual_features,
)
from .trainer import TrainConfig, Trainer

__all__ = [
    "TrainConfig",
    "Trainer",
    "caption_loss",
    "draw_split",
    "evaluate",
    "greedy_captions",
    "kept_counts",
    "normalise",
    "patch_loss",
    "plot_curves",
    "plot_stages",
    "prompt_ids",
    "random_keep",
    "visual_features",
]
