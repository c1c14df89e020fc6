"""Running a tuning: one Optuna study for each arm at each scale, any number of workers, the same budget for all.

A study's trials are its budget: a trial whose worker has died, which shows in its lock being free, is failed and its
values are queued again, and training goes on from where it was. So every arm ends with the same number of finished
trials; those that were pruned, or whose loss stopped being a number, are finished. Which values a trial gets depends on
the tuning's seed, the number of the trial and the trials before it. The first trials are alike in every arm: the base's
own values, then the same draws.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.locks import file_lock
from lensbench.sweep.cellfiles import is_evaluated, is_trained, read_records
from lensbench.sweep.design import Cell, Sweep
from lensbench.sweep.progress import Progress
from lensbench.sweep.search import Range, Tuning
from lensbench.sweep.storage import Patience, open_storage
from lensbench.sweep.tuned import trial_experiment, tuning_digest, units
from lensbench.training import files
from lensbench.training.milestones import watched_steps

if TYPE_CHECKING:
    import optuna

    from lensbench.experiment import Experiment
    from lensbench.sweep.worker import RunCell

FOLDER = "tuning"  # in the directory of runs: the trials, each a run of its own, and the locks
TRIES = 3  # of a trial that fails for no reason of its values
PAUSE = 0.5  # seconds between looks at what other workers do
NO_NUMBER = "without a number in a row"  # in what the training says of a loss that has diverged
Say = Callable[[str], None]


@dataclass(frozen=True)
class Unit:
    """An arm at a scale: what gets values of its own."""

    name: str
    cell: Cell
    study: optuna.Study


class Tuner:
    """One worker of a tuning. Opens or makes the studies in the storage at `url`."""

    def __init__(self, sweep: Sweep, runs: Path, url: str, say: Say) -> None:
        import optuna

        assert sweep.tuning is not None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep, self.tuning, self.say = sweep, sweep.tuning, say
        self.cache = runs / "cache"
        digest = tuning_digest(sweep)[:12]
        self.folder = runs / FOLDER / digest
        self.folder.mkdir(parents=True, exist_ok=True)
        self.patiently = Patience(say)
        self.distributions = {dotted: _distribution(among) for dotted, among in self.tuning.search.items()}
        with file_lock(self.folder / ".lock"):  # two processes must not make the tables at once
            storage = open_storage(url, say)
            self.units = []
            for number, (name, cell) in enumerate(units(sweep).items()):
                study = optuna.create_study(
                    study_name=f"{sweep.name}-tuning-{digest}-{number}",
                    storage=storage,
                    direction=self.tuning.direction,
                    pruner=_pruner(self.tuning, watched_steps(trial_experiment(sweep, cell, {}, self.tuning.seeds[0]))),
                    load_if_exists=True,
                )
                self.units.append(Unit(name, cell, study))
                if not study.get_trials(deepcopy=False) and (first := self._base_values(cell.experiment)):
                    study.enqueue_trial(first, user_attrs={"unit": name})

    def work(self, run_cell: RunCell) -> None:
        """Take trials until every unit has its number of finished ones, waiting for those of other workers."""
        while True:
            with ExitStack() as held:
                taken = self.patiently(lambda: self._take(held))
                if taken is not None:
                    self._run(*taken, run_cell)
                    continue
            if self.complete():
                return
            time.sleep(PAUSE)

    def complete(self) -> bool:
        """Whether every unit has its trials."""
        return all(len(self._finished(unit)) >= self.tuning.trials for unit in self.units)

    def progress(self) -> tuple[int, int]:
        """Finished trials, and how many there will be."""
        return sum(len(self._finished(unit)) for unit in self.units), self.tuning.trials * len(self.units)

    def findings(self) -> list[dict[str, Any]]:
        """What was found for each unit, with every finished trial, in the order of the sweep's cells.

        Raises ValueError for a unit none of whose trials came to its end.
        """
        from optuna.trial import TrialState

        out = []
        for unit in self.units:
            trials = self._finished(unit)[: self.tuning.trials]
            complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            if not complete:
                reason = trials[0].user_attrs.get("reason", "") if trials else ""
                raise ValueError(f"tuning: no trial of [{unit.name}] came to its end ({reason}): search elsewhere")
            sign = 1 if self.tuning.direction == "minimize" else -1
            best = min(complete, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))
            out.append(
                {
                    "unit": unit.name,
                    "levels": {d: level for d, level in unit.cell.levels.items() if d != "seed"},
                    "values": self._values(best),
                    "objective": best.value,
                    "trials": [
                        {
                            "number": number,
                            "state": "complete" if trial.state == TrialState.COMPLETE else "pruned",
                            "objective": trial.value,
                            "values": self._values(trial),
                            "steps": trial.user_attrs.get("steps", 0),
                        }
                        for number, trial in enumerate(trials)
                    ],
                }
            )
        return out

    def _take(self, held: ExitStack) -> tuple[Unit, optuna.Trial] | None:
        # A trial to run, its lock in `held`. The unit with the fewest trials first, so that all get on alike.
        from optuna.trial import TrialState

        with file_lock(self.folder / ".lock"):
            for unit in sorted(self.units, key=lambda unit: len(self._finished(unit))):
                alive = 0
                for running in unit.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    if not self._dead(unit, running.number):
                        alive += 1
                        continue
                    unit.study.tell(running.number, state=TrialState.FAIL)
                    unit.study.enqueue_trial(running.params, user_attrs=dict(running.user_attrs))
                if len(self._finished(unit)) + alive >= self.tuning.trials:
                    continue
                asked = [t for t in unit.study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
                unit.study.sampler = _sampler(self.tuning, len(asked))
                trial = unit.study.ask(self.distributions)
                assert held.enter_context(file_lock(self._lock(unit, trial.number), wait=False))
                return unit, trial
        return None

    def _run(self, unit: Unit, trial: optuna.Trial, run_cell: RunCell) -> None:
        import optuna
        from optuna.trial import TrialState

        state, value, words = TrialState.PRUNED, None, ""
        try:
            value = self._objective(unit, trial, run_cell)
            state, words = TrialState.COMPLETE, f"{self.tuning.objective} {value:.4f}"
        except optuna.TrialPruned:
            words = "pruned"
        except ValueError as error:
            if NO_NUMBER not in str(error):
                self.patiently(lambda: unit.study.tell(trial, state=TrialState.FAIL))
                raise
            words = "its loss stopped being a number"
        except Exception as error:
            fails = int(trial.user_attrs.get("fails", 0)) + 1
            words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            if fails < TRIES:
                self.say(f"[{unit.name}] trial failed ({words}); it is tried again")
                self.patiently(lambda: unit.study.tell(trial, state=TrialState.FAIL))
                self.patiently(lambda: unit.study.enqueue_trial(trial.params, user_attrs={"fails": fails}))
                return
        if state == TrialState.PRUNED:
            self.patiently(lambda: trial.set_user_attr("reason", words))
        self.patiently(lambda: unit.study.tell(trial, value, state=state))
        done, total = self.progress()
        shown = ", ".join(f"{d.rpartition('.')[2]}={_shown(v)}" for d, v in self._values(trial).items())
        self.say(f"[{done}/{total}] {unit.name}: {shown}: {words}")

    def _objective(self, unit: Unit, trial: optuna.Trial, run_cell: RunCell) -> float:
        """The mean over the tuning's seeds. Raises TrialPruned where the pruner wants no more."""
        import optuna

        found: list[float] = []
        steps = 0
        for number, seed in enumerate(self.tuning.seeds):
            experiment = trial_experiment(self.sweep, unit.cell, self._values(trial), seed)
            directory = self.folder / experiment.cell_id()
            if not (is_trained(directory) and is_evaluated(directory, experiment)):
                _clear(directory)
                follow = _Follow(self.tuning, trial, directory, len(experiment.evaluation.forms))
                run_cell(experiment, directory, cache=self.cache, report=follow)
            steps += experiment.training.steps
            trial.set_user_attr("steps", steps)
            found.append(_score(self.tuning, experiment, directory))
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)
            if self.tuning.pruner == "wilcoxon":
                trial.report(found[-1], number)
                if number + 1 < len(self.tuning.seeds) and trial.should_prune():
                    raise optuna.TrialPruned
        return sum(found) / len(found)

    def _base_values(self, base: Experiment) -> dict[str, Any]:
        """The base's own values of what is searched; nothing where one lies outside."""
        found = {}
        for dotted, among in self.tuning.search.items():
            value = getattr(base.training, dotted.partition(".")[2])
            if isinstance(among, Range):
                if value is None or not among.low <= value <= among.high:
                    return {}
                found[dotted] = value
            else:
                if str(value) not in map(str, among):
                    return {}
                found[dotted] = str(value)
        return found

    def _values(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> dict[str, Any]:
        """A trial's parameters as values of the experiment."""
        found = {}
        for dotted, among in self.tuning.search.items():
            value = trial.params[dotted]
            choices = {} if isinstance(among, Range) else {str(choice): choice for choice in among}
            found[dotted] = choices.get(value, value)
        return found

    def _finished(self, unit: Unit) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return unit.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _lock(self, unit: Unit, number: int) -> Path:
        return self.folder / f"{unit.study.study_name.rpartition('-')[2]}-{number}.lock"

    def _dead(self, unit: Unit, number: int) -> bool:
        with file_lock(self._lock(unit, number), wait=False) as free:
            return free


class _Follow:
    """A report of a training that stops it where ASHA wants no more: it is asked at the steps that are watched."""

    def __init__(self, tuning: Tuning, trial: optuna.Trial, directory: Path, forms: int) -> None:
        self.tuning, self.trial, self.directory, self.forms = tuning, trial, directory, forms
        self.seen: set[int] = set()

    def __call__(self, progress: Progress) -> None:
        if self.tuning.pruner != "asha" or progress.stage != "training" or progress.done >= progress.total:
            return
        import optuna

        watched = self.directory / files.WATCHED
        if not watched.exists():
            return
        losses: dict[int, list[float]] = {}
        with watched.open(newline="") as table:
            for row in csv.DictReader(table):
                losses.setdefault(int(row["step"]), []).append(float(row["validation_loss"]))
        for step, of_forms in losses.items():  # the loss alone is pruned by, and the lower it is the better
            if len(of_forms) < self.forms or step in self.seen or step >= progress.total:
                continue
            loss = min(of_forms)
            self.seen.add(step)
            self.trial.report(loss, step)
            if self.trial.should_prune():
                self.trial.set_user_attr("steps", progress.done)
                raise optuna.TrialPruned


def _score(tuning: Tuning, experiment: Experiment, directory: Path) -> float:
    records = read_records(directory, experiment)
    rows = records[records["metric"] == tuning.objective]
    last = rows[rows["step"] == rows["step"].max()]
    forms = experiment.evaluation.forms
    assert sorted(last["prompt_form"]) == sorted(forms), f"{directory}: {len(last)} records of {tuning.objective}"
    return float(last["value"].min() if tuning.direction == "minimize" else last["value"].max())


def _clear(directory: Path) -> None:
    """Empty a trial's directory of an earlier attempt, but for what training goes on from."""
    from lensbench.sweep.worker import clear

    directory.mkdir(parents=True, exist_ok=True)
    clear(directory)


def _distribution(among: Range | tuple[Any, ...]) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(among, Range):
        return CategoricalDistribution([str(choice) for choice in among])
    if among.whole:
        return IntDistribution(int(among.low), int(among.high), log=among.log)
    return FloatDistribution(among.low, among.high, log=among.log)


def _sampler(tuning: Tuning, number: int) -> optuna.samplers.BaseSampler:
    # Made anew for each trial: what it proposes must not depend on which process asks, nor on what that did before.
    import warnings

    from optuna.samplers import GPSampler, TPESampler

    random = max(2, min(10, tuning.trials // 3))  # trials before there is anything to learn from
    seed = (tuning.sampler_seed * 100_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both have parts that Optuna calls experimental
        if tuning.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=random)
        return TPESampler(seed=seed, n_startup_trials=random, constant_liar=True)


def _pruner(tuning: Tuning, watched: tuple[int, ...]) -> optuna.pruners.BasePruner:
    import warnings

    from optuna.pruners import NopPruner, SuccessiveHalvingPruner, WilcoxonPruner

    if tuning.pruner == "asha":  # the watched steps double: each is a rung
        return SuccessiveHalvingPruner(min_resource=watched[0], reduction_factor=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WilcoxonPruner(n_startup_steps=2) if tuning.pruner == "wilcoxon" else NopPruner()


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
