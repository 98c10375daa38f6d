"""Under ZeRO-3 each rank reads its own part of the weights, and they are those of stage 0 to the bit."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import about, tiny_encoder
from running import assert_user_error, fingerprint, free_port, start_processes
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertForSequenceClassification

from harness import checkpoint, config, distributed, export, model, tensor_file
from harness.checkpoint import TrainState
from harness.config import RunConfig
from harness.distributed import World
from harness.ds import config as ds_config
from harness.ds import engine, optimizer_state, scoring
from harness.errors import UserError
from harness.files import sha256
from harness.task import Batch
from harness.tokenizer import load_tokenizer

KINDS = ("bert", "modernbert", "deberta-v2", "llama", "gemma2", "t5")
STAGES = (0, 3)


class CrossEntropy:
    """A head of three classes."""

    num_outputs, per_word = 3, False

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")

    training_loss = loss


def batch() -> Batch:
    ids = torch.randint(5, 60, (4, 16), generator=torch.Generator().manual_seed(1))
    return Batch(ids, torch.ones_like(ids), None, None, ids[:, 1] % 3, tuple(range(4)), (1,) * 4)


def zero(folder: Path, precision: str, stage: int, offload: bool = False) -> str:
    """A DeepSpeed JSON; fp16's is ds_configs/ own with another precision."""
    settings = json.loads((ds_config.CONFIGS / "fp16_zero3.json").read_text())
    scale = settings.pop("fp16")
    more = {"fp16": {"fp16": scale}, "bf16": {"bf16": {"enabled": True}}, "fp32": {}}
    settings |= more.get(precision, {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}})
    settings["zero_optimization"] |= {"stage": stage} | ({"offload_param": {"device": "cpu"}} if offload else {})
    path = folder / f"{precision}-{stage}{offload:d}.json"
    path.write_text(json.dumps(settings))
    return str(path)


def settings(encoder: Path, ds: str = "fp32", **more: Any) -> RunConfig:
    return RunConfig(
        task="x", model_name_or_path=str(encoder), ds_config=ds, per_gpu_train_batch_size=4, max_seq_length=32, **more
    )


def start(run: RunConfig, world: World, tokenizer: Any = None) -> engine.Engine:
    ds = ds_config.resolve(run, world)
    built = model.build(run, 3, False, tokenizer, in_parts=ds.stage == 3)
    return engine.build(built, CrossEntropy(), run, ds, config.batch_plan(run, world.size), 10, world)  # type: ignore[arg-type]


def course(run: RunConfig, world: World, tokenizer: Any = None) -> tuple[dict[str, torch.Tensor], list[float]]:
    """(the weights at the start, losses of three steps)."""
    running = start(run, world, tokenizer)
    weights = {name: tensor.clone() for name, tensor in running.weights().items()}
    running.train(False)  # no dropout
    losses = [float(running.micro_step(batch(), 1 / 4)) for _ in range(3)]
    running.close()
    return weights, losses


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def world() -> World:
    return distributed.init(no_cuda=True)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_encoder(tmp_path / "bert")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
def test_weights_and_losses_are_those_of_stage_0(encoder: Path, world: World, tmp_path: Path, precision: str) -> None:
    whole, losses = course(settings(encoder, zero(tmp_path, precision, 0)), world)
    for offload in (False, True):
        run = settings(encoder, zero(tmp_path, precision, 3, offload))
        assert model.build(run, 3, False, in_parts=True).source is not None
        parts, others = course(run, world)
        assert_same(parts, whole)
        torch.testing.assert_close(others, losses, rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)


def scored(world: World, folder: Path) -> dict[str, torch.Tensor]:
    """Logits of the model in `folder`/model by its parts, and by the whole."""
    run, found = settings(folder / "model", str(folder / "ds.json")), {}
    ds, plan = ds_config.resolve(run, world), config.batch_plan(run, world.size)
    for name, in_parts in (("parts", True), ("whole", False)):
        network = model.load(folder / "model", in_parts=in_parts).model
        assert (network.source is not None) == in_parts
        with scoring.forward_as_trained(network, run, ds, plan, world) as forward, torch.no_grad():
            found[name] = forward(batch()).float()
    return found


