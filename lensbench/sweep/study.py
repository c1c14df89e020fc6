"""The Optuna study of a sweep: one trial an attempt, each cell queued exactly once.

The study is the sweep's queue and history (`optuna-dashboard sqlite:///runs/sweeps.db` shows it), never its truth: a
cell's directory decides whether it is complete and, by its claims (lensbench.sweep.claims), who may work on it. The
caller of `start`, `complete` and `fail` holds the cell's claim. A storage that does not answer is waited for.
"""

from __future__ import annotations

import hashlib
import math
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lensbench.locks import file_lock
from lensbench.publishing import first_text
from lensbench.sweep.storage import Patience, add_at_once, address, open_storage, own

if TYPE_CHECKING:
    import optuna

    from lensbench.sweep.sweep import Cell, Sweep

CELLS = "cells"  # attribute of a study: cell id -> number of its first trial, there once every cell is queued


def study_name(sweep: Sweep, cells: list[Cell], runs: Path | None = None) -> str:
    """The sweep's name and a short hash of its cells: a changed sweep is another study, over shared directories.

    `runs` is given where the storage may serve several runs directories.
    """
    digest = hashlib.sha256(" ".join(sorted(cell.id for cell in cells)).encode()).hexdigest()
    name = f"{sweep.name}-{digest[:8]}"
    return name if runs is None else f"{name}-{first_text(runs / '.id', uuid.uuid4().hex[:8])}"


