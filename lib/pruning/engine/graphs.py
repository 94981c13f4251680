"""One captured CUDA graph per kind of call, for scorers that are many small kernels.

A selection at batch 1 is hundreds of launches of a few microseconds each; replayed as one graph it
costs what the device needs instead of what the host needs to launch it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[[list[Tensor]], Any]  # of a tensor, or of what else can be cloned


@dataclass(eq=False)
class Captured:
    """A graph, the tensors it reads and what it writes, a tensor or what else can be cloned."""

    graph: Any
    inputs: list[Tensor]
    output: Any

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        torch._foreach_copy_(self.inputs, list(tensors))
        self.graph.replay()
        return self.output.clone()


@contextmanager
def recording(graph: Any, stream: Any, **options: Any) -> Iterator[None]:
    """As `torch.cuda.graph`, on a stream that no other thread captures on.

    It does not stay the current one where a capture fails at its end.
    """
    before = torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, **options):
            yield
    finally:
        torch.cuda.set_stream(before)


def capture(function: Function, tensors: Sequence[Tensor], pool: Any) -> Captured:
    """Warm up and capture `function` of tensors on one CUDA device; raises what capturing raises.

    Calls of other streams and threads are left alone. `function` must neither wait for the host
    nor keep its input.
    """
    device = tensors[0].device
    # Tensors made in inference mode could not be written to outside of it.
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        inputs = [torch.empty_like(tensor, memory_format=torch.contiguous_format).copy_(tensor)
                  for tensor in tensors]  # fmt: skip
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with recording(graph, stream, pool=pool, capture_error_mode="thread_local"):
            output = function(inputs)
    return Captured(graph, inputs, output)


class GraphCache:
    """Runs functions of CUDA tensors as captured graphs, at most `size` of them at a time.

    The first call of a key runs plainly: most keys (the rest of a data set, say) come once. The
    second captures, later ones replay. A key whose graph had to go for others is captured again
    after four times as many calls, and so on: of more keys than there is room for most run plainly.
    What cannot be captured runs plainly ever after. All graphs share one memory pool, since none
    runs beside another, on whatever streams they are called, and no output outlives its call.
    """

    def __init__(self, size: int = 8, capture: Callable[..., Captured] = capture) -> None:
        self.size = size
        self.enabled = True
        self._capture = capture
        self._graphs: OrderedDict[Hashable, Captured | None] = OrderedDict()
        #: calls since a key was first seen or captured, and at which of them it is captured
        self._seen: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._pools: dict[torch.device, Any] = {}
        self._streams: dict[torch.device, Any] = {}  # of the last replays
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, function: Function, tensors: Sequence[Tensor]) -> Any:
        """`function(tensors)`, which must depend on nothing but `key` and the tensors."""
        if not self.enabled or not self._suits(tensors):
            return function(list(tensors))
        key = (key, tuple((t.shape, t.dtype, t.device) for t in tensors))
        with self._lock:
            if key in self._graphs:
                self._graphs.move_to_end(key)
                captured = self._graphs[key]
                if captured is None:
                    return function(list(tensors))
                self._follow(tensors[0].device)
                return captured(tensors)
            if not self._due(key):
                return function(list(tensors))
            while len(self._graphs) >= self.size:
                self._graphs.popitem(last=False)
            try:
                captured = self._capture(function, tensors, self._pool(tensors[0].device))
            except RuntimeError:
                # The plain call raises again whatever is wrong with the call itself.
                self._graphs[key] = None
                return function(list(tensors))
            self._graphs[key] = captured
            self._follow(tensors[0].device)
            return captured(tensors)

    def _due(self, key: Hashable) -> bool:
        """Count a call of a key without a graph; True if it is captured now."""
        calls, due = self._seen.get(key, (0, 2))
        now = calls + 1 >= due
        self._seen[key] = (0, 4 * due) if now else (calls + 1, due)
        self._seen.move_to_end(key)
        while len(self._seen) > 16 * self.size:
            self._seen.popitem(last=False)
        return now

    def _follow(self, device: torch.device) -> None:
        """Begin behind the last replay: graphs share what they read and their memory."""
        if device.type != "cuda":
            return
        current = torch.cuda.current_stream(device)
        last = self._streams.get(device)
        if last is not None and last != current:
            current.wait_stream(last)
        self._streams[device] = current

    @staticmethod
    def _suits(tensors: Sequence[Tensor]) -> bool:
        device = tensors[0].device
        if device.type != "cuda" or any(tensor.device != device for tensor in tensors):
            return False
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return False
        return not torch.cuda.is_current_stream_capturing()

    def _pool(self, device: torch.device) -> Any:
        if device not in self._pools:
            self._pools[device] = torch.cuda.graph_pool_handle()
        return self._pools[device]

    def clear(self) -> None:
        """Forget every graph and free its memory."""
        with self._lock:
            self._graphs.clear()
            self._seen.clear()
            self._pools.clear()
            self._streams.clear()

    def __len__(self) -> int:
        """Graphs held."""
        return sum(captured is not None for captured in self._graphs.values())


#: the graphs of all pruners of this process
graphs = GraphCache()
