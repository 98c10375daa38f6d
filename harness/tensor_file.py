"""safetensors files written tensor by tensor, so that nobody has to hold all of what they hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch


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
