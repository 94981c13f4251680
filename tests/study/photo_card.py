"""The tables of the photograph model's card, from the records that lie beside it."""

import json

import numpy as np

from lib.study.clusters import CLUSTERS, VARIED, cores, fewest, nearest, pairs, share_for
from lib.study.evaluation import Family, Scores, compare_families
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


def clusters():
    """M and k_c of each image by rules of dev, against the best fixed pair of dev, on test."""
    parts = load_trial("clusters")["clusters"]
    dev, test = parts["val"], parts["test"]
    scores, chosen = {}, []
    for count in (128, 64, 32, 16):

        def kl(part, m, k, count=count):
            return np.array(part["kl"][f"{m}-{k}-{count}"])

        def sized(part, factor, kl=kl, count=count):
            grid = np.array([kl(part, m, min(count, m // 2)) for m in CLUSTERS])
            index = nearest(np.exp(part["entropy"]), factor)
            return grid[index, np.arange(grid.shape[1])]

        def shared(part, m, share, kl=kl, count=count):
            levels = cores(m, count)
            index = fewest(np.array(part["held"][str(m)])[:, : len(levels)], share)
            return np.array([kl(part, m, k) for k in levels])[index, np.arange(len(index))]

        m, k = min(pairs(count), key=lambda pair: kl(dev, *pair).mean())
        factor = min(np.geomspace(1, 24, 25), key=lambda c: sized(dev, c).mean())
        shares = {}
        for size in VARIED:
            levels = cores(size, count)
            held = np.array(dev["held"][str(size)])[:, : len(levels)]
            shares[size] = share_for(held, levels, float(np.mean(levels)))
        size = min(VARIED, key=lambda one: shared(dev, one, shares[one]).mean())
        found = {
            f"M = {factor:.1f} exp(S)": sized(test, factor),
            f"k_c of M = {size} by {100 * shares[size]:.0f} % of scores": shared(
                test, size, shares[size]
            ),
        }
        fixed = f"fixed-{count}"
        scores[fixed] = Scores.of_means(test["image_ids"], {"kl": kl(test, m, k)})
        for rule, values in found.items():
            scores[f"{rule}-{count}"] = Scores.of_means(test["image_ids"], {"kl": values})
            chosen.append((count, rule, f"{m}, {k}", f"{rule}-{count}", fixed))
    family = Family("clusters", tuple(row[3:] for row in chosen), ("kl",))
    compared = compare_families(scores, [family])["clusters"]
    rows = [
        [count, pair, f"{scores[b].values['kl']:.4f}", rule, f"{scores[a].values['kl']:.4f}",
         f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]",
         f"{max(one.p_holm, one.flip_holm):.3f}"]
        for (count, rule, pair, a, b), one in zip(chosen, compared, strict=True)
    ]  # fmt: skip
    head = [
        "tokens",
        "best fixed M, k_c",
        "fixed",
        "rule",
        "by rule",
        "difference, 95 %",
        "p (Holm)",
    ]
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
if (FOLDER / "clusters.json.xz").is_file():
    TABLES["CLUSTERS"] = clusters
