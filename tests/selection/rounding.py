"""How often rounding changes a selection, on the tokens of the embedded model.

    python -m tests.selection.rounding --noise 2e-7
    python -m tests.selection.rounding --save build/here.pt
    MKL_CBWR=COMPATIBLE python -m tests.selection.rounding --against build/here.pt

The first disturbs every number of the tokens by a relative 2e-7, about what another processor's
arithmetic does to them on their way through the vision tower, and counts the images whose kept set
differs. The others compare two processors, or two ways of computing on one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lib.selection import STRATEGIES, hierarchical, proportions, token_level
from lib.study.captioning import load_image
from lib.study.models import load
from lib.study.run import examples, load_profile

KEEPS = (0.125, 0.25, 0.5, 0.75)
DEPTH = 4  # layers that the default pruner merges
BATCH = 8


def states_of(images: int) -> Tensor:
    """States (4, images, N, D) of the patches at the last layers up to the one that is read."""
    model, processor, _ = load("embedded", device="cpu")
    paths = [e.path for e in examples(load_profile("embedded"), limit=images, progress=False)]
    parts = []
    for start in range(0, len(paths), BATCH):
        batch = [load_image(path) for path in paths[start : start + BATCH]]
        pixels = processor.image_processor(batch, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        last = len(states) + model.config.vision_feature_layer
        parts.append(torch.stack([states[i][:, 1:] for i in range(last - DEPTH + 1, last + 1)]))
    return torch.cat(parts, 1)


def rules() -> Iterator[tuple[str, Callable[[Tensor, int], Tensor]]]:
    """Name and mask (B, N) of states (L, B, N, D) and a budget, for everything that chooses."""

    def algorithm_1(states: Tensor, k: int, budget: int | str) -> Tensor:
        numbers = proportions(states.shape[-2], k)
        return hierarchical(None, *numbers, layers=list(states), budget=budget).mask

    yield "hierarchical, exact", lambda states, k: algorithm_1(states, k, k)
    yield "hierarchical, adaptive", lambda states, k: algorithm_1(states, k, "adaptive")
    yield "token_level", lambda states, k: token_level(None, k, layers=list(states))
    for name, rule in STRATEGIES.items():
        yield name, lambda states, k, rule=rule: rule(states[-1], k)


def masks_of(states: Tensor) -> dict[str, dict[float, Tensor]]:
    """The kept sets (images, N) of every rule at every budget."""
    size = states.shape[-2]
    return {
        name: {
            keep: torch.cat([rule(part, int(keep * size)) for part in states.split(BATCH, 1)])
            for keep in KEEPS
        }
        for name, rule in rules()
    }


def differences(a: dict, b: dict) -> str:
    """A Markdown table: of how many images another set was kept, and how many tokens at most."""
    lines = ["| rule | " + " | ".join(f"{keep:.1%}" for keep in KEEPS) + " |"]
    lines += ["|---" * (len(KEEPS) + 1) + "|"]
    for name in a:
        cells = []
        for keep in KEEPS:
            swapped = (a[name][keep] & ~b[name][keep]).sum(-1)
            count = int((a[name][keep] != b[name][keep]).any(-1).sum())
            cells.append(f"{count} (by {int(swapped.max())})" if count else "0")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--noise", type=float, help="relative size of the disturbance")
    parser.add_argument("--save", help="write the kept sets of this process to a file")
    parser.add_argument("--against", help="compare with the kept sets of such a file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    states = states_of(options.images)
    masks = masks_of(states)
    if options.save:
        torch.save(masks, options.save)
    if options.against:
        print(differences(torch.load(options.against), masks))
    if options.noise:
        generator = torch.Generator().manual_seed(0)
        noise = options.noise * torch.randn(states.shape, generator=generator)
        print(differences(masks, masks_of(states * (1 + noise))))


if __name__ == "__main__":
    main()
