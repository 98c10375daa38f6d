"""The search for settings: which trials there are, what they score on dev, and what is chosen by it.

A search is one model on one task. Its trials train on train alone and score dev alone, or parts of both (`folds`); the
test file is not opened. What they lead to is trained as the recipe says, with seeds that no trial had. Trials are runs
like all others, at `<task>/<model>/tune/<settings>/seed-<n>`; search.json in `tune` holds the list of them.

Random and TPE sampling goes by generations: the settings of one follow from the scores of the finished ones before it,
in their order, and are written down before any of its trials starts. A kill therefore changes nothing.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

import tasks
from harness import flags, records, run_folder, tracking
from harness.config import RunConfig, check
from harness.errors import Faults, UserError
from harness.files import write
from launch.jobs import preflight, status
from launch.jobs.status import RunStatus
from launch.run import settings
from launch.run.class_weights import BALANCED
from tasks import published

FOLDER = "tune"  # of all trials of a model on a task
RECORD = "search.json"
FIRST_TRIAL_SEED = 1000  # so that no trial has a seed of the runs that are compared
GENERATION = 5  # settings that are asked for at once; as many come before TPE begins to learn
MOST_RUNS = 1000  # trials of a search: more are a mistake
SMALL_DEV = 100  # examples, or positive ones: choosing by fewer is close to choosing by noise
Values = dict[str, Any]  # setting -> value


def listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Tune(BaseModel):
    """`[tune]` of a suite file. Every other key is a setting of a run, with the list of values to choose among."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Annotated[tuple[Any, ...], BeforeValidator(listed)]] = Field(init=False)

    sampler: Literal["grid", "random", "tpe"] = "grid"
    trials: Annotated[int, Field(ge=1)] | None = None  # settings that are tried; a grid tries all of its own
    tune_seeds: Annotated[int, Field(ge=1)] = 1  # runs of each of them; their mean counts
    pruning: bool = False  # end trials that are worse than the median of others at their epoch
    folds: Annotated[int, Field(ge=0)] = 0  # cross-validation on train and dev in so many parts; 0: train -> dev

    @property
    def lists(self) -> Mapping[str, tuple[Any, ...]]:
        """Setting -> its values."""
        return self.__pydantic_extra__ or {}

    def check(self, where: str) -> None:
        """Raises UserError, after `where`, where the parts exclude each other."""
        faults = Faults()
        if self.folds == 1:
            faults.append(f"{where}folds 1: must be 0, or at least 2")
        if self.folds and self.pruning:  # one part of the data is harder than another
            faults.append(f"{where}pruning: compares trials on the same dev set, which folds are not; leave one out")
        if self.sampler != "grid" and self.trials is None:
            faults.append(f"{where}trials: sampler {self.sampler} needs to know how many, for example trials = 20")
        faults.refuse()


@dataclass(frozen=True)
class Tried:
    """What came of one choice of settings."""

    values: Values
    runs: Sequence[RunStatus]  # one for each seed and fold

    @property
    def dev(self) -> list[float]:
        """Dev scores of its finished runs, fractions."""
        return [run.result["scores"]["dev"]["score"] for run in self.runs if is_scored(run) and run.result]

    @property
    def has_failed(self) -> bool:
        """Whether one of its runs diverged, or was ended by pruning."""
        return any(is_lost(run) for run in self.runs)

    @property
    def score(self) -> float | None:
        """Mean dev score; None where it has failed."""
        # Rounded, since the same scores in another order differ in the last digit, and that would untie a tie.
        return None if self.has_failed or not self.dev else round(fmean(self.dev), 12)


def is_scored(run: RunStatus) -> bool:
    """Whether it is finished. Raises UserError where somebody's file takes the place of a trial's result."""
    if run.status == "finished" and run.result is not None and "dev" not in run.result["scores"]:
        raise UserError(f"{run.folder}/result.json: has no dev score, so it is no trial's; move the folder away")
    return run.status == "finished"


def is_lost(run: RunStatus) -> bool:
    """Whether training itself failed, as it would again: these settings are out. What users can mend is tried again."""
    attempt = status.read_attempt(run.folder)
    return run.status == "failed" and attempt is not None and attempt.diverged


