"""`lensbench score SWEEP.py`: further scores of a sweep's checkpoints, without training a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.experiment import Experiment
    from lensbench.sweep.sweep import Sweep

SHOWN = 3  # cells that an error names


class Further(NamedTuple):
    """What a command adds to an evaluation: metrics, the places of weights, and how many images a metric takes."""

    metrics: str | None
    weights: Mapping[str, str]
    images: Mapping[str, int]


def score_sweep(
    sweep_file: Path,
    wanted: Further,
    runs: Path,
    results: Path,
    corpus: Path | None,
    workers: int,
    console: Console,
) -> bool:
    """Make the evaluations of a sweep that are not made, with what is `wanted`, and report; whether all are there.

    Raises ValueError, one line, before anything is sampled: for cells that are not trained, weights that are not there.
    """
    from lensbench.commands.sweeps import prepared, report_on, work_here
    from lensbench.sweep import claims
    from lensbench.sweep.cell import checkpoints_lacking
    from lensbench.sweep.cellfiles import remove_damaged
    from lensbench.sweep.sweep import cells

    sweep = with_further(prepared(sweep_file, corpus), wanted)
    every = cells(sweep)
    for cell in every:
        directory = runs / cell.id
        if directory.is_dir() and not claims.is_run(directory):
            for line in remove_damaged(directory, [one.experiment for one in cell.evaluations]):
                console.print(f"{cell.id}: {line}", highlight=False, markup=False, soft_wrap=True)
    lacking = [
        cell.id for cell in every if checkpoints_lacking(runs / cell.id, [one.experiment for one in cell.evaluations])
    ]
    if lacking:
        named = ", ".join(lacking[:SHOWN]) + (" and more" if len(lacking) > SHOWN else "")
        raise ValueError(
            f"{len(lacking)} of {len(every)} cells lack a checkpoint that is to be scored ({named}); "
            f"lensbench run {sweep_file} trains them, lensbench score trains nothing"
        )
    failed = not work_here(sweep, runs, console, workers, None, None)
    complete = report_on(sweep, runs, results, None)
    _print_scores(sweep, runs, console)
    if wanted.metrics is not None or wanted.images:
        told = ", ".join(f'"{word}"' for word in sweep.base.evaluation.metrics)
        of = f" and metric_images={dict(sweep.base.evaluation.metric_images)}" if wanted.images else ""
        console.print(
            f"to keep these metrics in later reports, write metrics=({told}){of} in the evaluation of {sweep_file}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return complete and not failed


def _print_scores(sweep: Sweep, runs: Path, console: Console) -> None:
    """Print every score beside GenEval, which the report's own tables on the console leave to its page."""
    from lensbench.report.grid import arrange
    from lensbench.report.tables import scores_table
    from lensbench.report.terminal import print_tables
    from lensbench.sweep.sweep import collect

    grid = arrange(collect(sweep, runs))
    if grid.tasks:
        print_tables(console, [scores_table(grid)])


def with_further(sweep: Sweep, wanted: Further) -> Sweep:
    """The sweep with what is wanted of its evaluation.

    ValueError, one line, for unknown metrics, and where the metrics are a factor of the sweep.
    """
    from lensbench.sweep.sweep import cells

    (first, *_) = cells(sweep)[0].evaluations
    if (wanted.metrics is not None or wanted.images) and "evaluation.metrics" in first.levels:
        option = "--metrics" if wanted.metrics is not None else "--metric-images"
        raise ValueError(f"{option}: evaluation.metrics is a factor of this sweep: add the metrics to its levels")
    return sweep.model_copy(update={"base": further(sweep.base, wanted)})


def further(experiment: Experiment, wanted: Further) -> Experiment:
    """The experiment with what is wanted of its evaluation. ValueError, one line, for unknown metrics and for a number
    of images where it means nothing."""
    from lensbench.scoring.measured import asked, check_beforehand, words_of

    evaluation = experiment.evaluation
    changes: dict[str, object] = {"evaluation.weights": {**evaluation.weights, **wanted.weights}}
    if wanted.metrics is not None or wanted.images:
        before = words_of(experiment)
        words = [] if wanted.metrics is None else [word.strip() for word in wanted.metrics.split(",")]
        every = (*before, *dict.fromkeys(word for word in words if word not in before))
        if stray := [name for name in wanted.images if name not in every]:
            raise ValueError(f"--metric-images {stray[0]}: not among the metrics ({', '.join(every)})")
        changes["evaluation.metrics"] = every
        changes["evaluation.metric_images"] = {**evaluation.metric_images, **wanted.images}
    experiment = experiment.replace(changes)
    asked(experiment)
    check_beforehand(experiment)
    return experiment