class Study:
    """The study of one sweep, opened or made.

    Raises ValueError when the storage cannot be used.
    """

    def __init__(
        self,
        runs: Path,
        sweep: Sweep,
        cells: list[Cell],
        storage: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        import optuna

        url = address(storage, runs)
        self.lock = runs / "sweeps.lock"
        self.sqlite = url.startswith("sqlite")
        self.cells = {cell.id: cell for cell in cells}
        levels = {dotted: list(dict.fromkeys(cell.levels[dotted] for cell in cells)) for dotted in cells[0].levels}
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            dotted: optuna.distributions.CategoricalDistribution(of) for dotted, of in levels.items()
        }
        self.patiently = Patience(say)
        direction: Literal["minimize", "maximize"] = "minimize" if sweep.base.corpus.kind == "folder" else "maximize"
        with file_lock(self.lock):  # two processes must neither make the tables at once nor queue a cell twice
            self.storage = open_storage(url, say)
            name = study_name(sweep, cells, None if url == own(runs) else runs)
            self.patiently(
                lambda: optuna.create_study(
                    study_name=name, storage=self.storage, direction=direction, load_if_exists=True
                )
            )
            self.id = self.patiently(lambda: self.storage.get_study_id_from_name(name))
            self.numbers = self._queue(cells)

    def _queue(self, cells: list[Cell]) -> dict[str, int]:
        # Whatever stopped an earlier call, the cells that it had not queued are now.
        known = self.patiently(lambda: self.storage.get_study_user_attrs(self.id)).get(CELLS)
        if known is not None:
            return {str(cell_id): int(number) for cell_id, number in known.items()}
        waiting = [self._trial(cell) for cell in cells]
        self.patiently(lambda: add_at_once(self.storage, self.id, waiting))
        numbers: dict[str, int] = {}
        for trial in self._trials():
            numbers.setdefault(trial.user_attrs.get("cell", ""), trial.number)
        for cell in cells:
            if cell.id not in numbers:
                trial_id = self._add(cell)
                numbers[cell.id] = self.patiently(lambda: self.storage.get_trial_number_from_id(trial_id))  # noqa: B023
        self.patiently(lambda: self.storage.set_study_user_attr(self.id, CELLS, numbers))
        return numbers

    def start(self, cell_id: str, attempt: int = 1) -> int:
        """The id of the cell's trial, now running. A trial left running by a dead process is marked failed."""
        from optuna.trial import TrialState

        with self._alone():
            for left in self._trials((TrialState.RUNNING,)):
                if left.user_attrs.get("cell") == cell_id:
                    self._finish(left._trial_id, TrialState.FAIL, reason="interrupted: its process ended")
            trial_id = self._waiting(cell_id)
            self.patiently(lambda: self.storage.set_trial_state_values(trial_id, TrialState.RUNNING))
        for key, value in (("host", socket.gethostname()), ("process", os.getpid()), ("attempt", attempt)):
            self._note(trial_id, key, value)
        return trial_id

    def adopt(self, cell_id: str, score: float) -> None:
        """Make the study agree with a cell whose directory is complete already."""
        from optuna.trial import TrialState

        with self._alone():
            trial_id = self._first(cell_id)
            running = [t._trial_id for t in self._trials((TrialState.RUNNING,)) if t.user_attrs.get("cell") == cell_id]
            if not running:
                found = self.patiently(lambda: self.storage.get_trial(trial_id).state)
                if found in (TrialState.COMPLETE, TrialState.PRUNED):
                    return
                if found == TrialState.FAIL:
                    ended = self._trials((TrialState.COMPLETE, TrialState.PRUNED))
                    if any(trial.user_attrs.get("cell") == cell_id for trial in ended):
                        return
                trial_id = self._waiting(cell_id)
                self.patiently(lambda: self.storage.set_trial_state_values(trial_id, TrialState.RUNNING))
                running = [trial_id]
            self._note(running[0], "found", True)
            self._score(running[0], score)

    def complete(self, trial_id: int, score: float) -> None:
        """A trial gave its score."""
        with self._alone():
            self._score(trial_id, score)

    def fail(self, trial_id: int, reason: str) -> None:
        """A trial ended without records."""
        from optuna.trial import TrialState

        with self._alone():
            self._finish(trial_id, TrialState.FAIL, reason=reason)

    def seconds(self) -> dict[str, float]:
        """How long each cell that was run to its end took: cell id -> seconds."""
        from optuna.trial import TrialState

        out = {}
        for trial in self._trials((TrialState.COMPLETE,)):
            if trial.duration is not None and not trial.user_attrs.get("found"):
                out[trial.user_attrs["cell"]] = trial.duration.total_seconds()
        return out

    def _trials(self, states: Sequence[optuna.trial.TrialState] | None = None) -> list[optuna.trial.FrozenTrial]:
        return self.patiently(lambda: self.storage.get_all_trials(self.id, deepcopy=False, states=states))

    def _first(self, cell_id: str) -> int:
        number = self.numbers[cell_id]
        return self.patiently(lambda: self.storage.get_trial_id_from_study_id_trial_number(self.id, number))

    def _waiting(self, cell_id: str) -> int:
        # A trial of the cell that waits: the one it was queued with, or after a failure another.
        from optuna.trial import TrialState

        first = self._first(cell_id)
        if self.patiently(lambda: self.storage.get_trial(first).state) == TrialState.WAITING:
            return first
        return self._add(self.cells[cell_id])

    def _add(self, cell: Cell) -> int:
        return self.patiently(lambda: self.storage.create_new_trial(self.id, self._trial(cell)))

    def _trial(self, cell: Cell) -> optuna.trial.FrozenTrial:
        import optuna

        return optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=cell.levels,
            distributions=self.distributions,
            user_attrs={"cell": cell.id, "experiment_hash": cell.experiment.hash()},
        )

    def _score(self, trial_id: int, score: float) -> None:
        from optuna.trial import TrialState

        if math.isnan(score):  # Optuna takes no NaN; a cell without a main score is none the less done
            self._finish(trial_id, TrialState.PRUNED)
        else:
            self._finish(trial_id, TrialState.COMPLETE, [score])

    def _finish(
        self, trial_id: int, state: optuna.trial.TrialState, values: Sequence[float] | None = None, reason: str = ""
    ) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        if reason:
            self._note(trial_id, "reason", reason[:500])
        # It may have ended by an earlier attempt at this call whose answer was lost, or by who took the cell away.
        with suppress(UpdateFinishedTrialError):
            self.patiently(lambda: self.storage.set_trial_state_values(trial_id, state, values))

    def _note(self, trial_id: int, key: str, value: object) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            self.patiently(lambda: self.storage.set_trial_user_attr(trial_id, key, value))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # Optuna's changes of state are not atomic on SQLite: two processes may read before either writes.
        if not self.sqlite:
            yield
            return
        with file_lock(self.lock):
            yield
