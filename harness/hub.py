"""Whether a model that was named can be had: a folder that is there, the hub's cache, or a hub that answers.

transformers asks the hub for one file of a model after another, and waits for each; where nothing answers that takes
minutes. Here the hub is asked once, for a bounded time, and what it says is told in one line.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from torch import distributed as dist

from harness import distributed
from harness.config import RunConfig
from harness.errors import UserError
from harness.files import folder_fault

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0  # for the hub, the look-up of its address included; HF_HUB_ETAG_TIMEOUT wins
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")  # a repository has one of them
ELSEWHERE = "download it where there is a network (hf download) and name its folder"


class OutOfReach(UserError):
    """No network to the hub, or none that may be used, and the model is not in this machine's cache."""


def check(config: RunConfig, find: Callable[[str], str]) -> None:
    """Raises UserError for the first of model, config and tokenizer that cannot be had; `find` says where they lie."""
    named = (
        ("--model_name_or_path", config.model_name_or_path),
        ("--config_name", config.config_name),
        ("--tokenizer_name", config.tokenizer_name),
    )
    for flag, name in named:
        if name:
            revision = config.revision if name == config.model_name_or_path else None
            check_reachable(find(name), revision, config.cache_dir, flag)


def check_reachable(
    name: str, revision: str | None = None, cache_dir: str | None = None, flag: str = "--model_name_or_path"
) -> None:
    """Raises UserError where the model is neither a local folder, nor in the hub's cache, nor on the hub.

    Called on all ranks; rank 0 asks. A process that has found the hub out of reach (OutOfReach where the cache lacks
    the model) stays offline from then on.
    """

    def ask() -> str | None:
        return None if _is_here(flag, name) else _unreachable(flag, name, revision, cache_dir)

    said = distributed.on_main(ask) if dist.is_initialized() else ask()
    if said is not None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True  # transformers reads it at every request
        logger.warning("%s: %s; the cache has it", name, said)


def _is_here(flag: str, name: str) -> bool:
    """Whether that is a folder or file here. Raises UserError where it can be nothing else and is not there."""
    path = Path(name)
    fault = folder_fault(path)
    if fault is None or (flag == "--config_name" and path.is_file()):
        return True
    if path.exists() or name[0] in "/.~" or len(path.parts) > 2:
        raise UserError(f"{flag} {name}: {fault}; name a folder that holds a model, or a model of the hub")
    return False


def _unreachable(flag: str, name: str, revision: str | None, cache_dir: str | None) -> str | None:
    """Why the hub cannot be asked, where the cache has the model; None where the hub has it. Raises UserError else."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    place = cache_dir or constants.HF_HUB_CACHE
    try:
        cached = any(isinstance(try_to_load_from_cache(name, file, place, revision), str) for file in FILES)
    except HFValidationError:
        raise UserError(f"{flag} {name}: no such folder, and the hub has no such names; check the spelling") from None
    if constants.is_offline_mode():
        if cached:
            return None
        asked = next((v for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(v)), None)
        why = f"{asked} is set, so that no network is tried" if asked else "the hub is out of reach"
        raise OutOfReach(f"{flag} {name}: {_maybe_folder(name)}{why}, and it is not in the cache {place}; {ELSEWHERE}")
    said = _ask(flag, name, revision)
    if said is not None and not cached:
        constants.HF_HUB_OFFLINE = True  # other models need not wait for the hub too
        raise OutOfReach(f"{flag} {name}: {_maybe_folder(name)}{said}, and it is not in the cache {place}; {ELSEWHERE}")
    return said


def _maybe_folder(name: str) -> str:
    """Of `models/bert` where there is a folder `models`, what was looked for first."""
    return "no such folder, and " if len(Path(name).parts) == 2 and Path(name).parent.is_dir() else ""


def _ask(flag: str, name: str, revision: str | None) -> str | None:
    """None where the hub has the model, else why it cannot be asked. Raises UserError where it refuses or has none."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or ANSWER_SECONDS)
    answer: list[Exception | None] = []

    def request() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(name, FILES[0], revision=revision), timeout=seconds)
            answer.append(None)
        except Exception as error:  # of the network, whatever it is
            answer.append(error)

    # A thread: no timeout of a socket bounds the look-up of a name, or a server that sends a byte now and then.
    asking = threading.Thread(target=request, daemon=True)
    asking.start()
    asking.join(seconds + 0.5)
    error = answer[0] if answer else TimeoutError(f"no answer in {seconds:g} s")
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if error is None or isinstance(error, errors.EntryNotFoundError):  # a repository without this file
        return None
    if isinstance(error, errors.GatedRepoError):
        what = f"a gated model: ask for access on {constants.ENDPOINT}/{name}, then `hf auth login` (or set HF_TOKEN)"
    elif isinstance(error, errors.RevisionNotFoundError):
        what = f"the hub has the model, but no revision {revision}; its page lists them"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what = "no such folder here, and no such model on the hub; check the spelling (a private one: `hf auth login`)"
    elif status in (401, 403):
        what = f"the hub refuses ({status}); is the token valid (`hf auth login`), does a proxy let it through?"
    else:
        reason = f"it answers {status}" if status else str(error).splitlines()[0] if str(error) else "no answer"
        if status == 404:  # the hub itself says in a header what it has not found
            reason += ": no such model there, or a proxy answers for it"
        return f"cannot reach the hub {constants.ENDPOINT} ({reason})"
    raise UserError(f"{flag} {name}: {what}")
