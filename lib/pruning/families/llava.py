"""LLaVA-1.5 and its kin: one image is one row of the tower, its patches are its visual tokens."""

from __future__ import annotations

from ... import geometry
from .base import Family


class Llava(Family):
    """LLaVA with a CLIP or SigLIP tower: a grid of patches, projected one by one."""

    model_types = ("llava",)
    title = "LLaVA"

    @property
    def class_tokens(self) -> int:
        embeddings = getattr(self.tower, "vision_model", self.tower).embeddings
        return int(hasattr(embeddings, "class_embedding"))

    @property
    def skipped(self) -> int:
        # LLaVA drops the first token by its setting, not by what it is
        return int(self.config.vision_feature_select_strategy == "default")

    @property
    def keeps_class_token(self) -> bool:
        """True if the tower's class token is a visual token, too (`"full"` with CLIP)."""
        return self.class_tokens == 1 and self.config.vision_feature_select_strategy == "full"

    def patches(self) -> int:
        """Patches of one image."""
        return geometry.patches(self.config)

    def tokens_each(self) -> int | None:
        if not hasattr(getattr(self.tower, "vision_model", self.tower), "embeddings"):
            return None  # Pixtral's images have as many as their shapes ask for
        return self.patches() + self.class_tokens - self.skipped

    def grid(self) -> tuple[int, int] | None:
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return (side, side) if self.tokens_each() == side * side else None
