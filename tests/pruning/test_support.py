"""Which method runs on which family: what methods that refuse say, and their table."""

from dataclasses import dataclass

import pytest

from lib.pruning import RandomPrune, available, support_markdown, support_table
from lib.pruning.support import Support, refusal
from tests.tiny import tiny_llava, tiny_llava_next


@pytest.fixture(scope="module")
def models():
    return [tiny_llava(), tiny_llava_next()]


@pytest.fixture(scope="module", autouse=True)
def _methods():
    """Known to this module alone: tests of every method are laid out before it runs."""

    class Square(RandomPrune, name="square"):
        supports = frozenset({"llava"})

    @dataclass(eq=False, kw_only=True)
    class Closed(RandomPrune, name="closed"):
        positions: str = "contiguous"

        def __call__(self, model):
            if "Next" in type(model).__name__ and self.positions == "contiguous":
                raise TypeError("closes positions up")
            return super().__call__(model)


def test_a_method_runs_or_says_why_not_or_runs_with_the_original_positions(models):
    table = support_table(models, ["random", "square", "closed"])
    assert list(table) == ["random", "square", "closed"]
    assert [list(row) for row in table.values()] == [["LLaVA", "LLaVA-NeXT"]] * 3
    runs = Support(None, True)
    assert table["random"] == {"LLaVA": runs, "LLaVA-NeXT": runs}
    reason, original = table["square"]["LLaVA-NeXT"]
    assert "Square does not support LlavaNext" in reason and not original
    assert table["closed"]["LLaVA-NeXT"] == Support("closes positions up", True)
    assert support_markdown(table).splitlines() == [
        "| method | LLaVA | LLaVA-NeXT |",
        "|---|---|---|",
        "| `random` | ✓ | ✓ |",
        "| `square` | ✓ | – |",
        "| `closed` | ✓ | o |",
    ]


def test_all_registered_methods_are_asked_by_default(models):
    table = support_table(models[:1])
    assert list(table) == available() and {"square", "closed", "tome"} <= table.keys()


def test_only_a_type_error_is_a_refusal(models):
    class Broken(RandomPrune, name="broken"):
        def attach(self, model):
            raise ZeroDivisionError

    assert refusal("random", models[0], keep=0.25) is None
    with pytest.raises(ZeroDivisionError):
        refusal("broken", models[0])
