"""The tables of the photograph model's card, from the records that lie beside it."""

import json

import numpy as np

from lib.study.machines import OTHER_MACHINE
from lib.study.paths import ROOT
from lib.study.trials import load_trial, two_levels

FOLDER = ROOT / "data" / "photos"
BUDGETS = ("50", "25", "12.5", "6.25")
RULES = {
    "FastV": "fastv",
    "RandomPrune": "random",
    "Entropy-Prune": "entropy-prune",
    "entropy + coverage (ours)": "selection",
    "attention-weighted coverage (ours)": "weighted",
}
#: average tokens, and what the two halves keep
LEVELS = ((32, 16, 48), (64, 32, 96), (128, 96, 160))


def means(kl, slug):
    return [float(np.mean(kl[f"{slug}-{budget}"])) for budget in BUDGETS]


def table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def checkpoints():
    rows = []
    for name, one in load_trial("checkpoints")["checkpoints"].items():
        for label, slug in RULES.items():
            rows.append([name, label, *(f"{value:.4f}" for value in means(one["kl"], slug))])
    return table(["weights", "rule", *(f"{budget} %" for budget in BUDGETS)], rows)


def candidates():
    kl = load_trial("candidates")["candidates"]["kl"]
    fastv = means(kl, "fastv")
    slugs = dict.fromkeys(slug.rsplit("-", 1)[0] for slug in kl)
    ratios = {slug: [a / b for a, b in zip(means(kl, slug), fastv)] for slug in slugs}
    rows = [
        [f"`{slug}`", *(f"{value:.2f}" for value in ratios[slug])]
        for slug in sorted(ratios, key=lambda slug: max(ratios[slug]))
    ]
    return table(["candidate", *(f"{budget} %" for budget in BUDGETS)], rows)


def budgets():
    part = load_trial("budgets")["budgets"]["test"]
    entropy, rows = np.array(part["entropy"]), []
    for label, slug in (("entropy + coverage (ours)", "selection"), ("FastV", "fastv"),
                        ("Entropy-Prune", "entropy-prune")):  # fmt: skip
        kl = {count: np.array(part["kl"][f"{slug}-{100 * count / 256:g}"]) for count in
              {c for level in LEVELS for c in level}}  # fmt: skip
        for count, low, high in LEVELS:
            by = {"entropy": entropy, "reverse": -entropy, "hindsight": kl[low] - kl[high]}
            found = {key: two_levels(order, kl[low], kl[high]) for key, order in by.items()}
            change = found["entropy"] - kl[count]
            mean, error = change.mean(), 1.96 * change.std(ddof=1) / len(change) ** 0.5
            rows.append([
                label, count, f"{low} or {high}", f"{kl[count].mean():.4f}",
                f"{found['entropy'].mean():.4f}",
                f"{mean:+.4f} [{mean - error:+.4f}, {mean + error:+.4f}]",
                f"{found['reverse'].mean():.4f}", f"{found['hindsight'].mean():.4f}",
            ])  # fmt: skip
    head = ["rule", "tokens", "halves keep", "fixed", "by entropy", "difference, 95 %",
            "reversed", "hindsight"]  # fmt: skip
    return table(head, rows)


def metrics():
    rows = []
    for name, one in json.loads((FOLDER / "metrics.json").read_text())["weights"].items():
        digits = {"CIDEr": 1, "BLEU-4": 1, "loss": 2}
        cells = [f"{one[part][k]:.{n}f}" for k, n in digits.items() for part in ("val", "test")]
        rows.append([name, *cells])
    head = ["weights", "CIDEr, dev", "test", "BLEU-4, dev", "test", "loss, dev", "test"]
    return table(head, rows)


def processors():
    """The CPU's run beside the GPU's."""
    path = ROOT / "data" / "results" / "photos" / OTHER_MACHINE
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for part, gaps in found["divergence"].items():
        cells = (f"{100 * gaps[key]:.2g} %" for key in ("median", "largest", "largest_mean"))
        rows.append([part, gaps["methods"], gaps["images"], *cells])
    head = ["divergence of", "methods", "photographs", "median difference", "largest",
            "largest of a method's mean"]  # fmt: skip
    return table(head, rows)


TABLES = {
    "METRICS": metrics, "CHECKPOINTS": checkpoints, "CANDIDATES": candidates, "BUDGETS": budgets,
    "PROCESSORS": processors,
}  # fmt: skip