def written(encoder: Path, folder: Path, precision: str, **lora: Any) -> None:
    """`folder`/model as a run leaves it, and `folder`/ds.json."""
    run = settings(encoder, **lora)
    network, tokenizer = model.build(run, 3, False), load_tokenizer(run)
    nn.init.normal_(network.classifier.weight)
    kept = {name: value for name, value in network.named_parameters() if value.requires_grad}
    digests = {"model.safetensors": sha256(encoder / "model.safetensors")}
    base = export.Base(str(encoder), None, digests) if lora else None
    export.save(folder / "model", network, kept, tokenizer, about(("a", "b", "c"), "multiclass"), base)
    shutil.move(zero(folder, precision, 3), folder / "ds.json")


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 2}], ids=["whole", "adapters"])
def test_scores_are_those_of_the_whole_model(encoder: Path, world: World, tmp_path: Path, lora: dict[str, int]) -> None:
    for precision in ("fp32", "bf16"):
        written(encoder, tmp_path / precision, precision, **lora)
        found = scored(world, tmp_path / precision)
        torch.testing.assert_close(found["parts"], found["whole"], rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_frequencies_of_rotary_positions_are_not_rounded(world: World, tmp_path: Path, stage: int) -> None:
    for kind in ("llama", "modernbert"):
        run = settings(tiny_encoder(tmp_path / kind, kind), zero(tmp_path, "bf16", stage))
        exact = dict(model.build(run, 3, False).named_buffers())
        running = start(run, world)
        found = {name: buffer for name, buffer in running.module.named_buffers() if name.endswith("inv_freq")}
        assert found and all(torch.equal(buffer, exact[name]) for name, buffer in found.items())
        running.close()


def on_rank(rank: int, world: int, port: int, action: Callable[[World, Path], Any], folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")  # fmt: skip
    torch.set_num_threads(1)
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True  # the arithmetic is real, by PyTorch's slower path
    torch.save(action(distributed.init(no_cuda=True), folder), folder / f"rank-{rank}.pt")
    distributed.close()


def on_ranks(world: int, action: Callable[[World, Path], Any], folder: Path) -> list[Any]:
    """What `action(world, folder)` gives on each rank."""
    start_processes(on_rank, (world, free_port(), action, folder), world)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(world)]


def all_kinds(world: World, folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        for kind in KINDS[:4]:
            found[f"{kind} {path.stem}"] = course(settings(folder / kind, str(path)), world)
    return found


def test_on_two_ranks(tmp_path: Path) -> None:
    for kind in KINDS[:4]:
        tiny_encoder(tmp_path / kind, kind)
    for precision in ("fp32", "fp16", "bf16"):
        for stage in STAGES:
            zero(tmp_path, precision, stage)
    for found in on_ranks(2, all_kinds, tmp_path):
        assert len(found) == 24
        for name, (whole, losses) in found.items():
            if "-00" in name:
                parts, others = found[name.replace("-00", "-30")]
                assert_same(parts, whole)
                torch.testing.assert_close(others, losses, rtol=0, atol=1e-5 if "fp32" in name else 2e-2)


def old_names(folder: Path) -> None:
    """As the first BERT models were published: another prefix, and no pooler."""
    weights = load_file(folder / "model.safetensors")
    named = {re.sub("LayerNorm.weight$", "LayerNorm.gamma", re.sub("LayerNorm.bias$", "LayerNorm.beta", name)): tensor
             for name, tensor in weights.items() if "pooler" not in name}  # fmt: skip
    save_file({f"bert.{name}": tensor for name, tensor in named.items()}, folder / "model.safetensors")


def another_prefix(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"module.bert.{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def bfloat16(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    mixed = {name: tensor.bfloat16() if tensor.ndim > 1 else tensor.half() for name, tensor in weights.items()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})


def shards(folder: Path) -> None:
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}}, folder / "pytorch_model.bin")


