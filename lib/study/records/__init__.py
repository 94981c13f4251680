"""Results on disk: append-only records, and a manifest beside them.

A *record* is one JSON object a line, one line an image. Each batch is appended in one write and
synced, so a kill at any moment loses the batch in flight at most; a torn last line is cut off when
the file is opened again. A *manifest* (`manifest.json`, written atomically) holds

- `parameters`: everything that determines a record (prompt, method and its options, seeds, model,
  weights, images). Records of other parameters are never mixed in: opening them refuses and says
  what differs.
- `runs`: what may differ between the runs that filled one file (library versions, device, batch
  size, number of processes), one entry a run. These change a result by rounding only, so a
  difference is noted, and a warning says so when an unfinished file is continued.
"""

from ..files import write_atomically
from .canonical import canonical, digest, is_timing
from .environment import environment, processor
from .folders import RecordFolder, read_records
from .jsonl import PUBLISHED, RECORDS, RecordFile, packed, packed_records
from .manifest import MANIFEST, Manifest, ManifestMismatch, differences, method_places

__all__ = [
    "MANIFEST",
    "PUBLISHED",
    "RECORDS",
    "Manifest",
    "ManifestMismatch",
    "RecordFile",
    "RecordFolder",
    "canonical",
    "differences",
    "digest",
    "environment",
    "is_timing",
    "method_places",
    "packed",
    "packed_records",
    "processor",
    "read_records",
    "write_atomically",
]
