"""A random LLaVA of the study's own classes whose answers depend on the image."""

import torch

from lib.study import models

SIDE, PATCH = 42, 7
TOKENS = (SIDE // PATCH) ** 2


def tiny_captioner(words):
    """The model and its processor; words: texts that the tokenizer learns from."""
    tokenizer = models.train_tokenizer(words, vocab_size=300)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
    model = models.build_embedded(
        tokenizer, vision=small | {"image_size": SIDE, "patch_size": PATCH}, text=small
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        model.model.language_model.embed_tokens.weight.normal_(generator=generator)
        model.model.multi_modal_projector.linear_2.weight.mul_(20)
    return model.eval(), models.build_processor(tokenizer, image_size=SIDE, patch_size=PATCH)