@dataclass(frozen=True, eq=False)
class Search:
    """One model on one task. `base`: the runs that are wanted, one for each seed, before anything is chosen."""

    base: Sequence[RunConfig]
    tune: Tune
    fixed: Collection[str] = ()  # settings that the user has given a value

    @property
    def folder(self) -> Path:
        """Of all trials."""
        return Path(self.base[0].output_dir).parent / FOLDER

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.base[0].task}, {self.base[0].model_label}"

    @cached_property
    def space(self) -> dict[str, list[Any]]:
        """Setting -> values, each once, in the order in which they were given. Raises UserError."""
        first, lists = self.base[0], dict(self.tune.lists) or self._usual_space()
        both = [name for name in lists if name in self.fixed]
        faults = [f"{name}: is searched; leave it out of the flags and of [overrides]" for name in both]
        found = {}
        for name, values in lists.items():
            converted = [flags.convert({name: value}, f"[{FOLDER}] ", faults).get(name) for value in values]
            found[name] = list(dict.fromkeys(converted))
        size = math.prod(map(len, found.values()))
        if self.tune.sampler == "grid" and (self.tune.trials or size) < size:
            wrong = f"trials {self.tune.trials}: a grid tries all {size} settings"
            faults.append(f'{wrong}; leave it out, or write sampler = "random"')
        if {*found.get("class_weights", ())} - {None, BALANCED}:  # a file's content is no name of a folder
            faults.append(f"class_weights: of these only `{BALANCED}` and none are searched; compare files by --sweep")
        if "recipe" in found:
            faults.append("recipe: stands for several settings; search these")
        if first.max_steps > 0 and "num_train_epochs" in found:
            faults.append(f"--max_steps {first.max_steps}: leaves no choice of num_train_epochs; leave it out")
        levels = {name: {_level(value) for value in values} for name, values in found.items()}
        alike = [name for name, values in found.items() if len(levels[name]) < len(values)]
        faults += [f"{name}: two values would share a folder; give them names that differ" for name in alike]
        if self.runs(found) > MOST_RUNS:
            faults.append(f"{self.name}: a search of {self.runs(found)} runs; name fewer values, or sampler and trials")
        trial_seeds = range(FIRST_TRIAL_SEED, FIRST_TRIAL_SEED + self.tune.tune_seeds)
        if any(config.seed in trial_seeds for config in self.base):
            faults.append(f"--seeds: {FIRST_TRIAL_SEED} and up are the trials', leave them to those")
        if not first.trained or not first.do_train:
            faults.append("--tune: trains; leave out --do_eval and --do_predict, or add --do_train")
        if faults:
            raise UserError("\n".join(faults))
        return found

    def _usual_space(self) -> dict[str, tuple[Any, ...]]:
        config = self.base[0]
        facts = tasks.facts(config.task, config.own_task)
        name = "" if config.own_task else config.task  # a custom task may have been called so before one shipped
        usual = published.search_space(str(config.recipe), name, facts["family"])
        if usual.keys() <= set(self.fixed):
            raise UserError(
                f"--tune: {' and '.join(usual)} are given, nothing is left to choose; name values by --sweep"
            )
        return {name: tuple(values) for name, values in usual.items() if name not in self.fixed}

    @cached_property
    def grid(self) -> list[Values]:
        """Every combination."""
        return [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]

    @property
    def each_value(self) -> list[Values]:
        """As few combinations as hold every value."""
        longest = max(map(len, self.space.values()))
        return [{name: of[number % len(of)] for name, of in self.space.items()} for number in range(longest)]

    def most(self, space: Mapping[str, Sequence[Any]]) -> int:
        """Settings that are tried in all."""
        size = math.prod(map(len, space.values()))
        return min(self.tune.trials or size, size)

    def runs(self, space: Mapping[str, Sequence[Any]]) -> int:
        """Trials of all settings, seeds and folds."""
        return self.most(space) * self.tune.tune_seeds * max(1, self.tune.folds)

    def trials(self, values: Values) -> list[RunConfig]:
        """The runs of one choice of settings: one for each seed and fold. Raises UserError where none can be."""
        count, first = self.tune.folds, settings.changed(self.base[0], values, self.fixed)
        folds = [f"{number}/{count}" for number in range(1, count + 1)] if count else [None]
        found = []
        for number, fold in product(range(self.tune.tune_seeds), folds):
            seed = FIRST_TRIAL_SEED + number
            level = ",".join(f"{name}={_level(value)}" for name, value in values.items())
            level += f",fold={fold.replace('/', '-')}" if fold else ""
            search: Values = {"kind": "trial", "values": values, **({"fold": fold} if fold else {})}
            search |= {"pruning": True} if self.tune.pruning else {}
            name = f"{first.task}-{first.model_label}-{level}-seed{seed}"
            trial: Values = {"train_splits": ("train",), "do_eval": True, "do_predict": False, "keep_checkpoints": 0}
            trial |= {"wandb_name": name, "wandb_tags": (*first.wandb_tags, "trial"), "search": search}
            place = str(self.folder / level / f"seed-{seed}")
            found.append(replace(first, **trial, seed=seed, fold=fold, output_dir=place))
        for config in (first, found[0]):  # what would be chosen may train on more
            check(config)
        return found

    def check_folders(self) -> None:
        """Raises UserError where a run that is wanted at the end has a folder that holds another one, whatever is
        chosen: better before the trials than after them."""
        for config in self.base if len(self.grid) <= MOST_RUNS else ():
            faults = Faults()
            for values in self.grid:
                with faults.collected():
                    wanted = settings.changed(config, values, self.fixed)
                    run_folder.prepare(wanted, compare=preflight.compare, dry=True)
            if len(faults) >= len(self.grid):
                raise UserError(faults[0])

    # ---- what is tried
    def recorded(self) -> list[Values]:
        """The settings that were asked for so far, in their order. Raises UserError where another search is there."""
        path = self.folder / RECORD
        if self.tune.sampler == "grid":
            return self.grid
        if not path.is_file():
            return []
        try:
            kept = records.read(path, _RECORD)
        except UserError as error:
            raise UserError(f"{error}; remove it to begin the list again") from None
        space = kept.space
        if any({*one} != {*space} or any(one[name] not in space[name] for name in space) for one in kept.asked):
            raise UserError(f"{path}: asks for settings outside its own space; remove it to begin the list again")
        if (kept.space, kept.sampler, kept.seeds, kept.folds) != self._about():
            raise UserError(
                f"{self.folder}: holds a search over another space, or by another sampler; name another --output_dir"
            )
        return kept.asked

    def _about(self) -> tuple[dict[str, list[Any]], str, int, int]:
        return self.space, self.tune.sampler, self.tune.tune_seeds, self.tune.folds

    def record(self, asked: Sequence[Values], chosen: Mapping[str, Any] | None = None) -> None:
        """Write search.json. `asked`: every choice of settings so far; `chosen`: see `choice`."""
        names = ("space", "sampler", "seeds", "folds")
        values = {"schema": 1, **dict(zip(names, self._about(), strict=True)), "asked": list(asked), "chosen": chosen}
        try:
            write(self.folder / RECORD, json.dumps(values, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); name another --output_dir"
            ) from error

    def propose(self, tried: Sequence[Tried]) -> list[Values]:
        """The next generation, from the scores of all before it; empty where enough were tried."""
        known = [one.values for one in tried]
        wanted = min(GENERATION, self.most(self.space) - len(known))
        if wanted <= 0:
            return []
        import optuna  # takes half a second, and a grid has no need of it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        kinds: dict[str, Any] = {name: _distribution(values) for name, values in self.space.items()}
        seed = len(known)  # of this generation alone: nothing is left over from a process that has ended
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: Any = optuna.samplers.RandomSampler(seed)
            if self.tune.sampler == "tpe":
                sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=GENERATION, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in tried:
            places = {name: self.space[name].index(value) for name, value in one.values.items()}
            state = optuna.trial.TrialState.FAIL if one.score is None else optuna.trial.TrialState.COMPLETE
            made = optuna.trial.create_trial(params=places, distributions=kinds, value=one.score, state=state)
            study.add_trial(made)
        found: list[Values] = []
        for _ in range(100 * wanted):
            asked = study.ask(kinds).params
            values = {name: self.space[name][place] for name, place in asked.items()}
            if values not in (*known, *found):  # the same settings again would only score the same again
                found.append(values)
            if len(found) == wanted:
                return found
        rest = [values for values in self.grid if values not in (*known, *found)]
        return [*found, *rest[: wanted - len(found)]]

    # ---- what is chosen
    def choice(self, tried: Sequence[Tried]) -> dict[str, Any]:
        """What the chosen runs' config.json and result.json say of the search: the best mean dev score wins, of equal
        ones the fewer epochs, then the lower rate. Raises UserError where every trial has failed."""
        scored = [(one, score) for one in tried if (score := one.score) is not None]
        if not scored:
            why = next((run.reason for one in tried for run in one.runs if run.reason), "no reason known")
            raise UserError(
                f"{self.folder}: every trial has failed ({why}), nothing can be chosen; remove their folders there to "
                "try again"
            )

        def rank(pair: tuple[Tried, float]) -> tuple[float, float, float]:
            values = pair[0].values
            epochs, rate = (values.get(name, 0.0) for name in ("num_train_epochs", "learning_rate"))
            return -pair[1], epochs, rate

        best, score = min(scored, key=rank)
        runs = [run for one in tried for run in one.runs]
        hours = sum(records.device_hours(run.result or {}) or 0.0 for run in runs)
        basis, warning = self._basis(best, score, [other for _, other in scored])
        if failed := len(tried) - len(scored):
            lost = f"{failed} of {len(tried)} settings diverged or were pruned, and are left out"
            warning = f"{lost}; {warning}" if warning else lost
        return {
            "kind": "chosen",
            "values": best.values,
            "space": self.space,
            "sampler": self.tune.sampler,
            "trials": len(tried),
            "seeds": [FIRST_TRIAL_SEED + number for number in range(self.tune.tune_seeds)],
            "folds": self.tune.folds,
            "pruning": self.tune.pruning,
            "device_hours": round(hours, 6),
            "dev": score,
            "tried": [{"values": one.values, "dev": one.dev} for one in tried],
            "basis": basis,
            "warning": warning,
        }

    def _basis(self, best: Tried, score: float, scores: Sequence[float]) -> tuple[str, str]:
        """(what the choice rests on, a warning where that is little)."""
        parts = [run.result["scores"]["dev"] for run in best.runs if run.result]
        parts = parts[: max(1, self.tune.folds)]  # of one seed: all seeds score the same examples
        examples, positive = (sum(counts) for counts in zip(*map(counts_of, parts), strict=True))
        counted = f"{examples} examples" + (f", {positive} of them positive" if positive != examples else "")
        what = f"{self.tune.folds} folds of train and dev" if self.tune.folds else "dev, trained on train alone"
        count = min(positive, examples)
        if count >= SMALL_DEV:
            return f"{what}: {counted}", ""
        error = standard_error(score, count, parts[0]["metric"])
        near = sum(score - other <= error for other in scores)
        return f"{what}: {counted}", (
            f"{counted} say little: by chance alone the score moves by {100 * error:.1f} points (one standard error), "
            f"and {near} of {len(scores)} settings are no further from the best"
        )

    def chosen_runs(self, found: Mapping[str, Any]) -> list[RunConfig]:
        """The runs that are wanted, with the settings of a `choice`."""
        values = found["values"]
        return [replace(settings.changed(config, values, self.fixed), search=dict(found)) for config in self.base]


