"""CUDA graphs of a training pass: forward and backward are started by two calls instead of 600.

At a batch of 32 sentences a step of BERT-base is bound by the host, which starts one small operation after another. The
operations of each shape of packed rows are captured once and replayed from then on, with the same numbers in the same
places: a batch's numbers, the weights, the float32 gradients. Between the two passes the host learns of an overflow, so
that the loss scale of the backward pass is a number on the device. Dropout draws as it does without graphs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from harness.ds.fp16 import Fp16Step
from harness.errors import first_line
from harness.model import EncoderWithHead
from harness.rows import PackedBatch
from harness.task import Task

CAPTURED_AT = 3  # a shape is captured when it comes for the third time: most of the others come once
MOST = 16  # shapes; each capture costs some megabytes and a tenth of a second

logger = logging.getLogger("harness.engine")
Action = Callable[[], None]


def cuda_capture(device: torch.device) -> Callable[[Action], Action]:
    """Captures an action on a CUDA device without doing it, and returns what does it again and again.

    Graphs share their memory: what one leaves there is read before another is replayed.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(action: Action) -> Action:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        try:
            # thread_local: what other threads ask CUDA meanwhile, such as NCCL's, does not end the capture.
            with torch.cuda.device(device), torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                action()
        except RuntimeError as error:
            if torch.cuda.current_stream(device) != stream:  # torch has not come to the end of its own cleaning up
                torch.cuda.set_stream(stream)
                torch._C._cuda_endAllocateToPool(device.index, pool)
            cause = error.__context__
            raise cause if isinstance(cause, RuntimeError) else error from None
        replay: Action = graph.replay
        return replay

    return capture


class Captured:
    """The passes of one shape."""

    def __init__(self, graphs: StepGraphs, batch: PackedBatch) -> None:
        """`batch`: one of the shape, on the CPU. Raises RuntimeError where the passes cannot be captured."""
        self._graphs, step = graphs, graphs.step
        # The batch's numbers lie behind one place, which holds the weight of its loss.
        self._buffer = torch.zeros(len(batch.flatten()) + 1, dtype=torch.int64, device=step.flat.device)
        self._batch = batch.within(self._buffer[1:])
        self.loss = torch.zeros(())
        self._replay_forward, self._replay_backward = (graphs.capture(each) for each in (self._forward, self._backward))

    def forward(self, batch: PackedBatch, scale: float) -> torch.Tensor:
        """The loss of a batch of this shape times `scale`, valid until the next call."""
        numbers = torch.cat([torch.tensor([scale, 0.0]).view(torch.int64), batch.flatten()])
        on_device = self._buffer.is_cuda
        self._buffer.copy_(numbers.pin_memory() if on_device else numbers, non_blocking=on_device)
        self._replay_forward()
        return self.loss.detach()

    def backward(self, loss_scale: float) -> None:
        """The gradients of the last loss times the loss scale, as float32 ones."""
        self._graphs.set_loss_scale(loss_scale)
        self._replay_backward()
        self._graphs.step.taken = True

    def _forward(self) -> None:
        scale = self._buffer[:1].view(torch.float32)[0]
        self.loss = self._graphs.task.training_loss(self._graphs.module(self._batch), self._batch.labels) * scale

    def _backward(self) -> None:
        (self.loss * self._graphs.loss_scale).backward()
        self._graphs.step.take_gradients()
        self._graphs.step.clear_gradients()
        self.loss = self.loss.detach()  # what the passes have kept for each other is free for the next capture


class StepGraphs:
    """Which shapes have come how often, and the passes of those that are captured."""

    def __init__(
        self, module: EncoderWithHead, task: Task, step: Fp16Step, capture: Callable[[Action], Action]
    ) -> None:
        self.module, self.task, self.step, self.capture = module, task, step, capture
        self.loss_scale = torch.zeros((), device=step.flat.device)
        self._scale = 0.0  # the number that is there
        self._seen: Counter[Any] = Counter()
        self._captured: dict[Any, Captured] = {}
        self._works = True

    def find(self, batch: PackedBatch) -> Captured | None:
        """The passes of the batch's shape; None where they are not captured."""
        key = batch.shapes()
        self._seen[key] += 1
        if key not in self._captured and self._works and self._seen[key] >= CAPTURED_AT and len(self._captured) < MOST:
            try:
                self._captured[key] = Captured(self, batch)
            except RuntimeError as error:  # such as an encoder that reads a number from the device
                self._works = False
                self.step.clear_gradients()
                logger.warning("--cuda_graphs: not with this encoder (%s).", first_line(error))
        return self._captured.get(key)

    def close(self) -> None:
        """Give the memory back, which passes and graphs keep for each other."""
        self._captured.clear()

    def set_loss_scale(self, scale: float) -> None:
        """For the backward passes to come."""
        if scale != self._scale:
            self.loss_scale.fill_(scale)
            self._scale = scale