def more_tokens(folder: Path) -> None:
    bfloat16(folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["$disease$", "$gene$"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("change", [old_names, another_prefix, bfloat16, shards, pickled, more_tokens])
def test_files_of_all_kinds(bert: Path, world: World, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(bert)
    tokenizer = load_tokenizer(settings(bert))
    found = [course(settings(bert, zero(tmp_path, "fp32", stage)), world, tokenizer)[0] for stage in STAGES]
    assert_same(*found)
    built = model.build(settings(bert), 3, False, tokenizer, in_parts=True)
    assert built.source is not None


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_those_of_stage_0(bert: Path, world: World, tmp_path: Path, dora: bool) -> None:
    bfloat16(bert)
    given = {"lora_rank": 4, "lora_dora": dora}
    whole, parts = (course(settings(bert, zero(tmp_path, "fp32", stage), **given), world) for stage in STAGES)
    assert_same(parts[0], whole[0])
    torch.testing.assert_close(parts[1], whole[1], rtol=0, atol=1e-5)
    assert any("lora_A" in name for name in whole[0])
    # The norms of DoRA are of whole weights.
    assert (model.build(settings(bert, **given), 3, False, in_parts=True).source is None) == dora


def test_nothing_is_read_before_it_is_kept(bert: Path) -> None:
    """A model that is built takes its weights from the file as it is then: nothing was copied."""
    built = model.build(settings(bert), 3, False, in_parts=True)
    name = "encoder.embeddings.position_embeddings.weight"
    weight = built.get_parameter(name)
    before = float(weight[0, 0].detach())
    with open(bert / "model.safetensors", "r+b") as file:
        content = file.read()
        at = content.index(torch.tensor([weight[0, 0].detach(), weight[0, 1].detach()]).numpy().tobytes())
        file.seek(at)
        file.write(torch.tensor([before + 1]).numpy().tobytes())
    assert float(weight[0, 0].detach()) == pytest.approx(before + 1)


def test_the_head_and_the_dropout_do_not_depend_on_the_way(bert: Path) -> None:
    whole, parts = (model.build(settings(bert, seed=5), 3, False, in_parts=each) for each in (False, True))
    assert torch.equal(whole.classifier.weight, parts.classifier.weight) and whole.layout == parts.layout
    assert whole.encoder.config.to_dict() == parts.encoder.config.to_dict()
    assert str(whole) == str(parts)


def spoil(world: World, folder: Path) -> str:
    run = settings(folder / "bert", str(folder / "fp32-30.json"))
    with pytest.raises(UserError) as caught:
        start(run, world)
    return str(caught.value)


def test_a_damaged_value_is_found_by_the_rank_that_keeps_it(bert: Path, tmp_path: Path) -> None:
    weights = load_file(bert / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    weights[name][-1, -3:] = torch.inf  # in the last rank's part
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    zero(tmp_path, "fp32", 3)
    for text in on_ranks(2, spoil, tmp_path):
        assert f"{name} holds 3 values that are NaN or infinite" in text and str(bert) in text and "\n" not in text


def test_what_cannot_stay_in_its_file_is_loaded_whole(
    bert: Path, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(bert / "model.safetensors")
    (bert / "model.safetensors").unlink()
    torch.save(weights, bert / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    run = settings(bert, zero(tmp_path, "fp32", 3))
    with caplog.at_level("WARNING"):
        built = model.build(run, 3, False, in_parts=True)
    (line,) = [line for line in caplog.messages if "every process loads all weights" in line]
    assert built.source is None and "pytorch_model.bin is of an old format" in line
    assert_same(dict(built.named_parameters()), dict(model.build(run, 3, False).named_parameters()))


def test_mismatched_weights_are_refused(bert: Path) -> None:
    path = bert / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 64', '"intermediate_size": 63'))
    for in_parts in (False, True):
        assert_user_error(lambda parts=in_parts: model.build(settings(bert), 3, False, in_parts=parts), "is [64", "[63")


def train_and_save(world: World, folder: Path) -> dict[str, torch.Tensor]:
    """Weights after three steps, saved at each stage in a folder of its name."""
    found = {}
    for ds in sorted(folder.glob("*.json")):
        running = start(settings(folder / "bert", str(ds)), world)
        for _ in range(3):
            running.micro_step(batch(), 1 / 4)
        if world.is_main:
            (folder / ds.stem).mkdir()
        distributed.barrier()
        running.save(folder / ds.stem)
        found |= {f"{ds.stem} {name}": tensor.clone() for name, tensor in running.weights().items()}
        running.close()
    return found


def test_checkpoints_of_two_ranks_are_read_by_one_at_every_stage(bert: Path, world: World, tmp_path: Path) -> None:
    """What one rank reads of them and saves again is the same to the bit, in one file."""
    for stage in range(4):
        for precision in ("fp32", "bf16"):
            zero(tmp_path, precision, stage)
    weights = on_ranks(2, train_and_save, tmp_path)[0]
    whole = sum(p.numel() for p in model.build(settings(bert), 3, False).parameters())
    for ds in sorted(tmp_path.glob("*.json")):
        files = sorted((tmp_path / ds.stem).glob("*.safetensors"))
        if ds.stem.endswith("-00"):
            assert [file.name for file in files] == ["engine.safetensors"]
        else:
            assert [file.name for file in files] == ["engine-0.safetensors", "engine-1.safetensors"]
            assert max(file.stat().st_size for file in files) < 0.6 * 12 * whole  # weights and two moments
        before = optimizer_state.Saved(tmp_path / ds.stem)
        for stage in (0, 1, 3):
            reading = start(settings(bert, str(tmp_path / f"{ds.stem[:4]}-{stage}0.json")), world)
            reading.load(tmp_path / ds.stem)
            (again := tmp_path / f"{ds.stem} at {stage}").mkdir()
            reading.save(again)
            after = load_file(again / "engine.safetensors")
            for key, tensor in after.items():
                assert torch.equal(before.read(key, 0, tensor.numel()), tensor.flatten()), (ds.stem, stage, key)
            assert_same(reading.weights(), {name: weights[f"{ds.stem} {name}"] for name in reading.weights()})
            reading.close()
            assert after.keys() == before.pieces.keys() and len(after) == 3 * len(weights) // 8


def read_again(world: World, folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for ds in sorted(folder.glob("*.json")):
        running = start(settings(folder / "bert", str(ds)), world)
        running.load(folder / "one")
        found |= {f"{ds.stem} {name}": tensor.clone() for name, tensor in running.weights().items()}
        running.close()
    return found


def test_a_checkpoint_of_one_rank_is_read_by_three(bert: Path, world: World, tmp_path: Path) -> None:
    """Parts of the last rank end before the others' do."""
    for stage in range(4):
        zero(tmp_path, "fp32", stage)
    running = start(settings(bert, str(tmp_path / "fp32-00.json")), world)
    running.micro_step(batch(), 1 / 4)
    (tmp_path / "one").mkdir()
    running.save(tmp_path / "one")
    expected = {name: tensor.clone() for name, tensor in running.weights().items()}
    running.close()
    for found in on_ranks(3, read_again, tmp_path):
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name.split()[1]]), name
        assert len(found) == 4 * len(expected)


def fill_up(world: World, folder: Path) -> tuple[str, list[str], list[str]]:
    """Two saves, at the second of which the last rank may write no more than a page."""
    running = start(settings(folder / "bert", str(folder / "fp32-30.json")), world)
    running.micro_step(batch(), 1 / 4)
    save = functools.partial(checkpoint.save, folder / "checkpoints", running, world=world, keep=9)
    save(state=TrainState(1))
    if world.rank == world.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with pytest.raises(OSError) as caught:
        save(state=TrainState(2))
    there = sorted(path.name for path in (folder / "checkpoints").glob("[!.]*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    distributed.barrier()
    save(state=TrainState(2))
    after = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return str(caught.value), there, after


def test_a_rank_without_space_costs_no_checkpoint_and_leaves_none_waiting(bert: Path, tmp_path: Path) -> None:
    zero(tmp_path, "fp32", 3)
    for error, there, after in on_ranks(2, fill_up, tmp_path):
        assert "File too large" in error
        assert there == ["step-0001-000000"] and after == ["step-0001-000000", "step-0002-000000"]


def write_model(world: World, folder: Path) -> dict[str, Any]:
    """model/ of a model that is in parts, in files of 40 kB, and again without the space for them."""
    found: dict[str, Any] = {}
    tensor_file.LARGEST_FILE = 40_000
    for kind in ("bert", "llama"):
        run = settings(folder / kind, str(folder / "fp32-30.json"))
        running, tokenizer = start(run, world), load_tokenizer(run)

        def save(running: engine.Engine = running, kind: str = kind, tokenizer: Any = tokenizer) -> None:
            stream = running.stream()
            write = functools.partial(export.save, folder / "models" / kind, running.module, stream, tokenizer)
            distributed.feed_main(stream.tensors, lambda: write(about(("a", "b", "c"), "multiclass")))

        save()
        found[kind] = {name: tensor.clone() for name, tensor in running.weights().items()}
        if world.is_main:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        with pytest.raises(OSError) as caught:
            save()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found[f"{kind} error"] = str(caught.value)
        running.close()
    return found


def test_a_model_is_written_tensor_by_tensor_into_files_of_a_size(tmp_path: Path) -> None:
    zero(tmp_path, "fp32", 3)
    for kind in ("bert", "llama"):
        tiny_encoder(tmp_path / kind, kind)
    found = on_ranks(2, write_model, tmp_path)
    for kind in ("bert", "llama"):
        folder = tmp_path / "models" / kind
        assert all("File too large" in each[f"{kind} error"] for each in found)  # and the model is whole:
        files = sorted(folder.glob("*.safetensors"))
        assert len(files) > 1 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
        loaded = model.load(folder).model
        assert_same(dict(loaded.named_parameters()), found[0][kind])
        assert max(file.stat().st_size for file in files) < 60_000  # no tensor is in two
    folder, theirs = tmp_path / "models" / "bert", tmp_path / "theirs"
    standard, info = BertForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(standard.classifier.weight, found[0]["bert"]["classifier.weight"])
    standard.save_pretrained(theirs, max_shard_size=40_000)
    indexes = [json.loads((place / tensor_file.INDEX).read_text()) for place in (folder, theirs)]
    assert indexes[0]["metadata"] == indexes[1]["metadata"]
    assert indexes[0]["weight_map"].keys() == indexes[1]["weight_map"].keys()


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "t5", "deberta-v2"])
@pytest.mark.parametrize("per_word", [False, True])
def test_a_streamed_model_has_the_files_of_a_whole_one(tmp_path: Path, kind: str, per_word: bool) -> None:
    """The class that loads it is found on a small model, and on the model itself."""
    encoder = tiny_encoder(tmp_path / kind, kind)
    run = settings(encoder)
    built = model.build(run, 3, per_word)
    weights = {name: p.detach() for name, p in built.named_parameters()}
    for name, given in (("whole", weights), ("streamed", tensor_file.Stream.of(weights))):
        export.save(tmp_path / name, built, given, load_tokenizer(run, per_word), about(("a", "b", "c"), "tagging"))
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "streamed")


def own_memory() -> int:
    """Bytes of this process that are in no file."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def growth(world: World, folder: Path) -> dict[str, int]:
    """By how much loading raises a process's own memory at most; bytes of its part, and of the largest tensor."""
    from transformers.models.llama import modeling_llama  # noqa: F401

    from harness.ds import partition

    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], own_memory())

    run = settings(folder / "encoder", str(folder / "fp32-30.json"))
    ds = ds_config.resolve(run, world)
    filled = ds.fill(run, config.batch_plan(run, world.size))
    engine.spare_compilers(world)
    gc.collect()
    before, watching = own_memory(), threading.Thread(target=watch)
    watching.start()
    built = model.build(run, 3, False, in_parts=True)
    partition.share_out(built, filled, torch.float32, world)
    done.set()
    watching.join()
    parameters: list[Any] = list(built.parameters())
    distributed.barrier()
    return {
        "growth": max(peak[0], own_memory()) - before,
        "own": sum(p.ds_tensor.nbytes for p in parameters),
        "largest": max(4 * p.ds_numel for p in parameters),
        "all": sum(4 * p.ds_numel for p in parameters),
    }


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_memory(tmp_path: Path, ranks: int) -> None:
    """A model of 1 GB costs a rank its own part, the largest tensor, and a tenth of that."""
    from transformers import AutoConfig, AutoModel

    tiny_encoder(tmp_path / "encoder", "llama")
    sizes = {"hidden_size": 1024, "num_hidden_layers": 15, "num_attention_heads": 16, "intermediate_size": 4096}
    shape = AutoConfig.from_pretrained(tmp_path / "encoder", **sizes, num_key_value_heads=16, vocab_size=12_000)
    shape.head_dim = 64
    shape.save_pretrained(tmp_path / "encoder")
    with torch.device("meta"):
        skeleton = AutoModel.from_config(shape)
    weights = {name: torch.empty(p.shape).normal_(std=0.02) for name, p in skeleton.named_parameters()}
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    del weights
    zero(tmp_path, "fp32", 3)
    for found in on_ranks(ranks, growth, tmp_path):
        print(found)
        assert found["all"] > 1e9 and found["own"] >= found["all"] // ranks
        assert found["growth"] < 1.1 * (found["own"] + found["largest"]), found
    shutil.rmtree(tmp_path / "encoder")
