"""What autograd keeps of a forward pass, in bytes: found by a pass over tensors that have shapes and no memory.

The network itself is run, with its layout and adapters, so that every architecture is counted as it is. Of layers of
one kind two are run, and what the second one added is added for each further one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness import attention
from harness.data import collate
from harness.packing import always_mask
from harness.recompute import layers
from harness.rows import PackedBatch
from harness.task import Encoded


@dataclass(frozen=True)
class Activations:
    """Bytes on one device at the end of a forward pass."""

    kept: int
    inputs: int  # with --gradient_checkpointing
    layer: int  # what the largest layer keeps, which is computed again

    @property
    def recomputed(self) -> int:
        """The most at a time with --gradient_checkpointing, in the backward pass."""
        return self.inputs + self.layer


def measure(
    network: Any, lengths: Sequence[int], dtype: torch.dtype, autocast: bool, device: torch.device
) -> Activations:
    """Of a pass over examples of so many tokens, in an engine that keeps weights in `dtype`.

    `network` is an EncoderWithHead that no engine has changed yet, and is left as it is; torch's random state too.
    """
    counted = _Count()
    training = network.training
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(network.train, training)
        network.train()
        batch = network.ready(_batch(lengths, network.pooling is None, network.takes_segments), device)
        if device.type == "cpu":
            stack.enter_context(_as_on_a_cpu(network.encoder, autocast))
        else:
            batch = batch.padded() if isinstance(batch, PackedBatch) else batch
            stack.enter_context(_as_on_a_gpu(network.encoder))
        state = {}
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            state[name] = torch.empty(tensor.shape, dtype=kind, device="meta", requires_grad=tensor.requires_grad)
        counted.ignored = {_storage(tensor) for tensor in state.values()}
        stack.enter_context(_layers_counted(network.encoder, counted))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(counted.save, lambda tensor: tensor))
        torch.func.functional_call(network, state, (_without_memory(batch),))
    return counted.result()


class _Count:
    """Storages that are kept, each once."""

    def __init__(self) -> None:
        self.ignored: set[int] = set()  # storages of weights
        self.tensors: dict[int, torch.Tensor] = {}  # by their storage: a number that is free again would come back
        self.inputs: dict[int, torch.Tensor] = {}  # of layers, which stay where those are computed again
        self.between: set[int] = set()  # of `tensors` those that no layer keeps
        self.inside = False  # a layer
        self.total = self.in_layers = self.largest_layer = self.more_inputs = 0

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """A hook of autograd: called for what it keeps."""
        key = _storage(tensor)
        if key not in self.ignored and key not in self.tensors:
            self.tensors[key] = tensor
            if not self.inside:
                self.between.add(key)
            self.total += tensor.untyped_storage().nbytes()
        return tensor

    def result(self) -> Activations:
        between = self.total - self.in_layers
        inputs = sum(tensor.untyped_storage().nbytes() for tensor in self.inputs.values()) + self.more_inputs
        return Activations(self.total, between + inputs, self.largest_layer)


@contextmanager
def _layers_counted(encoder: nn.Module, counted: _Count) -> Iterator[None]:
    seen: dict[Any, list[tuple[int, int, Any]]] = {}  # by kind: bytes added, bytes of new inputs, output

    def wrapped(layer: nn.Module, once: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*given: Any, **named: Any) -> Any:
            tensors = [each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)]
            runs = seen.setdefault((kind_of(layer), tuple(each.shape for each in tensors)), [])
            if len(runs) == 2:
                added, inputs, output = runs[1]
                counted.total += added
                counted.in_layers += added
                counted.more_inputs += inputs
                return output
            before, inputs = counted.total, 0
            for tensor in tensors:
                key = _storage(tensor)
                if not (key in counted.ignored or key in counted.inputs or key in counted.between):
                    counted.inputs[key] = tensor
                    inputs += tensor.untyped_storage().nbytes()
            counted.inside = True
            output = once(*given, **named)
            counted.inside = False
            added = counted.total - before
            counted.in_layers += added
            counted.largest_layer = max(counted.largest_layer, added)
            runs.append((added, inputs, output))
            return output

        return forward

    found = layers(encoder)
    for layer in found:
        layer.forward = wrapped(layer, layer.forward)
    try:
        yield
    finally:
        for layer in found:
            del layer.forward  # the class's own is seen again


def kind_of(layer: nn.Module) -> Any:
    """Equal for layers that differ in their weights and numbers alone."""
    modules = [
        (type(module), [(k, v) for k, v in sorted(vars(module).items()) if _is_plain(k, v)])
        for module in layer.modules()
    ]
    return repr((modules, [(tuple(each.shape), each.requires_grad) for each in layer.parameters()]))


def _is_plain(name: str, value: Any) -> bool:
    return isinstance(value, int | float | str) and not name.endswith(("idx", "layer_id", "layer_number"))


def _batch(lengths: Sequence[int], per_word: bool, segments: bool) -> Any:
    rows = [[0] * length for length in lengths]
    places = [range(length) for length in lengths] if per_word else None
    return collate(Encoded(rows, rows if segments else None, [0] * len(rows) if not per_word else rows, places),
                   range(len(rows)), 0)  # fmt: skip


def _without_memory(value: Any) -> Any:
    """A batch with tensors that have shapes alone."""
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, list):
        return [_without_memory(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _without_memory(getattr(value, each.name)) for each in fields(value)})
    return value


def _storage(tensor: torch.Tensor) -> int:
    return id(tensor.untyped_storage())  # torch gives the same object as long as the storage lives


@contextmanager
def _as_on_a_gpu(encoder: Any) -> Iterator[None]:
    """What differs there in what is kept: attention, dropout."""
    its_own = functional.scaled_dot_product_attention, functional.dropout
    functional.scaled_dot_product_attention, functional.dropout = _attention, _dropout
    try:
        with _masked(encoder):
            yield
    finally:
        functional.scaled_dot_product_attention, functional.dropout = its_own


@contextmanager
def _as_on_a_cpu(encoder: Any, autocast: bool) -> Iterator[None]:
    attention.HERE.add("meta")
    try:
        with (
            _masked(encoder),
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            _Autocast() if autocast else nullcontext(),
        ):
            yield
    finally:
        attention.HERE.discard("meta")


@contextmanager
def _masked(encoder: Any) -> Iterator[None]:
    """Within, no mask is left out for what it holds, which nobody can read of tensors without memory."""
    before = encoder.config._attn_implementation
    always_mask(encoder)
    try:
        yield
    finally:
        if encoder.config._attn_implementation != before:
            encoder.set_attn_implementation(before)


class _Autocast(TorchFunctionMode):
    """torch.autocast to bf16, which leaves tensors of no device alone: inputs of matrix products are cast."""

    PRODUCTS = (functional.linear, torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.einsum)

    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[int, torch.Tensor] = {}  # weights, each once in a pass

    def __torch_function__(self, function: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        if function in self.PRODUCTS and torch.is_autocast_enabled("cpu"):
            args = tuple(self._to_bf16(each) for each in args)
        return function(*args, **(named or {}))

    def _to_bf16(self, tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.bfloat16()
        return self.cast.setdefault(id(tensor), tensor.bfloat16())


class _Attention(torch.autograd.Function):
    """Keeps what the flash and memory-efficient kernels keep: no score matrix."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> torch.Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mask, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output


class _Dropout(torch.autograd.Function):
    """Keeps a byte an element."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.empty_like(tensor, dtype=torch.bool))
        return torch.empty_like(tensor)


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any, **__: Any) -> Any:
    return _Attention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return _Dropout.apply(input) if training and p else input  # type: ignore[no-untyped-call]
