"""safetensors files written tensor by tensor, so that nobody has to hold all of what they hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from harness import watchdog

LARGEST_FILE = 5_000_000_000  # bytes of a model's file, as hubs and file systems like them
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Stream:
    """Tensors of which one is there at a time."""

    shapes: Mapping[str, Sequence[int]]  # of all of them, by name
    tensors: Iterator[tuple[str, torch.Tensor]]  # in any order, once

    @staticmethod
    def of(tensors: Mapping[str, torch.Tensor]) -> Stream:
        """Of tensors that are all there, or mapped from a file."""
        return Stream({name: tuple(tensor.shape) for name, tensor in tensors.items()}, iter(tensors.items()))

    def all(self) -> dict[str, torch.Tensor]:
        """All of them on the CPU, copied only where they are not."""
        return {name: tensor.detach().cpu() for name, tensor in self.tensors}

    def renamed(self, names: Mapping[str, str]) -> Stream:
        """The same under other names, where `names` has one."""
        shapes = {names.get(name, name): shape for name, shape in self.shapes.items()}
        return Stream(shapes, ((names.get(name, name), tensor) for name, tensor in self.tensors))


def write(path: Path, stream: Stream, metadata: Mapping[str, str] | None = None) -> None:
    """One file of all of a stream."""
    with TensorFile(path, stream.shapes, metadata) as file:
        for name, tensor in stream.tensors:
            file.write(name, tensor)


def write_model(folder: Path, stream: Stream) -> None:
    """model.safetensors, or where it would be larger than LARGEST_FILE several files and their index, as transformers
    writes them."""
    from huggingface_hub import split_torch_state_dict_into_shards

    shapes: dict[str, torch.Tensor] = {
        name: torch.empty(tuple(shape), dtype=torch.float32, device="meta") for name, shape in stream.shapes.items()
    }
    pattern = "model{suffix}.safetensors"
    plan = split_torch_state_dict_into_shards(shapes, filename_pattern=pattern, max_shard_size=LARGEST_FILE)
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(
                TensorFile(folder / file, {name: stream.shapes[name] for name in names}, {"format": "pt"})
            )
            for file, names in plan.filename_to_tensors.items()
        }
        for name, tensor in stream.tensors:
            files[plan.tensor_to_filename[name]].write(name, tensor)
    if plan.is_sharded:
        numbers = {"total_parameters": sum(shape.numel() for shape in shapes.values()), **plan.metadata}
        index = {"metadata": numbers, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class TensorFile:
    """A file of float32 tensors, each written when it is there, in any order; to the byte what `save_file` writes.

    Use as a context. Raises OSError where the disk is full.
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
    ) -> None:
        """`shapes`: of all tensors that will be written, by name."""
        header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
        self.places: dict[str, int] = {}  # of those that are still to come
        end = 0
        for name in sorted(shapes):
            begin, end = end, end + 4 * math.prod(shapes[name])
            self.places[name] = begin
            header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [begin, end]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.start = 8 + len(text)
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """A tensor of any device and precision."""
        watchdog.beat()  # a large model is written for longer than a process may stand still
        self.file.seek(self.start + self.places.pop(name))
        if tensor.numel():
            self.file.write(tensor.detach().to("cpu", torch.float32).contiguous().view(-1).numpy().data)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        assert kind or not self.places, f"{len(self.places)} tensors were not written"
