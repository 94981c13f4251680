"""What Table 1's methods and the sweep cost: `efficiency.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ...decoding import StaticDecoder
from ...geometry import patches
from ..cost.analytic import analytic
from ..cost.latency import fast_path
from ..cost.probe import Probe, visual_of
from ..cost.prompts import study_prompts
from ..cost.rounds import in_rounds
from ..cost.timing import machine
from ..dependencies import costs_code
from ..examples import examples
from ..files import write_json
from ..methods import Method, methods, sweep
from ..profiles import Profile
from .study import Study, threads

__all__ = ["make_costs"]


def make_costs(study: Study) -> bool:
    """Time and count Table 1's methods and the sweep; False: nothing was missing.

    Every batch size is kept as it is measured. The sweep is timed at the first one, in a third of
    the rounds: its times are shown along a curve and compared with nothing.
    """
    profile, path = study.profile, study.folder / "efficiency.json"
    wanted = profile.efficiency
    # as JSON gives them back
    settings = json.loads(json.dumps(_settings(profile)))
    document = _stored(path, settings)
    done = {row["batch"] for row in document["rows"]} if document else set()
    todo = [batch for batch in wanted.batches if batch not in done]
    if not todo:
        return False
    rows = document["rows"] if document else []
    for batch in todo:
        table = dict(methods(profile))
        if wanted.sweep and batch == wanted.batches[0]:
            table |= sweep(profile)
        found, where = _measured(study, table, batch)
        rows += found
        document = {
            "settings": settings,
            "model": profile.model,
            "dtype": str(study.loaded.model.dtype).removeprefix("torch."),
            "machine": where,
            "prompt": profile.prompt,
            "rows": rows,
        }
        write_json(path, document)
    return True


def _settings(profile: Profile) -> dict[str, Any]:
    """What decides the rows."""
    whole = profile.as_dict()
    names = ("model", "revision", "dtype", "device_map", "split", "prompt", "keep", "random_state")
    return {
        "code": costs_code(),
        "options": whole["efficiency"],
        "rates": sorted({*profile.sweep, profile.ablation_keep}),
        **{name: whole[name] for name in names},
    }


def _stored(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured before with the same settings and code."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document if document["settings"] == settings else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(
    study: Study, table: dict[str, Method], batch: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row a method, and the machine as it was meanwhile."""
    profile, wanted = study.profile, study.profile.efficiency
    model, processor, _ = study.loaded
    images = examples(profile, limit=batch, progress=study.progress)
    inputs = study_prompts(model, processor, images, profile.prompt, batch)
    pruners = {slug: method.create() for slug, method in table.items()}
    probes = {
        slug: Probe(model, inputs, pruner, wanted.new_tokens) for slug, pruner in pruners.items()
    }
    main = methods(profile)
    rounds = {s: wanted.repeats if s in main else -(-wanted.repeats // 3) for s in table}
    # several threads that wait for each other time whatever else the machine does
    with (
        threads(model.device, 1),
        tqdm(
            total=sum(rounds.values()), desc="costs", unit="caption", disable=not study.progress
        ) as bar,
    ):
        where = machine()
        timed = in_rounds(probes, rounds=rounds, bar=bar)
        if wanted.fast_path and len({p.device for p in model.parameters()}) == 1:
            decoder = StaticDecoder(model)
            for slug, pruner in pruners.items():
                probe = Probe(model, inputs, pruner, wanted.new_tokens, decoder)
                fast = fast_path(probe, repeats=rounds[slug])
                peaks = [row["peak_bytes"] for row in (timed[slug], fast)]
                timed[slug] |= fast | {"peak_bytes": None if None in peaks else max(peaks)}
    visual, seen = visual_of(model, probes), int(inputs["attention_mask"].sum()) // batch
    text = seen - (patches(model.config) if visual is None else visual.tokens)
    rows = []
    for slug, method in table.items():
        chosen = pruners[slug].options() if pruners[slug] is not None else None
        about = {
            "slug": slug,
            "label": method.label,
            "method": method.name or "unpruned",
            "keep": dict(method.options).get("keep", timed[slug]["kept"]),
            "layer": (chosen or {}).get("layer", 0),
            "table": slug in main,
            "text": text,
        }
        flops = analytic(model.config, chosen, timed[slug]["kept"], text, visual)
        rows.append(about | timed[slug] | {"flops": flops})
    return rows, where
