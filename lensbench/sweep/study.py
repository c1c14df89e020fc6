"""The Optuna study of a sweep: one trial an attempt, each cell queued exactly once.

The study is the sweep's queue and history (`optuna-dashboard sqlite:///runs/sweeps.db` shows it), never its truth: a
cell's directory decides whether it is complete. Every change is made under one file lock, because Optuna's own
`enqueue_trial(skip_if_exists=True)` may queue a cell twice when two processes start at once.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lensbench.locks import file_lock

if TYPE_CHECKING:
    import optuna

    from lensbench.sweep.sweep import Cell, Sweep

DATABASE = "sweeps.db"


def study_name(sweep: Sweep, cells: list[Cell]) -> str:
    """The sweep's name and a short hash of its cells: a changed sweep is another study, over shared directories."""
    digest = hashlib.sha256(" ".join(sorted(cell.id for cell in cells)).encode()).hexdigest()
    return f"{sweep.name}-{digest[:8]}"


class Study:
    """The study of one sweep, opened or made. `start` and `adopt` ask that the caller holds the cell's lock."""

    def __init__(self, runs: Path, sweep: Sweep, cells: list[Cell]) -> None:
        import optuna
        import sqlalchemy

        self.lock = runs / "sweeps.lock"
        self.cells = {cell.id: cell for cell in cells}
        self.levels = {dotted: list(dict.fromkeys(cell.levels[dotted] for cell in cells)) for dotted in cells[0].levels}
        url = sqlalchemy.URL.create("sqlite", database=str(runs / DATABASE)).render_as_string()
        direction: Literal["minimize", "maximize"] = "minimize" if sweep.base.corpus.kind == "folder" else "maximize"
        with file_lock(self.lock):  # two processes must not make the tables at once
            # a busy database is waited for: a sweep's few writes are never worth an error
            self.storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            self.study = optuna.create_study(
                study_name=study_name(sweep, cells), storage=self.storage, direction=direction, load_if_exists=True
            )
            self.study_id = self.storage.get_study_id_from_name(self.study.study_name)
            queued = {trial.user_attrs.get("cell") for trial in self.study.get_trials(deepcopy=False)}
            for cell in cells:
                if cell.id not in queued:
                    self._add(cell)

    def start(self, cell_id: str) -> int:
        """The number of the cell's trial, now running. A trial left running by a dead process is marked failed."""
        from optuna.trial import TrialState

        with file_lock(self.lock):
            for trial in self._trials(cell_id):
                if trial.state == TrialState.RUNNING:
                    self._fail(trial.number, "interrupted: its process ended")
            waiting = [t.number for t in self._trials(cell_id) if t.state == TrialState.WAITING]
            if not waiting:
                self._add(self.cells[cell_id])
                waiting = [t.number for t in self._trials(cell_id) if t.state == TrialState.WAITING]
            return self._run(waiting[0])

    def adopt(self, cell_id: str, score: float) -> None:
        """Make the study agree with a cell whose directory is complete already."""
        from optuna.trial import TrialState

        with file_lock(self.lock):
            trials = self._trials(cell_id)
            if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
                return
            running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
            waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
            if not running and not waiting:
                self._add(self.cells[cell_id])
                waiting = [t.number for t in self._trials(cell_id) if t.state == TrialState.WAITING]
            number = running[0] if running else self._run(waiting[0])
            self.storage.set_trial_user_attr(self._trial_id(number), "found", True)
            self._tell(number, score)

    def complete(self, number: int, score: float) -> None:
        """A trial gave its score."""
        with file_lock(self.lock):
            self._tell(number, score)

    def fail(self, number: int, reason: str) -> None:
        """A trial ended without records."""
        with file_lock(self.lock):
            self._fail(number, reason)

    def seconds(self) -> dict[str, float]:
        """How long each cell that was run to its end took: cell id -> seconds."""
        from optuna.trial import TrialState

        out = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.duration is not None and not trial.user_attrs.get("found"):
                out[trial.user_attrs["cell"]] = trial.duration.total_seconds()
        return out

    def _trials(self, cell_id: str) -> list[optuna.trial.FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if t.user_attrs.get("cell") == cell_id]

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def _add(self, cell: Cell) -> None:
        import optuna

        distributions = {
            dotted: optuna.distributions.CategoricalDistribution(levels) for dotted, levels in self.levels.items()
        }
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=cell.levels,
            distributions=dict(distributions),
            user_attrs={"cell": cell.id, "experiment_hash": cell.experiment.hash()},
        )
        self.study.add_trial(trial)

    def _run(self, number: int) -> int:
        from optuna.trial import TrialState

        started = self.storage.set_trial_state_values(self._trial_id(number), TrialState.RUNNING)
        assert started, f"trial {number} was not waiting although its cell is locked"
        return number

    def _tell(self, number: int, score: float) -> None:
        from optuna.trial import TrialState

        if math.isnan(score):  # Optuna takes no NaN; a cell without a main score is none the less done
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, score)

    def _fail(self, number: int, reason: str) -> None:
        from optuna.trial import TrialState

        self.storage.set_trial_user_attr(self._trial_id(number), "reason", reason[:500])
        self.study.tell(number, state=TrialState.FAIL)
