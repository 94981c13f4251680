"""The base class of models."""

import abc
from pathlib import Path


class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @staticmethod
    def _resolve_system_prompt(value):
        return Path(value).read_text().strip() if value and Path(value).is_file() else value

    def _apply_system_prompt(self, messages, system_prompt):
        if system_prompt:
            content = [{"type": "text", "text": system_prompt}]
            if messages[0]["role"] == "system":
                messages[0]["content"] = content
            else:
                messages.insert(0, {"role": "system", "content": content})
        return messages

    def clean(self):
        return None

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size
