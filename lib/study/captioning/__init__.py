"""Images to captions: batches, resumable records, one vision pass for several methods, ranks.

Greedy decoding throughout. Every image leaves one record (see `Record`), appended batch by batch
to a results folder (`lib.study.records`), so a killed run continues where it stopped and ends with
the records of an undisturbed one. Batches are cut from the list of examples once, by `batch_size`
alone: neither an interruption nor the number of processes changes what is computed together.

Several processes share the work when launched together; each appends its own shard:

    accelerate launch --multi_gpu --num_processes 4 -m lib caption --method fastv --keep 0.5 ...

On one GPU or CPU, `python -m lib caption ...` does the same alone. (`--multi_gpu` is what
accelerate calls torchrun and works on CPUs, too; its own `--cpu` would start a single process.)

Batches are not sorted by length: all prompts are equal, and greedy captions end at similar lengths.
"""

from ..models import PROMPT
from .batch import repeatable_attention, until_end
from .images import ImageError, load_image
from .loader import Loader
from .loop import UNPRUNED, Settings, caption, caption_methods
from .parameters import manifest_parameters, weights_digest
from .ranks import own_gpu
from .record import Record
from .throughput import Throughput
from .vision import SharedVision

__all__ = [
    "PROMPT",
    "UNPRUNED",
    "ImageError",
    "Loader",
    "Record",
    "Settings",
    "SharedVision",
    "Throughput",
    "caption",
    "caption_methods",
    "load_image",
    "manifest_parameters",
    "own_gpu",
    "repeatable_attention",
    "until_end",
    "weights_digest",
]
