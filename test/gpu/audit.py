"""What one step of a stream asks of a GPU: copies, reads by the host, launches, bytes, memory.

The step runs on a device without numbers (``fake_cuda.py``). A dispatch mode sees every operation
that torch would send to the device, below autograd and after composite ones have been taken apart.
No time is measured. An operation counts as one launch, whatever kernels it consists of; work space
that kernels allocate for themselves is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fake_cuda import DEVICE, fake_cuda, put_on_fake_cuda
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import occ_perception
from occ_perception.models.card import ModelCard
from occ_perception.models.network import Network
from occ_perception.runtime.flops import network_without_data
from occ_perception.runtime.folding import fold
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

PACKAGE = str(Path(occ_perception.__file__).parent)

_COPIES = ("aten::_to_copy", "aten::copy_")
# The host waits for a number of the device, or for how many numbers there are.
_READS = (
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero"),
    *("aten::unique", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
    *("aten::masked_select", "aten::bincount", "aten::repeat_interleave.Tensor"),
)
# Factorisations: cuSOLVER and MAGMA read their error codes, or allocate while a graph is recorded.
_SOLVERS = (
    *("aten::linalg_inv", "aten::linalg_lu", "aten::linalg_ldl", "aten::linalg_solve"),
    *("aten::linalg_cholesky", "aten::linalg_eig", "aten::linalg_qr", "aten::linalg_lstsq"),
    *("aten::_linalg_solve", "aten::_linalg_det", "aten::_linalg_slogdet", "aten::_linalg_svd"),
    *("aten::_linalg_eigh", "aten::cholesky", "aten::lu_solve", "aten::triangular_solve"),
)
# An operand of no axes in main memory is a kernel's argument to these; to others it is a copy.
_COPIED_EVEN_IF_SCALAR = ("aten::where", "aten::cat", "aten::stack", "aten::index", "aten::scatter")
_NO_LAUNCH = (
    *("aten::empty", "aten::new_empty", "aten::detach", "aten::alias", "aten::lift"),
    *("aten::_reshape_alias", "aten::_unsafe_view", "aten::resize_", "aten::set_", "prim::"),
)
_GATHERS = ("aten::index.", "aten::index_select", "aten::gather", "aten::grid_sampler")
# Composite operations that are one kernel on a device.
_WHOLE = ("aten::upsample", "aten::scaled_dot_product_attention", "prim::")
_ALLOCATION_BYTES = 512  # the allocator's smallest step


@dataclass
class StepAudit:
    """What one step asked for.

    Attributes:
        copies: between host and device, ``"host to device: aten::_to_copy at nets/lift.py:12"``;
            with ``waits`` unless it is asked not to wait and the host's memory is page-locked.
        reads: by the host of numbers or counts on the device.
        solvers: factorisations on the device.
        mixed: operations with an operand of the other device.
        launches: operations on the device by the part of the network they belong to.
        bytes_moved: read and written by all of them; a table that is looked up in counts at most
            as often as numbers come out of it.
        bytes_gathered: of rows read by look-ups beyond that.
    """

    copies: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    solvers: Counter[str] = field(default_factory=Counter)
    mixed: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    bytes_moved: int = 0
    bytes_gathered: int = 0

    @property
    def stops(self) -> Counter[str]:
        """Everything that makes host and device wait for each other, or a graph fail."""
        return self.copies + self.reads + self.solvers + self.mixed


class DeviceAudit(TorchDispatchMode):
    """Books the operations that run while it is open.

    A number of Python reaches a kernel as its argument, without a copy, and torch wraps it as a
    tensor without axes in main memory. Such operands are no copies, except for those few operations
    that bring them to the device first (``torch.where`` with a tensor from the host, for example).
    Any other operand in main memory is ``mixed``: an error of torch, or, where it indexes, a copy
    that the operation makes by itself.

    Attributes:
        network, around: what was booked since the step began, inside and outside the network.
        parts: names of the network and its part that run, innermost last.
        peak_bytes: most memory of all tensors of the device at once since the step began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._live: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._page_locked: dict[int, weakref.ref[Any]] = {}
        self._live_bytes = 0
        self.begin_step()

    def begin_step(self) -> None:
        """Begin to book anew; what lives on the device stays."""
        self.network, self.around = StepAudit(), StepAudit()
        self.peak_bytes = self._live_bytes

    @property
    def step(self) -> StepAudit:
        """Where the running operation is booked."""
        return self.network if self.parts else self.around

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:  # inference mode leaves them whole
                return func.decompose(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        if any(tensor.device.type == "cuda" for tensor in inputs):
            self._book_before(func, inputs, args)
        output = func(*args, **kwargs)
        outputs = _tensors(output)
        for tensor in outputs:
            self._track(tensor)
            if kwargs.get("pin_memory"):
                self._remember_page_locked(tensor)
        self._book_copy(func, args, kwargs, inputs, outputs)
        if any(tensor.device.type == "cuda" for tensor in outputs):
            self._book_launch(func, args, inputs, outputs)
        return output

    def _book_before(self, func: Any, inputs: list[Tensor], args: Any) -> None:
        name, step = _name(func), self.step
        if name in _READS:
            step.reads[f"{name} at {_place()}"] += 1
        if name.startswith(_SOLVERS):
            step.solvers[f"{name} at {_place()}"] += 1
        if name.startswith("aten::index") and any(
            tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1])
        ):
            step.reads[f"{name} by a mask at {_place()}"] += 1
        others = [tensor for tensor in inputs if tensor.device.type == "cpu"]
        copied = name.startswith(_COPIED_EVEN_IF_SCALAR)
        if name not in _COPIES and any(tensor.dim() or copied for tensor in others):
            step.mixed[f"{name} at {_place()}"] += 1

    def _book_copy(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        name = _name(func)
        if not self._is_transfer(name, inputs, outputs):
            return
        source = inputs[-1]
        way = "host to device" if source.device.type == "cpu" else "device to host"
        asked_not_to = kwargs.get("non_blocking") or (name == "aten::copy_" and True in args[2:])
        host = source if way == "host to device" else outputs[0]
        waits = not (asked_not_to and host.untyped_storage()._cdata in self._page_locked)
        self.step.copies[f"{way}{', waits' if waits else ''}: {name} at {_place()}"] += 1

    @staticmethod
    def _is_transfer(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
        return name in _COPIES and inputs[-1].device.type != outputs[0].device.type

    def _book_launch(
        self, func: Any, args: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        name = _name(func)
        if func.is_view or name.startswith(_NO_LAUNCH) or self._is_transfer(name, inputs, outputs):
            return
        step = self.step
        step.launches[self.parts[-1] if self.parts else ""] += 1
        read = [_bytes(tensor) for tensor in inputs if tensor.device.type == "cuda"]
        written = sum(_bytes(tensor) for tensor in outputs if tensor.device.type == "cuda")
        if name.startswith(_OVERWRITES):
            read = read[1:]
        if "embedding_bag" in name:
            table, rows = args[:2]
            written = _bytes(outputs[0])
            step.bytes_gathered += rows.numel() * table.shape[-1] * table.element_size()
        elif f"{name}.".startswith(_GATHERS):
            read = [min(read[0], written), *read[1:]]
            corners = 8 if "grid_sampler" in name else 1
            step.bytes_gathered += written * corners
        step.bytes_moved += sum(read) + written

    def _remember_page_locked(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._page_locked[key] = weakref.ref(storage, lambda _: self._page_locked.pop(key))

    def _track(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = -(-storage.nbytes() // _ALLOCATION_BYTES) * _ALLOCATION_BYTES

        def freed(_: Any, key: int = key) -> None:
            self._live_bytes -= self._live.pop(key)[0]

        self._live[key] = size, weakref.ref(storage, freed)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)


_OVERWRITES = ("aten::copy_", "aten::fill_", "aten::zero_")


@dataclass(frozen=True)
class StreamAudit:
    """One step of a stream.

    Attributes:
        network: inside the network's forward.
        around: from images to the network's inputs, and from its outputs to labels.
        live_bytes: most memory of all tensors of the device at once, parameters included.
    """

    network: StepAudit
    around: StepAudit
    live_bytes: int


def audit_stream(card: ModelCard, net: Network | None = None, frames: int = 2) -> list[StreamAudit]:
    """Run a stream on a drawn drive, and audit every step.

    Args:
        card: of the model; its sizes are what is audited.
        net: its network, of shapes alone, to have another one audited.
        frames: how many; the first one has no history.

    Raises:
        NoCompilerError: see :func:`fake_cuda.register_guard`.
    """
    net = network_without_data(card) if net is None else net
    net.eval().requires_grad_(False)
    fold(net, DEVICE)
    audit, steps = DeviceAudit(), []
    with fake_cuda(), audit, _booked_by_part(net, audit):
        put_on_fake_cuda(net)
        stream = OccupancyStream(LoadedModel(card, net, DEVICE, "shapes"))
        for frame in random_frames(card, frames):
            audit.begin_step()
            stream.step(frame)
            steps.append(StreamAudit(audit.network, audit.around, audit.peak_bytes))
    return steps


@contextmanager
def _booked_by_part(net: nn.Module, audit: DeviceAudit) -> Iterator[None]:
    """Tell the audit when the network runs, and which of its parts."""

    def enter(part: str) -> Any:
        return lambda *_: audit.parts.append(part)

    def leave(*_: Any) -> None:
        audit.parts.pop()

    hooks = []
    for name, part in [("", net), *net.named_children()]:
        hooks.append(part.register_forward_pre_hook(enter(name)))
        hooks.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@cache
def _is_composite(func: Any) -> bool:
    """Whether torch takes an operation apart, unless a device has a kernel for all of it."""
    return not _name(func).startswith(_WHOLE) and func._can_decompose()


def _name(func: Any) -> str:
    return str(func._schema.name)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _place() -> str:
    """File and line of the product's code that is running; of the innermost caller otherwise."""
    frame: Any = sys._getframe(1)
    outside = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        if not outside and file != __file__ and "/torch/" not in file:
            outside = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return outside


def _bytes(tensor: Tensor) -> int:
    """Bytes of the distinct numbers: an expanded axis counts once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def lines(counts: Counter[str]) -> Sequence[str]:
    """Counted places, most frequent first."""
    return [f"{count} x {place}" for place, count in counts.most_common()]