def said(search: Search, found: Mapping[str, Any]) -> str:
    """A line on a choice, and one on what it rests on."""
    values = ", ".join(f"{name} {_level(value)}" for name, value in found["values"].items())
    text = f"chosen for {search.name}: {values}; dev {100 * found['dev']:.2f}, the best of {found['trials']} settings"
    return f"{text} ({found['basis']})" + (f"\n    {found['warning']}" if found["warning"] else "")


def counts_of(split: Mapping[str, Any]) -> tuple[int, int]:
    """(examples, positive ones or, where none is negative, all) of a split's scores in result.json."""
    positive = split["TP"] + split["FN"] if {"TP", "FN"} <= split.keys() else split["examples"]
    return split["examples"], positive


def standard_error(score: float, count: int, metric: str) -> float:
    """Of a score of `count` examples or positive ones: of a correlation r, (1 - r^2) / sqrt(n - 1) (Fisher 1921); of a
    share p of right answers, which F1 is close to, sqrt(p (1 - p) / n) with two right and two wrong ones added (Agresti
    and Coull 1998), since 0 and 1 are no more certain than other shares."""
    if metric in ("Pearson", "Spearman", "MCC"):
        return float((1 - score**2) / math.sqrt(max(1, count - 1)))
    share = (max(0.0, score) * count + 2) / (count + 4)
    return math.sqrt(share * (1 - share) / (count + 4))


