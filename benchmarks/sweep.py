"""What running a sweep costs beside training and scoring, and how large a sweep may be.

Command: python benchmarks/sweep.py [--steps 400] [--cells 10000] [--skip-training]
Overhead: cells of the demo's kind, run by `lensbench.sweep.session.work` as `lensbench work` runs them. What the
trainer and the scorer take is timed within, as a plain loop would call them with everything at hand; the rest of the
time is overhead: the queue and its claims, reading features, identity and provenance, costs, records, pictures. The
first cell, which encodes and warms up for all, is left out. The goal is below 3 %.
Queue: the same with cells that do nothing, on each kind of storage.
Size: enumerating, looking at and queueing a sweep of many cells, none begun or all complete. The goal for planning and
status is 2 s for 10,000 cells.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the recipe of the demo
from experiments.shapes import experiment as shapes
from lensbench.experiment import Evaluation, Experiment
from lensbench.records import OUTCOMES, RECORDS
from lensbench.sweep import cell as cell_module
from lensbench.sweep import cell_scoring, cell_training, storage
from lensbench.sweep.cellfiles import EVALUATIONS, write_cell
from lensbench.sweep.progress import Report
from lensbench.sweep.provenance import hardware
from lensbench.sweep.quiet import quiet
from lensbench.sweep.session import work
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Sweep, cells

LENSBENCH = str(Path(sys.executable).with_name("lensbench"))
SIZED = """from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="large",
    base=Experiment(),
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (1, 2, 3), "seed": tuple(range(SEEDS))},
    reference={"captions.set": "alt"},
)
"""


def sweep_of(base: Experiment, seeds: int, name: str) -> Sweep:
    """One arm, so many seeds."""
    factors = {"captions.set": ("detailed",), "seed": tuple(range(seeds))}
    return Sweep(name=name, base=base, factors=factors, reference={"captions.set": "detailed"})


@contextmanager
def timed(module: ModuleType, name: str, into: list[float]) -> Iterator[None]:
    """What a module's function of this name takes is added to the list."""
    original: Callable[..., Any] = getattr(module, name)

    def timing(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            into.append(time.perf_counter() - began)

    setattr(module, name, timing)
    try:
        yield
    finally:
        setattr(module, name, original)


def overhead(steps: int) -> None:
    """Print the share of a real cell's time that is neither training nor scoring."""
    sweep = sweep_of(shapes.replace({"training.steps": steps}), 3, "overhead")
    trained: list[float] = []
    checkpoints: list[float] = []  # of every cell as many
    ends: list[float] = []
    train, score = timed(cell_training, "train", trained), timed(cell_scoring, "evaluate", checkpoints)
    with tempfile.TemporaryDirectory() as name, train, score:

        class Ends(io.StringIO):
            def write(self, text: str) -> int:
                if ": geneval" in text:
                    ends.append(time.perf_counter())
                return len(text)

        work(sweep, Path(name), console=Console(file=Ends(), width=200), run_cell=cell_module.run_cell)
    each = len(checkpoints) // len(trained)
    scored = [sum(checkpoints[i : i + each]) for i in range(0, len(checkpoints), each)]
    whole = [after - before for before, after in itertools.pairwise(ends)]
    rest = [all_of_it - t - s for all_of_it, t, s in zip(whole, trained[1:], scored[1:], strict=True)]
    cell, beside = statistics.median(whole), statistics.median(rest)
    print(
        f"a cell of {steps:,} steps: {cell:.1f} s, of which training and scoring {cell - beside:.1f} s; the rest "
        f"{beside:.2f} s, {beside / cell:.1%} (goal 3 %)"
    )
    full = shapes.training.steps
    longer = (cell - beside - statistics.median(scored[1:])) * full / steps + statistics.median(scored[1:]) + beside
    print(f"in a cell of {full:,} steps, as the demo's, about {longer:.0f} s long, that is {beside / longer:.1%}")


def nothing(
    experiment: Experiment,
    directory: Path,
    *,
    cache: Path,
    report: Report,
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """A cell's records and nothing else."""
    texts = {column.name: "" for schema in (RECORDS, OUTCOMES) for column in schema.columns if column.content == "text"}
    told = ("evaluation_hash", "held_out_digest")  # by write_cell
    row = {name: texts.get(name, 0) for name in RECORDS.in_cell if name not in told} | {"n": 1}
    records = pd.DataFrame([row | {"metric": "geneval"}, row | {"metric": "cell_seconds"}])
    outcome = {name: texts.get(name, 0) for name in OUTCOMES.in_cell} | {"metric": "geneval"}
    write_cell(directory, experiment, records, pd.DataFrame([outcome]))


def queue(kinds: dict[str, str]) -> None:
    """Print what the queue itself takes for a cell."""
    sweep = sweep_of(Experiment(), 100, "queue")
    with tempfile.TemporaryDirectory() as plain:
        began = time.perf_counter()
        for cell in cells(sweep):
            directory = Path(plain) / cell.id
            directory.mkdir()
            nothing(cell.experiment, directory, cache=Path(plain), report=lambda progress: None)
        loop = time.perf_counter() - began
    for kind, url in kinds.items():
        with tempfile.TemporaryDirectory() as name:
            address = url.replace("RUNS", name) or None
            Study(Path(name), sweep, cells(sweep), address)
            began = time.perf_counter()
            work(sweep, Path(name), console=Console(file=io.StringIO()), run_cell=nothing, storage=address)
            took = time.perf_counter() - began - loop
        print(f"queue and claims, {kind}: {1000 * took / 100:.0f} ms a cell")


def size(many: int) -> None:
    """Print how long a large sweep takes to enumerate, to look at and to queue."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "large.py").write_text(SIZED.replace("SEEDS", str(-(-many // 9))))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}

        def command(*words: str) -> float:
            began = time.perf_counter()
            subprocess.run([LENSBENCH, *words], cwd=folder, check=True, capture_output=True, env=environment)
            return time.perf_counter() - began

        scope: dict[str, Any] = {}
        began = time.perf_counter()
        exec((folder / "large.py").read_text(), scope)
        every = cells(scope["sweep"])
        print(f"{len(every):,} cells: enumerated and hashed in {time.perf_counter() - began:.2f} s")
        print(f"lensbench status, none begun: {command('status', 'large.py'):.2f} s (goal 2 s)")
        print(f"lensbench plan: {command('plan', 'large.py'):.2f} s (goal 2 s)")
        (folder / "runs" / every[0].id).mkdir(parents=True)
        first = folder / "runs" / every[0].id
        nothing(every[0].experiment, first, cache=folder, report=lambda progress: None)
        evaluation = f"{EVALUATIONS}/{every[0].experiment.evaluation_id()}"
        for cell in every[1:]:
            (folder / "runs" / cell.id / evaluation).mkdir(parents=True)
            for records in ("records.parquet", f"{evaluation}/records.parquet"):
                os.link(first / records, folder / "runs" / cell.id / records)
        print(f"lensbench status, all complete: {command('status', 'large.py'):.2f} s (goal 2 s)")
        shutil.rmtree(folder / "runs")
        (folder / "runs").mkdir()
        for kind, url in (("SQLite", None), ("journal", f"journal:{name}/journal")):
            began = time.perf_counter()
            Study(folder / "runs", scope["sweep"], every, url)
            print(f"queueing all in {kind}, once: {time.perf_counter() - began:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--skip-training", action="store_true")
    arguments = parser.parse_args()
    quiet()
    print(f"# {hardware()}, torch {torch.__version__}")
    kinds = {"SQLite": "", "journal": "journal:RUNS/journal"}
    if given := os.environ.pop(storage.VARIABLE, ""):
        kinds["the server of LENSBENCH_STORAGE"] = given
    queue(kinds)
    size(arguments.cells)
    if not arguments.skip_training:
        overhead(arguments.steps)


if __name__ == "__main__":
    main()
