"""`lensbench encode`: texts and images into what the denoiser reads, once for all cells that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.sweeps import CorpusFolder, Runs, with_corpus

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.data.rowstore import Cost
    from lensbench.sweep.encoding import Job, Report


def encode(
    recipe_file: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.py", help="A file that defines a `sweep` or an `experiment`."),
    ],
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one a GPU, or one in all where there is none.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take and write nothing.")] = False,
) -> None:
    """Encode the captions, prompts and images of every cell beforehand, with several processes.

    What is there already stays. Stop it whenever you like: the same command goes on.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet
    from lensbench.sweep.sweep import cells, load_recipe

    sweep = with_corpus(load_recipe(recipe_file), recipe_file, corpus)
    quiet()
    from lensbench.data.rowstore import check_room, free_bytes, shown
    from lensbench.stopping import STOPPING, handled
    from lensbench.sweep import encoding
    from lensbench.sweep.processes import gpus
    from lensbench.sweep.pruning import promise

    console = Console(highlight=False)
    every = cells(sweep)
    experiments = [cell.experiment for cell in every]
    cache = runs / "cache"

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        with handled(STOPPING, stop):
            todo = encoding.jobs(experiments, cache)
            for path in () if dry_run else dict.fromkeys(path for job in todo for path in job.rows.mend()):
                console.print(f"{path} was damaged: what it held is encoded again", soft_wrap=True)
            costs = [job.rows.cost() for job in todo]
            whole = encoding.total(costs)
            _print_costs(console, todo, costs, whole)
            online = sum(experiment.training.features == "online" for experiment in experiments)
            if online:
                console.print(f"{online} of {len(experiments)} cells encode online and read nothing from the disk")
            elif all(job.unit() == "texts" for job in todo):
                console.print("the images are read as pixels, which need no encoding")
            console.print(f"{shown(whole.bytes)} to write, {shown(free_bytes(cache))} free on the disk of {cache}")
            if dry_run:
                return
            check_room(cache, whole.bytes)
            if offline := [cell for cell in every if cell.experiment.training.features != "online"]:
                promise(runs, sweep.name, offline)
            if whole.there < whole.rows:
                with _telling(console, todo) as report:
                    encoding.encode(todo, experiments, cache, workers or max(1, len(gpus())), report)
    except KeyboardInterrupt:
        raise to_go_on(f"stopped; what is finished stays in {cache}") from None
    console.print(f"{whole.rows:,} rows are there, {whole.rows - whole.there:,} of them new")


@contextmanager
def _telling(console: Console, todo: Sequence[Job]) -> Iterator[Report]:
    """A function to tell how far a job is: processes do one after the other, but not all go on in the same moment."""
    from lensbench.commands.counting import counting

    current, most = -1, 0
    with ExitStack() as shown:
        say: Callable[[int, int | None], None]

        def report(number: int, done: int, total: int) -> None:
            nonlocal current, most, say
            if number > current:
                shown.close()
                current, most = number, 0
                say = shown.enter_context(counting(console, todo[number].what, todo[number].unit()))
            if number == current:
                most = max(most, done)
                say(most, total)

        yield report


def _print_costs(console: Console, todo: Sequence[Job], costs: Sequence[Cost], whole: Cost) -> None:
    from rich import box
    from rich.table import Table

    from lensbench.data.rowstore import shown

    table = Table(box=box.SIMPLE_HEAD, show_footer=len(todo) > 1)
    tokens = sum(job.tokens for job in todo)
    table.add_column("what", "all", overflow="fold")
    table.add_column("encoder", no_wrap=True)
    for head, foot in (
        ("rows", f"{whole.rows:,}"),
        ("tokens", f"{tokens:,}"),
        ("there", f"{whole.there:,}"),
        ("to write", shown(whole.bytes)),
    ):
        table.add_column(head, foot, justify="right", no_wrap=True)
    for job, cost in zip(todo, costs, strict=True):
        numbers = (f"{cost.rows:,}", f"{job.tokens:,}", f"{cost.there:,}", shown(cost.bytes))
        table.add_row(job.what, job.encoded_by, *numbers)
    console.print(table)
