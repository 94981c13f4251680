"""The prompt comes from the chat template."""

import pytest

from lib.study.models import build_processor, format_prompt


def test_format_prompt_needs_a_template(embedded):
    bare = build_processor(embedded.processor.tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        format_prompt(bare)
    assert format_prompt(embedded.processor, "What is this?").endswith("What is this? ASSISTANT:")
