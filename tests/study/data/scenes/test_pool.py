"""Worker processes draw what one process would, and a failing one is heard."""

import numpy as np
import pytest
import torch

from lib.study import models
from lib.study.data.scenes import captions, draw, sample_scene, scene_seed
from lib.study.data.scenes.pool import ScenePool
from lib.study.data.scenes.rendering import CAPTION_TOKENS, render


def test_workers_draw_the_same_scenes(tmp_path):
    words = [text for i in range(60) for text in captions(sample_scene(i))]
    tokenizer = models.train_tokenizer(words, vocab_size=600)
    drawn = ScenePool(24, tokenizer, variants=2, workers=1)
    drawn.wait(24)
    path, codes, tokens = render(0, 24, 2, tokenizer.backend_tokenizer.to_str(), str(tmp_path))
    for name, expected in {"images": np.load(path), "codes": codes, "tokens": tokens}.items():
        assert torch.equal(getattr(drawn, name), torch.from_numpy(expected)), name
    assert np.array_equal(drawn.images[7], draw(sample_scene(scene_seed("train", 7))))
    words = drawn.tokens[7, 0]
    assert words.shape == (CAPTION_TOKENS,)
    said = tokenizer.decode(words[words >= 0], skip_special_tokens=True)
    assert said.strip() == captions(sample_scene(scene_seed("train", 7)))[0]


def test_a_failing_worker_is_heard():
    class Broken:
        backend_tokenizer = type("Core", (), {"to_str": staticmethod(lambda: "{}")})

    with pytest.raises(RuntimeError, match="drawing scenes failed"):
        ScenePool(8, Broken(), workers=1).wait(8)
