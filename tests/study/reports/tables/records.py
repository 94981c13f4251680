"""A benchmark of known numbers."""


def timing(ms):
    return {"median": ms / 1e3, "low": 0.9 * ms / 1e3, "high": 1.2 * ms / 1e3, "repeats": 3}


def row(method, batch=1, keep=0.5, *, first=10.0, new=64, plain=True, **more):
    """A row with a fast path twice as fast to the first token, and 64 tokens in ten times that."""
    cells = {"method": method, "batch": batch, "keep": keep, "kept": keep, "new_tokens": new}
    times = {"vision": 2.0, "scorer": 0.0 if method == "unpruned" else 0.1 * batch,
             "prefill": 2 * first, "static_prefill": first, "static_decode": 0.5,
             "static_end_to_end": 10 * first}  # fmt: skip
    times |= {"decode": 1.5, "end_to_end": 40 * first} if plain else {}
    cells |= {name: timing(ms) for name, ms in times.items()}
    flops = {"fastv": 1e12, "sparsevlm": 2e12, "exact": 4e12, "vision": 5e11, "scorer": 1e10}
    return cells | {"cache_bytes": 2.5e8, "peak_bytes": 15e9, "flops_counted": 4.6e12,
                    "flops": flops} | more  # fmt: skip


def record():
    rows = [
        row("entropy", 8, first=42.0, plain=False), row("fastv", first=8.0),
        row("entropy", first=7.0, plain=False, static_agreement=0.25),
        row("unpruned", keep=1.0, first=14.0, static_agreement=0.5),
        row("unpruned", 8, 1.0, first=82.0, plain=False),
        row("entropy", 8, 0.25, first=30.0, new=1), row("entropy", 8, 0.125, first=20.0, new=1),
    ]  # fmt: skip
    growth = [row(m, tokens=n, first=n / 10, new=1) for n in (576, 144) for m in ("entropy",)]
    for entry in growth:
        del entry["keep"], entry["flops"]  # as `lib.study.cost.benchmark.growth` writes them
    return {
        "model": "shape:llava-1.5-7b", "dtype": "bfloat16", "attention": "sdpa",
        "machine": {"device": "H200", "threads": None}, "rows": rows, "growth": growth,
        "agreement": [{"method": "entropy", "dtype": "float32", "batch": 2, "tokens": 64,
                       "same": 1.0}],
        "leave_one_out": [{"tokens": 576, "exact": timing(0.5), "naive": timing(3000.0),
                           "ratio": 6000.0, "largest_error_over_spread": 3e-5}],
    }  # fmt: skip
