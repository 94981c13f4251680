"""Requests and responses."""

from dataclasses import dataclass, field


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None

    def to_dict(self):
        names = ("input_tokens", "output_tokens", "reasoning_tokens")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass
class Instance:
    request_type: str
    arguments: tuple
    idx: int
    metadata: dict = field(default_factory=dict)
    resps: list = field(default_factory=list)
    filtered_resps: dict = field(default_factory=dict)
    raw_filtered_resps: dict = field(default_factory=dict)
    token_counts: list = field(default_factory=list)
    task_name: str | None = None
    doc_id: str | None = None
    repeats: str | None = None
    doc: dict | None = None

    @property
    def args(self):
        return self.arguments if isinstance(self.arguments, tuple) else (self.arguments,)
