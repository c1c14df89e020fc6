"""`lensbench score CELL`: what a trained cell scores, by the evaluator of the sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from lensbench.commands.score_sweep import Further
    from lensbench.experiment import Experiment
    from lensbench.report.table import Table


def score_cell(directory: Path, wanted: Further, console: Console) -> None:
    """Print the scores of a cell's evaluation, with what is `wanted`; what is not measured yet is measured now.

    Nothing is trained. Raises ValueError, one line, for a cell that is not trained, that another process works on, or
    whose evaluation was made before evaluations had folders of their own.
    """
    from pydantic import ValidationError

    from lensbench.commands.score_sweep import further
    from lensbench.experiment import Experiment, one_line
    from lensbench.report.terminal import print_tables, say
    from lensbench.sweep import claims
    from lensbench.sweep.cell import checkpoints_lacking
    from lensbench.sweep.cellfiles import evaluation_folder, is_evaluated, is_trained, read_cell, remove_damaged

    directory = directory.resolve()  # "." has no parent
    try:
        experiment = Experiment.stored((directory / "experiment.json").read_text())
    except ValidationError as error:
        told = f"its experiment.json is of another version ({one_line(error)})"
        raise ValueError(f"{directory}: {told}; lensbench run trains the cell anew") from None
    experiment = further(experiment, wanted)
    if not claims.is_run(directory):
        for line in remove_damaged(directory, [experiment]):
            say(console, line, "yellow")
    if not is_trained(directory):
        raise ValueError(f"{directory}: not trained to its end; lensbench run or train goes on with it")
    if not is_evaluated(directory, experiment):
        if lacking := checkpoints_lacking(directory, [experiment]):
            raise ValueError(f"{directory}: no checkpoint of step {lacking[0]}; lensbench run trains the cell for it")
        _make(experiment, directory, console)
    records, outcomes = read_cell(directory, experiment)
    print_tables(console, [table(str(directory), records, outcomes)])
    say(console, f"images, outcomes and records: {evaluation_folder(directory, experiment)}")


def _make(experiment: Experiment, directory: Path, console: Console) -> None:
    """Make the evaluation, holding the cell's claim as a worker does, and its lock as lensbench train does."""
    from lensbench.commands.counting import counting
    from lensbench.locks import file_lock
    from lensbench.sweep import claims
    from lensbench.sweep.cell import run_cell
    from lensbench.sweep.progress import Progress

    with file_lock(directory / ".lock", wait=False) as free:
        claim = claims.take_free(directory) if free else None
        if claim is None:
            raise ValueError(f"{directory}: another process works on this cell; wait for it, or see lensbench status")
        how: claims.End = "stopped"
        try:
            with counting(console, "scoring") as say, claims.beating(claim, claims.Heart()):

                def report(progress: Progress) -> None:
                    say(progress.done, progress.total)

                cache = directory.parent / "cache"
                run_cell(experiment, claim.directory, cache=cache, report=report, evaluations=[experiment.evaluation])
            how = "complete"
        finally:
            claim.end(how)


def table(title: str, records: pd.DataFrame, outcomes: pd.DataFrame) -> Table:
    """Every score of the last step, with its interval, its chance and what made it."""
    from math import isnan

    from lensbench.metrics import metric, ordered
    from lensbench.report.chance import chance_cell, chance_note, chance_of_score, with_chance
    from lensbench.report.table import DASH, Cell, Column, Row, Table, bounds, number
    from lensbench.scoring.protocol import protocol_line

    for name, absent in (("floor", float("nan")), ("protocol", "")):  # of results frozen before they were recorded
        records = records if name in records else records.assign(**{name: absent})
    records = records.assign(protocol=records["protocol"].fillna(""))
    scores = [name for name in ordered(records["metric"].unique()) if metric(name).is_score]
    rows, notes = [], []
    for name in scores:
        of, mine = metric(name), records[records["metric"] == name]
        mine = mine[mine["step"] == mine["step"].max()]
        for opens, row in enumerate(mine.itertuples()):
            value, low, high, floor = (of.factor * float(x) for x in (row.value, row.low, row.high, row.floor))
            by_chance = chance_of_score(of, outcomes, str(row.prompt_form), int(row.step))
            cells = (
                Cell(of.titled, name),
                Cell(str(row.prompt_form)),
                with_chance(Cell(number(value, of.digits), float(row.value)), by_chance, of),
                Cell(bounds(low, high, of.digits) or DASH, float(row.low)),
                Cell(f"{int(row.n):,}", int(row.n)),
                Cell(DASH if isnan(floor) else number(floor, of.digits), float(row.floor)),
                chance_cell(by_chance, of),
            )
            rows.append(Row(cells, opens=not opens))
        for protocol, told in () if of.variant_of else mine[mine["protocol"] != ""].groupby("protocol", sort=False):
            forms = ", ".join(sorted(set(told["prompt_form"])))
            images = sorted({int(n) for n in told["n"]})
            floors = sorted({float(x) for x in told["floor"].dropna()})
            notes.append(protocol_line(of, str(protocol), images, forms, floors))
    columns = [
        Column("metric", "metric", "metric", label=True),
        Column("form", "prompts", "prompts", label=True),
        Column("value", "value", "value"),
        Column("interval", "95 % interval", "interval"),
        Column("images", "images", "n"),
        Column("floor", "real-real floor", "floor"),
        Column("chance", "chance", "chance"),
    ]
    told = chance_note(cell for row in rows for cell in row.cells)
    if not told:  # neither GenEval nor boxes of it
        del columns[-1]
        rows = [Row(row.cells[:-1], row.opens) for row in rows]
    notes = ["Intervals over prompts: sampling only, of one trained model.", *filter(None, [told]), *notes]
    return Table("scores", title, tuple(columns), tuple(rows), tuple(notes), filed=False)
