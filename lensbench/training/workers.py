"""The steps of a run in order, made here or ahead of time by other processes, one of which may die.

torch's DataLoader does the work. Three things are its user's to see to. It has a dead worker raise an error in the main
thread wherever that is, in the middle of an optimizer's step too: here a death is found out where the next step is
asked for, within five seconds. Its workers inherit how the run treats signals: here they leave them to the run. And it
hands on a worker's error as a page of text: here it is the error itself.
"""

from __future__ import annotations

import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from lensbench.stopping import STOPPING

MOST_DEATHS = 1  # of data workers in a run, before it ends
DIED = "DataLoader worker (pid"  # how torch's words about a dead worker begin
PROCESSES = "fork"  # what was read is shared with the workers rather than copied; they never touch a GPU

T = TypeVar("T")


class StepLoader(Generic[T]):
    """The items of `steps` from number `start` on, the same whatever `workers` is; 0 makes them in this process.

    Its length is that of all steps: Lightning counts those done before. `waited` is how long the last step was waited
    for, in seconds, and `deaths` how many data workers have died. The first that dies is replaced, the next one ends
    the run: ValueError, saying at which step.
    """

    def __init__(self, steps: Dataset[T], start: int, workers: int) -> None:
        self.steps, self.start, self.workers = steps, start, workers
        self.waited = 0.0
        self.deaths = 0

    def __len__(self) -> int:
        return len(self.steps)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        made = self._from_workers() if self.workers else self._from_here()
        while True:
            began = time.perf_counter()
            step = next(made, None)
            if step is None:
                return
            self.waited = time.perf_counter() - began
            yield step

    def _from_here(self) -> Iterator[T]:
        for number in range(self.start, len(self)):
            yield self.steps[number]

    def _from_workers(self) -> Iterator[T]:
        number, made = self.start, None
        while number < len(self):
            try:
                if made is None:
                    made = self._begin(number)
                step = next(made)
            except RuntimeError as error:
                if not str(error).startswith(DIED):
                    raise
                made = None  # ends the others, with what they have made
                self._count_death(number, error)
                continue
            if isinstance(step, _Failure):
                made = None
                raise step.error.with_traceback(None) from _InWorkerError(step.where)
            number += 1
            yield step

    def _begin(self, number: int) -> Iterator[T | _Failure]:
        """Workers that make the steps from `number` on."""
        loader: DataLoader[T | _Failure] = DataLoader(
            _Caught(self.steps),
            batch_size=None,
            sampler=range(number, len(self)),
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_the_run,
            multiprocessing_context=PROCESSES,
            generator=torch.Generator(),  # which it draws from for its own ends: not the run's
        )
        with _unchanged(signal.SIGCHLD):
            return iter(loader)

    def _count_death(self, number: int, error: RuntimeError) -> None:
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise ValueError(
                f"{self.deaths} data workers have died, the last before step {number + 1}: most likely memory ran out; "
                f"lower training.data_workers, which is {self.workers}, and run again"
            ) from error.with_traceback(None)  # whose frames would keep the other workers alive


@dataclass(frozen=True)
class _Failure:
    """What a worker sends in place of a step it could not make."""

    error: Exception
    where: str  # its traceback


class _InWorkerError(Exception):
    """Stands in a traceback for where a worker's error came from."""

    def __str__(self) -> str:
        return f"in a data worker\n{self.args[0]}"


class _Caught(Dataset[T | _Failure]):
    """Steps, and errors where they cannot be made."""

    def __init__(self, steps: Dataset[T]) -> None:
        self.steps = steps

    def __getitem__(self, number: int) -> T | _Failure:
        try:
            return self.steps[number]
        except Exception as error:
            return _Failure(_sendable(error), traceback.format_exc())


def _sendable(error: Exception) -> Exception:
    """The error, or what it says, where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's own class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _leave_signals_to_the_run(worker: int) -> None:
    # They reach every process of a terminal or a job, and the run ends its workers once it has heeded them. SIGTERM
    # alone ends a worker, as that is how Python ends what is left at its exit. A worker whose run is killed notices.
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _unchanged(number: signal.Signals) -> Iterator[None]:
    """What the block makes of the signal's handler is undone."""
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(number, before)
