"""Each verdict follows from stored numbers, and turns with them."""

import copy
import json

import pytest

from lib.study import claims, paths
from lib.study.claims import NOT_SUPPORTED, NOT_TESTABLE, SUPPORTED, Evidence
from lib.study.labels import DIVERGENCE
from lib.study.profiles import Profile

METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def gap(a, b, metric, value, p=0.001):
    bounds = {"low": value - 0.01, "high": value + 0.01, "images": 200, "tests": 9}
    tests = dict.fromkeys(("p_value", "p_holm", "flip_p", "flip_holm"), p)
    return {"a": a, "b": b, "metric": metric, "value": value, **bounds, **tests}


def measure(mean, **more):
    return {"mean": mean, "median": mean, "low": mean, "high": mean, "n": 60, **more}


def cost(slug, ratio=(0.9, 0.88, 0.92), work=80.0, cache=60, encoder=10.0):
    low = dict(zip(("median", "low", "high"), ratio)) | {"rounds": 9}
    return {
        "slug": slug, "batch": 1, "kept": 0.5, "keep": 0.5, "cache_bytes": cache,
        "flops": {"exact": work, "vision": 10.0, "scorer": 1.0, "encoder": encoder},
        "ratio": {"end_to_end": low},
    }  # fmt: skip


def documents():
    """Results that say all the paper says."""
    fastv, ours = "fastv-50", "entropy-50"
    paper = [gap(ours, f"{n}-50", m, 0.05) for n in ("random", "tome") for m in METRICS]
    paper += [gap(ours, fastv, m, -0.05 if m == "CIDEr" else 0.05) for m in METRICS]
    paper += [gap(f"{n}-50", "random-50", "BLEU-4", 0.05) for n in ("tome", "fastv")]
    values = {"unpruned": 1.0, "random-50": 0.77, ours: 0.98}
    methods = {k: {"values": {"BLEU-4": v, "SPICE": None}} for k, v in values.items()}
    kept = {"mean": 0.5, "low": 0.4, "high": 0.6, "of": 64}
    options = {"core_clusters": 16, "tokens_per_cluster": 2}
    methods["entropy-printed"] = {"kept": kept, "options": options, "values": {}}
    printed = [gap("entropy-printed", "random-printed", m, 0.05) for m in METRICS]
    scores = {
        "images": 200,
        "methods": methods,
        "comparisons": {
            "paper": paper,
            "printed": printed,
            "pruning": [gap(fastv, "unpruned", "CIDEr", 0.05)],
        },
        "equivalence": [],
    }
    table = {
        "printed": [gap("entropy-printed", "random-printed", DIVERGENCE, -0.05)],
        "at FastV's layer": [gap("entropy-layer2-50", fastv, DIVERGENCE, -0.05)],
    }
    ablations = {
        "methods": {
            "entropy-25": {"method": "entropy", "options": {}},
            "entropy-layers7-7-25": {"method": "entropy", "options": {"layers": [7, 7]}},
        },
        "comparisons": {"ablations": [gap("entropy-layers7-7-25", "entropy-25", DIVERGENCE, 0.05)]},
    }
    population = {
        "attention": {
            "image / system": measure([0.5, 0.4, 0.001, 0.002, 0.003]),
            "image / system, layer 2 on": measure(0.002),
        },
        "clusters": {
            "redundancy, kept": measure(0.05),
            "kept cosines above .5": measure(0.0),
            "effective rank, kept": measure(20.0),
            "kept tokens": measure(21.0),
            "coverage, kept": measure(0.9, values=[0.9, 0.91, 0.89]),
            "coverage, random": measure(0.8, values=[0.8, 0.81, 0.79]),
        },
    }
    rows = [
        cost("unpruned", (1.0, 1.0, 1.0), 1000.0, 1000),
        cost(ours, (0.82, 0.8, 0.84), 80.0, 60, 8.0),
        cost("entropy-layer2-50", (0.82, 0.8, 0.84)),
        cost(fastv, (0.67, 0.65, 0.69)),
    ]
    naive = {"tokens": 256, "exact": {"median": 1.0}, "naive": {"median": 2.0}, "ratio": 2.0}
    return {
        "scores.json": scores,
        "divergence.json": {"table": {"comparisons": table}, "ablations": ablations},
        "population.json": {"measures": population},
        "efficiency.json": {"rows": rows},
        "benchmark.json": {"leave_one_out": [naive | {"largest_error_over_spread": 1e-5}]},
    }


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """{claim: verdict} of documents, changed beforehand."""
    monkeypatch.setattr(
        "lib.study.claims.evidence.load_profile", lambda name: Profile(profile=name)
    )

    def judged(change=None):
        found = copy.deepcopy(documents())
        if change is not None:
            change(found)
        for name in documents():
            (tmp_path / name).unlink(missing_ok=True)
        for name, document in found.items():
            (tmp_path / name).write_text(json.dumps(document))
        evidence = Evidence("embedded", tmp_path)
        return {claim.name: claim.judge(evidence) for claim in claims.CLAIMS}

    return judged


def only(change, verdicts, before, expected=NOT_SUPPORTED):
    """The claims whose verdicts a change turned, all to `expected`."""
    turned = {name for name in before if verdicts[name].verdict != before[name].verdict}
    assert turned and all(verdicts[name].verdict == expected for name in turned), turned
    return turned


