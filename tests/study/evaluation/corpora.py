"""References, and captions of two methods, one better than the other."""

import numpy as np

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


def tokens_of(references, records):
    captions = {r["image_id"]: r["caption"].lower() for r in records}
    order = sorted(references)
    return [captions[i] for i in order], [references[i] for i in order]
