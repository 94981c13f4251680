"""A reference and a run of one profile, of a few hand-made records."""

import json

from lib.study import paths
from lib.study.files import write_atomically, write_json

ENVIRONMENT = {"versions": {"torch": "2.13"}, "platform": "Linux x86_64", "processor": "A"}


def records(captions, kept=8, **more):
    rows = [
        {"image_id": i, "caption": text, "kept": kept, "visual_tokens": 16, **more}
        for i, text in enumerate(captions)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def manifest(count):
    run = {"started": "2026", "device": "cpu", "throughput": {"rank 0": {}}, "processes": 2}
    return {"parameters": {"images": {"count": count}}, "runs": [dict(run), run]}


def fill(place, captions, *, score=0.5, processor="A", picture=b"png", seconds=True):
    """A profile's results, figures and pages in one place: two methods and an ablation."""
    timed = {"seconds": 0.25} if seconds else {}
    for name in ("captions/unpruned", "captions/fastv-50", "ablations/entropy-25"):
        folder = place.results / name
        write_atomically(folder / "records.jsonl", records(captions, **timed))
        write_json(folder / "manifest.json", manifest(len(captions)))
    rows = {
        slug: {
            "values": {"CIDEr": score, "SPICE": None},
            "intervals": {"CIDEr": [0.4, 0.6], "SPICE": None},
        }
        for slug in ("unpruned", "fastv-50")
    }
    write_json(place.results / "scores.json", {"methods": rows, "ablations": {}})
    write_json(place.results / "efficiency.json", {"rows": []})
    environment = ENVIRONMENT | {"processor": processor}
    write_json(place.results / "study.json", {"environment": environment})
    write_atomically(place.figures / "figure1.png", picture)
    write_atomically(place.reports / "index.html", "<html></html>")


def root(folder, monkeypatch):
    """An empty root with the smoke profile in it."""
    profiles = folder / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "smoke.yaml").write_text(
        (paths.profiles_dir() / "smoke.yaml").read_text(encoding="utf-8")
    )
    monkeypatch.setattr(paths, "ROOT", folder)
    return folder
