"""`lensbench train`: one experiment in a directory of its own, by one process or by several."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.commands.sweeps import CorpusFolder, with_corpus

if TYPE_CHECKING:
    from lensbench.sweep.progress import Report
    from lensbench.sweep.sweep import Cell


def train(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE.py", help="A file that defines an `experiment`.")],
    out: Annotated[Path, typer.Option(help="Directory of the run; what it encodes goes to a cache beside it.")],
    corpus: CorpusFolder = None,
    devices: Annotated[
        int, typer.Option(min=0, help="Processes that train together here, one a GPU; 0: as training.devices says.")
    ] = 0,
) -> None:
    """Train and score one experiment.

    Stop it whenever you like: the same command goes on where it stopped. Under torchrun or srun every process runs it.
    """
    from lensbench import ranks
    from lensbench.sweep.quiet import quiet

    quiet()
    with ExitStack() as stack:
        try:
            if ranks.place() is not None:
                stack.enter_context(ranks.joined())
            _train(recipe_file, out, corpus, devices)
        except (ValueError, OSError):
            if not ranks.first_to_fail():
                raise typer.Exit(2) from None  # another process has said why
            raise


def _train(recipe_file: Path, out: Path, corpus: Path | None, devices: int) -> None:
    from rich.console import Console

    from lensbench import ranks
    from lensbench.locks import file_lock
    from lensbench.stopping import STOPPING, handled
    from lensbench.sweep.cellfiles import is_complete, remove_damaged
    from lensbench.sweep.progress import board, weight
    from lensbench.sweep.worker import check_writable

    cell = _the_cell(recipe_file, corpus, devices)
    first = ranks.rank() == 0
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with ExitStack() as stack:
            stack.enter_context(handled(STOPPING, stop))
            if not first:
                _run(cell, out, lambda progress: None)
                return
            check_writable(out)
            if not stack.enter_context(file_lock(out / ".lock", wait=False)):
                raise ValueError(f"{out}: another process trains there")
            _refuse_another(cell, out)
            console = Console(highlight=False)
            for line in remove_damaged(out, [cell.experiment]):
                console.print(line, soft_wrap=True)
            if not is_complete(out, cell):
                shown = stack.enter_context(board(console, {cell.id: weight(cell.experiment)}, 1))
                (lane,) = shown.lanes
                lane.begin(cell)
                began = time.monotonic()
                _run(cell, out, lane.report)
                lane.end(_outcome(cell, out), cell.id, time.monotonic() - began)
            else:
                console.print(f"{_outcome(cell, out)}; it is complete: nothing to do", soft_wrap=True)
    except (KeyboardInterrupt, SystemExit):
        number = received[0] if received else signal.SIGTERM
        if first:
            said = f"stopped by {signal.Signals(number).name}; what is trained stays in {out}"
            print(f"lensbench: {said}; the same command goes on", file=sys.stderr)
        raise typer.Exit(128 + number) from None


def _run(cell: Cell, out: Path, report: Report) -> None:
    from lensbench import ranks

    cache = out.resolve().parent / "cache"
    if ranks.to_start(cell.experiment.training):  # without torch in this process
        from lensbench.sweep.launch import run_in_processes

        run_in_processes(cell.experiment, out, cache=cache, report=report)
        return
    from lensbench.sweep.cell import run_cell

    run_cell(cell.experiment, out, cache=cache, report=report)


def _the_cell(recipe_file: Path, corpus: Path | None, devices: int) -> Cell:
    from lensbench.sweep.sweep import Cell, cells, load_recipe

    if not recipe_file.is_file():
        raise ValueError(f"{recipe_file}: no such file; give the path of a Python file that defines `experiment`")
    found = cells(with_corpus(load_recipe(recipe_file), recipe_file, corpus))
    if len(found) > 1:
        raise ValueError(f"{recipe_file}: a sweep of {len(found)} cells, which lensbench run trains")
    experiment = found[0].experiment
    if devices:
        experiment = experiment.replace({"training.devices": devices})
    return Cell(experiment.cell_id(), {experiment.name or recipe_file.stem: experiment.seed}, experiment)


def _refuse_another(cell: Cell, out: Path) -> None:
    from lensbench.experiment import Experiment
    from lensbench.records import RECORDS
    from lensbench.training import files

    if not any((out / name).exists() for name in (RECORDS.file, *files.ALL)):
        return  # a run that came to nothing, such as one whose recipe was mended since
    try:
        there = Experiment.stored((out / "experiment.json").read_text()).cell_id()
    except (OSError, ValueError):
        return
    if there != cell.id:
        raise ValueError(f"{out} is the directory of another experiment ({there}; this is {cell.id}): choose another")


def _outcome(cell: Cell, out: Path) -> str:
    from lensbench.sweep.cellfiles import main_score, read_records

    metric, score = main_score(read_records(out, cell.experiment))
    return f"{metric} {score:.3f}; records, checkpoints and pictures are in {out}"
