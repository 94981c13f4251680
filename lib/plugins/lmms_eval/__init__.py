"""The library as a model of lmms-eval, which finds it by the entry point `lmms_eval.models`.

    lmms-eval --model entropy_prune --tasks pope --batch_size 16 \\
        --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=entropy,keep=0.5,layer=2

`Chat` serves the tasks as messages, which is what lmms-eval asks for by default; `Simple` serves
them as text and images (`--force_simple`), as tasks that compare likelihoods need.
"""

from lmms_eval.models.registry_v2 import ModelManifest

NAME = "entropy_prune"


def manifest() -> ModelManifest:
    """What lmms-eval registers: a name, and where its two classes are."""
    home = f"{__name__}.model"
    return ModelManifest(
        model_id=NAME, simple_class_path=f"{home}.Simple", chat_class_path=f"{home}.Chat"
    )