def searches(
    configs: Sequence[RunConfig], tunes: Mapping[str, Tune], fixed: Mapping[str, Collection[str]]
) -> list[Search]:
    """The searches that runs of a suite need. `tunes`: by task, and "" for all others; `fixed`: settings that the user
    has given a value, likewise. Raises UserError that lists every fault."""
    groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(str(Path(config.output_dir).parent), []).append(config)
    found = []
    for group in groups.values():
        task = group[0].task
        found.append(Search(group, tunes.get(task, tunes[""]), {*fixed.get("", ()), *fixed.get(task, ())}))
    faults = Faults()
    if tracking.sweep_run() is not None:
        faults.append("--tune: within a wandb sweep, whose agent chooses the settings; leave one of the two out")
    for search in found:
        with faults.collected():
            for values in search.grid if len(search.grid) <= MOST_RUNS else search.each_value:
                search.trials(values)
    Faults(dict.fromkeys(faults)).refuse()
    return found


def _level(value: Any) -> str:
    """A value as the name of a folder."""
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else Path(str(value)).name


def _distribution(values: Sequence[Any]) -> Any:
    """Of the places in a list of values; numbers in order, so that neighbours count as such."""
    from optuna import distributions

    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and list(values) == sorted(values):
        return distributions.IntDistribution(0, len(values) - 1)
    return distributions.CategoricalDistribution(range(len(values)))


class _Record(BaseModel):
    """What search.json holds."""

    space: dict[str, list[Any]]
    sampler: str
    seeds: int
    folds: int
    asked: list[Values]


_RECORD = TypeAdapter(_Record)
