"""How a run can end other than well: the exceptions, the exit statuses, and the training errors that users meet.

Every part of the project takes them from here. Imported before torch, and therefore without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Exit statuses; what each means for whoever started the program: docs/exit_statuses.md.
EXIT_FAILED = 1
EXIT_USER = 2  # as argparse has it
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
EXIT_LOST = 76  # another rank is gone, or the ranks stood still
EXIT_NO_PROGRESS = 77  # a SLURM job that is not requeued again, see launch/jobs/requeue.py

SCALE_AT_MINIMUM = "loss scale already at minimum"  # in the bare Exception that DeepSpeed raises


class UserError(Exception):
    """Something that a user typed, or a data file holds, cannot be used.

    The message is one line: what is wrong, where (file:line or flag), what to do. `launch` prints it without a
    traceback and exits with status 2.
    """


class Faults(list[str]):
    """What is wrong with what a user typed, a line each: collected, so that all of it is said at once."""

    @contextmanager
    def collected(self, where: str = "") -> Iterator[None]:
        """A UserError within is added, each of its lines after `where`, and goes no further."""
        try:
            yield
        except UserError as error:
            self.extend(f"{where}{line}" for line in str(error).splitlines())

    def refuse(self) -> None:
        """Raises UserError that lists them, where there are any."""
        if self:
            raise UserError("\n".join(self))


class TrainingFailed(Exception):
    """Training cannot go on; the message says at which step, why, and what to try. Checkpoints are kept.

    `deterministic`: the same command would fail in the same way, so that nobody needs to try it again.
    """

    def __init__(self, message: str, *, deterministic: bool = False) -> None:
        super().__init__(message)
        self.deterministic = deterministic


class Stopped(BaseException):
    """A stop request was followed: nothing is lost, and the same command goes on.

    Not an Exception: libraries pass over those, for example while they try what can be imported.
    """


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from or during."""
    here: BaseException | None = error
    while here is not None:
        yield here
        here = here.__cause__ or here.__context__


def is_final(error: BaseException) -> bool:
    """Whether the same command would fail in the same way: a mistake of the user's, or training that cannot go on."""
    return isinstance(error, UserError) or bool(getattr(error, "deterministic", False))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory, or from such an error."""
    # torch.OutOfMemoryError by its name, since torch is not imported here.
    return any(
        type(cause).__name__ in ("OutOfMemoryError", "MemoryError")
        or re.search("out of memory|can't allocate memory|not enough memory", str(cause)) is not None
        for cause in causes(error)
    )


def training_error(error: BaseException, step: int, lr: float, what_fits: Callable[[], str]) -> TrainingFailed | None:
    """What to say of a failure that users meet, at an optimizer step; None where it is not one of those.

    `what_fits`: words for settings that need less memory, asked for only where they are wanted.
    """
    text = str(error)
    at = f"step {step}, learning rate {lr:.2e}"
    if SCALE_AT_MINIMUM in text:
        return TrainingFailed(
            f"fp16 loss scale at its minimum at {at}: gradients overflow at every scale. Try --precision bf16, a lower "
            "--learning_rate or --warmup_steps; the last good checkpoint is kept",
            deterministic=True,
        )
    if is_out_of_memory(error):
        return TrainingFailed(
            f"out of memory at {at}: {what_fits()}; the last good checkpoint is kept", deterministic=True
        )
    return None


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line of at most 200 letters; its type where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".:")[:200] if text else type(error).__name__


@contextmanager
def library_errors(where: str, what: str, remedy: str, ours: type[Exception] = UserError) -> Iterator[None]:
    """Whatever a library raises, as the UserError `where: what (first line of the exception); remedy`.

    Those of our own go through, UserError and `ours`.

    transformers, torch and safetensors have as many kinds of exceptions as files can have mistakes.
    """
    try:
        yield
    except (UserError, ours):
        raise
    except Exception as error:
        raise UserError(f"{where}: {what} ({first_line(error)}); {remedy}") from error
