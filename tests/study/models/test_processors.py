"""A processor that leaves settings out gets the model's."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, Dinov2Config, SiglipVisionConfig

from lib.pruning import create
from lib.study.models import COUNTING, load
from lib.study.models.processors import class_tokens, complete


@pytest.mark.parametrize("gone", [*([name] for name in COUNTING), list(COUNTING)], ids="-".join)
def test_missing_settings_come_from_the_configuration(copy, embedded, gone):
    (copy / "SHA256SUMS").unlink()
    path = copy / "processor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k not in gone}))
    model, processor, _ = load(str(copy), device="cpu")
    assert {name: getattr(processor, name) for name in COUNTING} == {
        name: getattr(embedded.processor, name) for name in COUNTING
    }
    image = Image.new("RGB", (300, 200), "red")
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}]}], tokenize=False
    )
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode(), create("entropy")(model) as pruner:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert len(pruner.kept[0]) == 128


def test_a_setting_that_nobody_names_is_named():
    processor = SimpleNamespace(
        patch_size=None, num_additional_image_tokens=1, vision_feature_select_strategy="default"
    )
    with pytest.raises(ValueError, match=r"patch_size is missing.*processor_config\.json"):
        complete(processor, SimpleNamespace(vision_config=SimpleNamespace()))


def test_a_processor_of_another_kind_stays_as_it_is():
    processor = SimpleNamespace(merge_size=2)
    complete(processor, SimpleNamespace())
    assert vars(processor) == {"merge_size": 2}


@pytest.mark.parametrize(
    "config, tokens", [(CLIPVisionConfig, 1), (SiglipVisionConfig, 0), (Dinov2Config, 1)]
)
def test_class_tokens_are_those_of_the_tower(config, tokens):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert class_tokens(config(**small)) == tokens
