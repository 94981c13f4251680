"""A choice made beside the first language layers, on a stream of its own, in a captured prefill.

What depends on the vision tower alone need not wait for the language layers before the stage, nor
they for it. Without a capture the host is the bottleneck and nothing is gained.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .images import ImageTokens
from .vision import VisionRecord, record_of

if TYPE_CHECKING:
    from .passes import Current, Pass

#: cores of the GPU that products leave to the choice, to a long one (as many as a greedy choice of
#: 576 tokens has programs), and with how many positions at most: those of more are many rounds of
#: blocks, which a few held cores do not double. Measured on an H200 alone (docs/speed.md)
SPARED, _SPARED_LONG, _POSITIONS = 16, 36, 1024


def ahead(
    pruner: Any, compute: Callable[[VisionRecord], Any], *, long: bool = False,
    last: int | None = None,
) -> None:  # fmt: skip
    """In a captured prefill, choose on another stream once the tower has said all that it takes.

    Where the first layer waits for the choice, or it is long, it begins behind the projector, whose
    products fill a GPU at batch 1; else once the images are found in the prompt, whose small
    kernels it would hold up. From the first layer's MLP to the second's, products leave it some
    cores. long: the choice takes about as long as two layers; of few positions it begins with the
    `last` hidden state that it reads, and the first layer's attention leaves it cores, too.
    """
    if pruner.keeps_all:  # nobody would wait for it
        return
    current: Current = pruner._current

    def begin(record: VisionRecord) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            record.extra["ahead"] = stream, compute(record)

    def read(module: nn.Module, args: tuple, kwargs: dict) -> None:
        record, whole = current.record, capturing() and not current.tower_alone
        if record is not None and "ahead" not in record.extra and whole and _few(args, kwargs):
            begin(record)

    def projected(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        record = current.record
        if record is not None and "ahead" not in record.extra and capturing():
            begin(record)

    def embedded(module: nn.Module, args: tuple, kwargs: dict) -> None:
        record = _record(current.pass_)
        if record is None or not capturing():
            return
        if "ahead" in record.extra:  # what follows looks at the places of the images, found by now
            record.extra["ahead"][0].wait_stream(torch.cuda.current_stream())
        else:
            begin(record)

    def sparing(cores: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            record = _record(current.pass_)  # a captured step has none
            if record is not None and "ahead" in record.extra and _few(args, kwargs):
                spare(cores)

        return hook

    family, hooks = pruner.family, pruner.hooks
    waits = pruner.stages()[0] == 0
    if long and last is not None and last < len(family.blocks()):
        hooks.add(family.blocks()[last], read, before=True)
    if (waits or long) and family.projector is not None:
        hooks.add(family.projector, projected, before=False)
    if not waits:
        hooks.add(family.language, embedded, before=True)
    mlps = [getattr(layer, "mlp", None) for layer in family.layers[:2]]
    if pruner.stages()[0] > 1 and None not in mlps:
        sparer = family.layers[0] if long else mlps[0]
        hooks.add(sparer, sparing(_SPARED_LONG if long else SPARED), before=True)
        hooks.add(mlps[1], sparing(0), before=True)


def _few(args: tuple, kwargs: dict) -> bool:
    """True if a module is called with the states of at most `_POSITIONS` positions."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states.shape[:-1].numel() <= _POSITIONS


def chosen_ahead(images: ImageTokens) -> Any:
    """What `ahead` chose for exactly these images, None if it did not."""
    if (found := _found(images)) is None:
        return None
    stream, choice = found
    torch.cuda.current_stream().wait_stream(stream)
    return choice


@contextmanager
def following(groups: Sequence[ImageTokens], layer: int) -> Iterator[None]:
    """In the block, what follows from a choice made ahead is worked out beside the layers, too.

    layer: before which they are chosen. Nothing may be read in the block but the choice and what
    was there when it began, the places of the images among it; before layer 0 these were not.
    """
    found = _found(groups[0]) if len(groups) == 1 and layer > 0 else None
    if found is None:
        yield
        return
    main, (stream, _) = torch.cuda.current_stream(), found
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        main.wait_stream(stream)


def _found(images: ImageTokens) -> tuple[Any, Any] | None:
    """The stream and the choice of exactly these images."""
    asked = images.prefill
    if not images.count == asked.images == asked.encoded_images:
        return None
    record = _record(asked)
    return None if record is None else record.extra.get("ahead")


def _record(pass_: Pass | None) -> VisionRecord | None:
    """What the tower did for a pass, if it was called once."""
    features = [] if pass_ is None else pass_.features
    return record_of(features[0][1]) if len(features) == 1 else None


def capturing() -> bool:
    """True while the current stream is captured, so that nothing is computed yet."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def spare(cores: int) -> None:
    """Ask cuBLAS for products that leave so many cores of the current GPU, from now on (0: none).

    A product of few rows is one round of as many blocks as there are cores, each of which fills
    one: where others hold a few cores its last blocks come after all others, in twice the time.
    A hint to the calling thread's cuBLAS (`cublasSetSmCountTarget`); without it nothing happens.
    """
    if (library := _cublas()) is None:
        return
    every = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    wanted = every - cores if 0 < cores < every else 0
    library.cublasSetSmCountTarget(ctypes.c_void_p(torch.cuda.current_blas_handle()), wanted)


@functools.cache
def _cublas() -> Any:
    """The cuBLAS that PyTorch has loaded; None where there is none."""
    if torch.version.cuda is None or not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:  # never another one: the handle is PyTorch's
        name = f"libcublas.so.{torch.version.cuda.split('.')[0]}"
        library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
    except OSError:
        return None
    return library if hasattr(library, "cublasSetSmCountTarget") else None
