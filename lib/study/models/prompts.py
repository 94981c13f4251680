"""The question that a model is asked about an image."""

from __future__ import annotations

from typing import Any

#: What the embedded model was trained to answer.
PROMPT = "Describe the image briefly."

#: LLaVA-1.5's conversation: "USER: <image>\nDescribe the image briefly. ASSISTANT:".
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def format_prompt(processor: Any, text: str = PROMPT) -> str:
    """The prompt for one image and a question, through the processor's chat template.

    Returns
    -------
    A string with the image placeholder, such as
    ``"USER: <image>\\nDescribe the image briefly. ASSISTANT:"``.

    Raises
    ------
    ValueError : the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            f"{type(processor).__name__} has no chat template: set "
            "processor.chat_template = lib.study.models.CHAT_TEMPLATE"
        )
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    return processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)


def full_prompt(processor: Any, prompt: str) -> str:
    """The prompt as the model gets it; a text that already holds the placeholder stays as it is."""
    return prompt if processor.image_token in prompt else format_prompt(processor, prompt)
