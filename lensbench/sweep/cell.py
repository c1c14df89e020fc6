"""One cell: train what is not trained, make each evaluation that is not made.

The directory is the truth (lensbench.sweep.cellfiles): the records of the training, and of each evaluation, are written
last and in one step.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lensbench import ranks
from lensbench.experiment import Evaluation, Experiment
from lensbench.publishing import publish_text
from lensbench.records import RECORDS
from lensbench.sweep import srun
from lensbench.sweep.cell_parts import Report, instruments_of, opened
from lensbench.sweep.cell_scoring import remove_of_other_weights, score_cell
from lensbench.sweep.cell_training import train_cell
from lensbench.sweep.cellfiles import EVALUATIONS, is_evaluated, is_trained
from lensbench.sweep.cost import Counter, counting
from lensbench.sweep.progress import Progress
from lensbench.sweep.provenance import versions
from lensbench.sweep.vitals import telling
from lensbench.training import files
from lensbench.training.milestones import scoring_steps
from lensbench.training.resume import damaged, trained


def run_cell(
    experiment: Experiment,
    directory: Path,
    *,
    cache: Path,
    report: Report,
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Train an experiment and make its evaluations, its own if none are given, in `directory`; what is there stays.

    With training.devices, or in a job of Slurm that gives a cell several, it is run by as many processes; one that
    torchrun or srun started is one of them. Then all encode and train, and the first alone reports, scores and writes.

    Raises ValueError for what the user can mend (a corpus too small, a loss that is no number), OSError for the disk.
    """
    wanted = [experiment.model_copy(update={"evaluation": one}) for one in evaluations] or [experiment]
    if srun.asked():
        srun.run_in_step(experiment, directory, cache=cache, report=report, evaluations=evaluations)
        return
    if ranks.to_start(experiment.training) and checkpoints_lacking(directory, wanted):
        from lensbench.sweep.launch import run_in_processes

        run_in_processes(experiment, directory, cache=cache, report=report, evaluations=evaluations)
        return
    with ranks.joined():
        first = ranks.rank() == 0
        with telling(directory) if first else contextlib.nullcontext(), counting(directory, ranks.rank()) as counter:
            _run_here(experiment, wanted, directory, cache, report if first else lambda progress: None, first, counter)


def checkpoints_lacking(directory: Path, wanted: Sequence[Experiment]) -> list[int]:
    """The steps whose checkpoints the cell must be trained for, rising: all where it is not trained, none where every
    evaluation is made or can be. A checkpoint that is not as training left it must be trained for again."""
    if not is_trained(directory):
        return sorted({step for one in wanted for step in scoring_steps(one)})
    needed = {step for one in wanted if not is_evaluated(directory, one) for step in scoring_steps(one)}
    noted = trained(directory)
    folders = {step: files.checkpoint(directory, step) for step in sorted(needed)}
    lost = damaged(directory, noted, [*folders.values(), directory / files.AMOUNTS]) if noted and needed else []
    if directory / files.AMOUNTS in lost:
        return list(folders)
    return [step for step, folder in folders.items() if folder in lost or not folder.is_dir()]


def _run_here(
    experiment: Experiment,
    wanted: Sequence[Experiment],
    directory: Path,
    cache: Path,
    report: Report,
    first: bool,
    counter: Counter,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    parts = opened(experiment, cache, report)
    # What is there the first process alone says: the others' view of a shared disk may be older.
    to_score, lacking, steps = ranks.told(_left(directory, wanted) if first else ([], [], set()))
    for one in to_score:  # before the training: weights that are missing must not cost a run
        instruments_of(parts.plan(one))
    if lacking:
        if first:
            (directory / RECORDS.file).unlink(missing_ok=True)  # of a training that kept other checkpoints
            told = json.loads(experiment.model_dump_json())
            publish_text(directory / "experiment.json", json.dumps(told, indent=1))
            publish_text(directory / "versions.json", json.dumps(versions(), indent=1))
        train_cell(parts, directory, steps, counter, first=first)
    parts.encoder.unload()
    ranks.leave()
    if not first:
        return
    if lacking:
        for name in remove_of_other_weights(directory):
            line = f"{EVALUATIONS}/{name} was not of these weights: it is made again when it is asked for"
            report(Progress("training", 0, experiment.training.steps, line, lasting=True))
    for one in _left(directory, wanted)[0]:
        score_cell(parts, one, directory, counter)
    shutil.rmtree(directory / files.RESUME, ignore_errors=True)


def _left(directory: Path, wanted: Sequence[Experiment]) -> tuple[list[Experiment], list[int], set[int]]:
    """What is left: evaluations to make, checkpoints that are lacking for them, and those that training is to keep."""
    to_score = [one for one in wanted if not is_evaluated(directory, one)]
    steps = {step for one in wanted for step in scoring_steps(one)} | files.kept_steps(directory)
    return to_score, checkpoints_lacking(directory, wanted), steps
