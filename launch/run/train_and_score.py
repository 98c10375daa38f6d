"""The training of one run, and the scores that it reports.

`train`: model and engine built, state restored, epochs run, weights written to `model/`. `score` predicts by the
weights in `model/`, so that what is reported is what is kept; where nothing was trained, by those that
--model_name_or_path names.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from harness import checkpoint, data, distributed, export, logs, loop, lora, memory, model, pretrained, watchdog
from harness.checkpoint import TrainState
from harness.ds import engine as ds_engine
from harness.ds import scoring
from harness.ds.engine import Engine
from harness.errors import Stopped, UserError
from harness.evaluate import Evaluation, Forward, evaluate, write_files
from harness.files import write
from harness.model import EncoderWithHead, StandardHead
from harness.model_folder import HEAD_FILE
from harness.preemption import StopRequest
from harness.task import Report
from harness.tensor_file import Stream
from harness.tracking import Tracker
from launch.run import fine_tuned, inputs, pruning
from launch.run.setup import Run

logger = logging.getLogger("harness.launch")


def train(run: Run, tracker: Tracker, stop: StopRequest) -> TrainState:
    """The state after the last epoch; `model/` is written. Collective. Raises Stopped, TrainingFailed, UserError."""
    config, world, examples = run.config, run.world, run.training
    steps = data.total_steps(len(examples), run.plan, config.num_train_epochs, config.max_steps)
    longest = max(map(len, examples.input_ids))
    fits = memory.fit(config, run.deepspeed, run.plan, world, run.task, longest, run.folder.checkpoints)
    fits.windows = sorted(examples.windows or (), reverse=True)
    fits.check()
    logger.info("loading %s ...", config.model_label)
    with fits.explained("while the model was loaded"):
        in_parts = run.deepspeed.stage == 3
        network = model.build(config, run.task.num_outputs, run.task.per_word, run.tokenizer, in_parts=in_parts)
    fits.announce(network)
    with fits.explained("while the optimizer's state was made"):
        engine = ds_engine.build(network, run.task, config, run.deepspeed, run.plan, steps, world)
    logger.info("packing %s", network.layout)

    def score_dev() -> Evaluation:
        return evaluate(engine.forward, run.splits["dev"], run.task, config, world, run.pad_id)

    with ExitStack() as stack:
        stack.callback(_release, engine)
        torch.manual_seed(config.seed * 1_000_003 + world.rank)  # ranks draw dropout masks of their own
        state = checkpoint.restore(run.folder.checkpoints, engine, world)
        if config.select == "best_dev" and (state.best or {}).get("epoch") != state.best_epoch():
            raise UserError(
                f"{run.folder.checkpoints}: an older version wrote it, without the weights of the best epoch (--select "
                "best_dev); remove this folder to train again from the start, or name another --output_dir"
            )
        state.examples_per_step = run.plan.total
        if state.epoch or state.step_in_epoch:
            logger.info("Resumed after %d epochs and %d steps, from the checkpoint.", state.epoch, state.step_in_epoch)
        training = loop.Training(
            state,
            config,
            world,
            run.plan,
            steps,
            engine,
            examples,
            run.pad_id,
            score_dev=score_dev if config.eval_every_epoch and "dev" in run.splits else None,
            after_epoch=lambda now: _after_epoch(run, engine, now),
            tracker=tracker,
            progress=stack.enter_context(
                logs.progress(world.is_main, steps / data.steps_per_epoch(len(examples), run.plan), steps)
            ),
            folder=run.folder,
            stop=stop,
            what_fits=fits.after_failure,
        )
        stack.enter_context(stop.deferred())
        if not training.fit():
            raise Stopped(f"stopped at step {state.applied_steps} of {steps}; the same command goes on from there")
        _write_model(run, engine, state)
        if distributed.agree(bool(stop.requested), world.device):  # of one rank: all leave together
            raise Stopped("stopped before the final scores; the same command goes on from there")
    return state


@watchdog.phase("saving")
def _after_epoch(run: Run, engine: Engine, state: TrainState) -> None:
    if run.world.is_main:
        run.folder.check_exists()
    if run.config.select == "best_dev" and state.best_epoch() == state.epoch:
        stream = engine.stream()
        state.best = distributed.feed_main(
            stream.tensors, lambda: checkpoint.save_best(run.folder.checkpoints, stream, state.epoch)
        )
    if run.world.is_main:
        write(run.folder.dev_results, _dev_results(run, state))
    pruning.check(run, state)


def _dev_results(run: Run, state: TrainState) -> str:
    """The original's table of epochs, comma separated."""
    lines = []
    for entry in state.history:
        if "dev" in entry:
            dev = entry["dev"]
            row = run.task.dev_row(Report(dev["score"], dev["metric"], dev, {}))
            lines.append({"Global_step": entry["step"], "Epochs": entry["epoch"], "Loss": dev["loss"], **row})
    header = [",".join(lines[0])] if lines else []
    return "\n".join(header + [",".join(str(value) for value in line.values()) for line in lines]) + "\n"