def test_results_that_say_what_the_paper_says_support_all_but_spice(judge):
    verdicts = judge()
    off = {name for name, found in verdicts.items() if found.verdict != SUPPORTED}
    assert off == {"SPICE 22.14 for LLaVA-1.5-7B"}
    assert all(found.evidence and found.record for n, found in verdicts.items() if n not in off)


def test_nothing_stored_makes_nothing_testable(tmp_path):
    for claim in claims.CLAIMS:
        found = claim.judge(Evidence("smoke", tmp_path))
        assert found.verdict == NOT_TESTABLE and found.evidence, claim.name


def _set(path, value):
    def change(found):
        *parents, last = path
        for key in parents:
            found = found[key]
        found[last] = value

    return change


def _scale(family, **new):
    def change(found):
        for one in found["scores.json"]["comparisons"][family]:
            one.update(new)

    return change


def _clusters(name, **new):
    return _set(("population.json", "measures", "clusters", name), measure(**new))


FASTV = "FastV raises CIDEr above the unpruned model's"
PRINTED = "From layer 2 on an image token gets 0.21 % of a system token's attention"
HALF = "M = 32, k_c = 16 and t_pc = 2 prune half of the tokens"


@pytest.mark.parametrize(
    "change, turned",
    [
        (_scale("pruning", flip_holm=0.06), {FASTV}),
        (_scale("pruning", value=-0.05), {FASTV}),
        (_set(("population.json", "measures", "attention", "image / system, layer 2 on"),
              measure(0.15)), {PRINTED}),
        (_clusters("redundancy, kept", mean=0.37), {"The kept tokens are nearly orthogonal"}),
        (_clusters("coverage, kept", mean=0.7, values=[0.7, 0.71, 0.69]),
         {"The kept tokens are a more faithful summary of the image"}),
        (_set(("scores.json", "methods", "entropy-printed", "kept", "mean"), 0.088), {HALF}),
        (_set(("scores.json", "methods", "random-50", "values", "BLEU-4"), 0.95),
         {"Random pruning falls far behind every other method"}),
        (_set(("benchmark.json", "leave_one_out", 0, "ratio"), 6267.0),
         {"Exact leave-one-out entropy is impractical for 256 tokens and more"}),
        (_set(("efficiency.json", "rows", 2, "ratio", "end_to_end", "low"), 0.66),
         {"Entropy-Prune takes longer than FastV at FastV's layer"}),
        (_set(("efficiency.json", "rows", 1, "ratio", "end_to_end", "high"), 1.01),
         {"Entropy-Prune shortens a whole caption"}),
        (_set(("efficiency.json", "rows", 1, "flops", "encoder"), 10.0),
         {"Entropy-Prune saves the visual encoder's FLOPs"}),
        (_set(("efficiency.json", "rows", 1, "cache_bytes"), 500),
         {"Pruning saves compute and memory by an order of magnitude"}),
    ],
)  # fmt: skip
def test_a_verdict_turns_with_its_numbers(judge, change, turned):
    before = judge()
    assert only(change, judge(change), before) == turned


def test_one_metric_that_does_not_hold_is_enough(judge):
    before = judge()

    def change(found):
        rows = found["scores.json"]["comparisons"]["paper"]
        (one,) = [r for r in rows if (r["b"], r["metric"]) == ("tome-50", "METEOR")]
        one["p_holm"] = 0.2

    assert only(change, judge(change), before) == {"Entropy-Prune captions better than ToMe"}


def test_the_weightiest_profile_that_can_test_a_claim_leads(monkeypatch):
    verdicts = {
        "photos": dict.fromkeys(claims.CLAIMS, claims.Verdict(NOT_TESTABLE, "", "")),
        "embedded": dict.fromkeys(claims.CLAIMS, claims.Verdict(SUPPORTED, "", "")),
    }
    first = claims.CLAIMS[0]
    verdicts["photos"][first] = claims.Verdict(NOT_SUPPORTED, "", "")
    monkeypatch.setattr(
        "lib.study.claims.judging.judged", lambda name: list(verdicts[name].items())
    )
    table = claims.table(["photos", "embedded"])
    assert list(table["Profile"]) == ["photos"] + ["embedded"] * (len(claims.CLAIMS) - 1)
    assert claims.summary(["photos", "embedded"]).startswith(
        f"Of {len(claims.CLAIMS)} claims: {len(claims.CLAIMS) - 1} supported, 1 not supported"
    )


def test_only_profiles_with_results_are_judged(tmp_path, monkeypatch):
    root = paths.ROOT
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "profiles").symlink_to(root / "notebooks" / "profiles")
    assert claims.profiles("embedded") == [] and len(claims.table([])) == len(claims.CLAIMS)
    for name in ("smoke", "embedded"):
        folder = paths.results_dir(name)
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text('{"images": 100}')
    assert claims.profiles() == ["embedded"] and claims.profiles("smoke") == ["smoke", "embedded"]
    # a first look is no verdict
    (paths.results_dir("embedded") / "scores.json").write_text('{"images": 99}')
    assert claims.profiles() == [] and claims.profiles("embedded") == ["embedded"]