@watchdog.phase("saving")
def _write_model(run: Run, engine: Engine, state: TrainState) -> None:
    """The last weights, or those that the state names as the best. Collective."""
    last = engine.stream() if state.best is None else Stream({}, iter(()))  # gathered from all ranks

    def save() -> None:
        network, base = engine.module, None
        kept: Mapping[str, torch.Tensor] | Stream
        kept = last if state.best is None else Stream.of(checkpoint.load_best(run.folder.checkpoints, state.best))
        if run.config.freeze_layers is not None:
            kept = _with_frozen(run, kept, engine.in_parts)
        if not engine.in_parts or run.config.lora_rank is not None:
            kept = kept.all()
        if run.config.lora_rank is not None and run.config.merge_lora:
            assert isinstance(kept, Mapping)
            network = _merged(run, kept)
            kept = dict(network.named_parameters())
        elif run.config.lora_rank is not None:
            base = export.Base(
                run.config.model_name_or_path, run.model_commit, inputs.of_weights(run.config, run.folder)
            )
        about = fine_tuned.about(run.config, run.task, run.precision, run.data)
        export.save(run.folder.model, network, kept, run.tokenizer, about, base)

    distributed.feed_main(last.tensors, save)


def _built_again(run: Run, in_parts: bool = False) -> EncoderWithHead:
    """The model in float32 as it was before training: the engine's frozen weights are rounded, or in parts."""
    logging.disable(logging.WARNING)  # what is to be said of the encoder was said when it was loaded first
    try:
        return model.build(run.config, run.task.num_outputs, run.task.per_word, run.tokenizer, in_parts=in_parts)
    finally:
        logging.disable(logging.NOTSET)


def _with_frozen(run: Run, trained: Stream, in_parts: bool) -> Stream:
    """The trained weights and those that the checkpoint has for the rest."""
    frozen = {name: p.detach() for name, p in _built_again(run, in_parts).named_parameters() if not p.requires_grad}
    shapes = {**trained.shapes, **{name: tuple(tensor.shape) for name, tensor in frozen.items()}}
    return Stream(shapes, itertools.chain(trained.tensors, frozen.items()))


def _merged(run: Run, trained: Mapping[str, torch.Tensor]) -> EncoderWithHead:
    """The whole model with its adapters in the weights."""
    network = _built_again(run)
    network.load_state_dict(trained, strict=False)
    lora.merge(network.encoder)
    return network


def _release(engine: Engine) -> None:
    """Give the memory back: the weights to be scored are read from `model/`."""
    engine.close()
    gc.collect()
    torch.cuda.empty_cache()


def score(run: Run, tracker: Tracker) -> dict[str, Evaluation]:
    """Evaluations of the splits that were asked for, and their files. Collective. Raises UserError without a model."""
    config, task = run.config, run.task
    wanted = (("dev", config.do_eval and "dev" in run.splits), ("test", config.do_predict))
    asked = [name for name, is_wanted in wanted if is_wanted]
    if not asked:
        return {}
    logger.info("scoring %s ...", " and ".join(asked))
    folder = run.folder.model if config.trained else Path(pretrained.find(config.model_name_or_path))
    network: EncoderWithHead | StandardHead
    if config.trained or (folder / HEAD_FILE).is_file():
        code, in_parts = config.trust_remote_code, run.deepspeed.stage == 3
        network = model.load(folder, config.packing, code, config.cache_dir, in_parts=in_parts).model
    else:
        network = model.load_standard(config, task)
    network.window_pooling = config.window_pooling
    with scoring.forward_as_trained(network, config, run.deepspeed, run.plan, run.world) as forward:
        return _evaluations(run, asked, forward, tracker)


def _evaluations(run: Run, asked: Sequence[str], forward: Forward, tracker: Tracker) -> dict[str, Evaluation]:
    """Of these splits, and their files."""
    config, task = run.config, run.task
    scores = {}
    for name in asked:
        found = scores[name] = evaluate(forward, run.splits[name], task, config, run.world, run.pad_id)
        for warning in found.report.warnings:
            logger.warning("%s: %s", name, warning)
        if (count := found.report.values.get("repaired_tags")) is not None:
            said = "%s: %d predicted tags I after O or another type; each was scored as B, as by conlleval"
            logger.info(said, name, count)
        if run.world.is_main:
            write_files(found, run.splits[name], task, run.folder, config)
            tracker.chart(name, found.report)
            # The tracker's dev/score is the best epoch's, so the reported one needs a name of its own.
            place = "reported_dev" if name == "dev" else name
            numbers = {key: value for key, value in found.to_dict().items() if isinstance(value, int | float)}
            tracker.summary({f"{place}/{key}": value for key, value in numbers.items()})
    return scores
