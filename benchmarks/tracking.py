"""What tracking costs a cell: what training itself does for it, what the sender's process computes, and an outage.

Command: python benchmarks/tracking.py [--cell-seconds 120] [--turns 3]
The aim is below 2 % of a cell's time. A cell here has 2,500 told steps of 8 numbers, 60 records, 2 checkpoints and 3
pictures; the cells that are trained are of the demo's kind, but short, with tracking off, on SQLite, and to a server
that takes connections and never answers.
"""

from __future__ import annotations

import argparse
import io
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console

from lensbench import spool
from lensbench.experiment import Evaluation, Experiment
from lensbench.streams import numpy_stream
from lensbench.sweep.cellfiles import evaluation_folder, write_cell
from lensbench.sweep.quiet import quiet
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.sweep.vitals import telling
from lensbench.tracking import starter, sync
from lensbench.training.curve import Row
from lensbench.training.live import SECONDS, numbers

STEPS = 2500
PICTURES = 3
RATE = 50  # steps a second: a fast training, for which telling costs the most
SMALL = {
    "corpus.size_px": 16,
    "images": 256,
    "model.depth": 2,
    "training.steps": 500,
    "evaluation.prompts_per_task": 2,
    "evaluation.images_per_task": 4,
    "evaluation.scene_images": 16,
    "evaluation.validation_images": 32,
    "training.watch_images": 0,
    "evaluation.sampling_steps": 4,
}


def sweep_of(base: Experiment, seeds: int) -> Sweep:
    """One arm, so many seeds."""
    factors = {"captions.set": ("alt",), "seed": tuple(range(seeds))}
    return Sweep(name="benchmark", base=base, factors=factors, reference={"captions.set": "alt"})


def finish_cell(runs: Path, cell: Cell) -> None:
    """A cell's directory as a finished run leaves it, with made-up numbers."""
    directory = runs / cell.id
    rng = numpy_stream(cell.experiment.seed, "benchmark")
    with telling(directory):
        (directory / "experiment.json").write_text(cell.experiment.model_dump_json())
        lines = [
            {"step": n, "train": dict(zip(spool.CURVES, rng.random(8).tolist(), strict=True))} for n in range(STEPS)
        ]
        spool.append(directory, lines)
        images = evaluation_folder(directory, cell.experiment) / "images"
        images.mkdir(parents=True)
        for i in range(PICTURES):
            pixels = rng.integers(0, 256, (512, 1024, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"grid-{i}.png")
        for step in (STEPS // 2, STEPS):
            folder = directory / "checkpoints" / f"step-{step:06d}"
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(rng.bytes(8_000_000))
        origin = dict.fromkeys(("corpus_digest", "captions_digest", "prompts_digest", "judge_digest"), "0" * 64)
        scores = {"metric": [f"metric-{i}" for i in range(60)], "prompt_form": "short", "value": rng.random(60)}
        records = pd.DataFrame(scores | {"step": STEPS}).assign(commit="0" * 12, hardware="cpu", **origin)
        write_cell(directory, cell.experiment, records, pd.DataFrame())


def telling_seconds(runs: Path) -> float:
    """Seconds that training spends to tell what SECONDS of it gave, at RATE steps a second."""
    loss, quartiles = torch.tensor(0.5), torch.full((4,), 0.5)
    rows = [
        Row(n, loss, 0.1, loss, n / RATE, 0.0, False, 32, 1000, 1.0, 1e9, 1, quartiles)
        for n in range(int(RATE * SECONDS))
    ]
    took = []
    for _ in range(20):
        began = time.perf_counter()
        spool.append(runs, [{"t": 0, "step": row.step, "train": numbers(row)} for row in rows])
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def computed() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def train(folder: Path, tracking: str, seed: int) -> float:
    """Seconds that a real cell takes, the sender's start and end not counted."""
    from lensbench.sweep.cell import run_cell
    from lensbench.sweep.session import work

    took = []

    def timed(
        experiment: Experiment,
        directory: Path,
        *,
        cache: Path,
        report: Callable[..., None],
        evaluations: Sequence[Evaluation] = (),
    ) -> None:
        began = time.perf_counter()
        run_cell(experiment, directory, cache=folder.parent / "cache", report=report, evaluations=evaluations)
        took.append(time.perf_counter() - began)

    folder.mkdir()
    sweep = sweep_of(Experiment().replace(SMALL | {"seed": seed}), 1)
    start = starter(tracking, folder)
    work(sweep, folder, console=Console(file=io.StringIO()), run_cell=timed, open_mirror=start)
    return took[0]


def main() -> None:
    """Print the seconds and the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell-seconds", type=float, default=120.0, help="time of one cell (default: 120)")
    parser.add_argument("--cells", type=int, default=5, help="cells to show (default: 5)")
    parser.add_argument("--turns", type=int, default=3, help="real cells trained in each way (default: 3)")
    given = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = telling_seconds(folder)
        print(f"training: telling {int(RATE * SECONDS)} steps                    {told:8.4f} s")
        print(f"  share of the {SECONDS:g} s that they take at {RATE} a second     {100 * told / SECONDS:8.2f} %")
        runs = folder / "runs"
        runs.mkdir()
        uri = f"sqlite:///{runs}/mlflow.db"
        began = computed()
        sync(runs, sweep_of(Experiment(), given.cells), uri)
        print(f"sender: start, imports and a new store included   {computed() - began:8.3f} s of a core, once a sweep")
        for cell in cells(sweep_of(Experiment(), given.cells)):
            finish_cell(runs, cell)
        began = computed()
        sync(runs, sweep_of(Experiment(), given.cells), uri)
        each = (computed() - began) / given.cells
        print(f"sender: one cell                                  {each:8.3f} s of a core")
        share = 100 * each / given.cell_seconds
        print(f"  share of a cell of {given.cell_seconds:g} s                         {share:8.2f} %  (aim: below 2 %)")
        began = time.perf_counter()
        sync(runs, sweep_of(Experiment(), given.cells), uri)
        print(f"track sync with nothing to do                     {time.perf_counter() - began:8.3f} s")
        if not given.turns:
            return
        took: dict[str, list[float]] = {"none": [], "SQLite": [], "a silent server": []}
        train(folder / "first", "none", 99)  # what is done once: features, imports
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(100)
            ways = {"none": "none", "SQLite": uri, "a silent server": f"http://127.0.0.1:{silent.getsockname()[1]}"}
            for turn in range(given.turns):
                for way, address in ways.items():
                    took[way].append(train(folder / f"{turn}-{way}", address, turn))
        plain = statistics.median(took["none"])
        for way, seconds in took.items():
            median = statistics.median(seconds)
            print(f"a real cell, tracking: {way:<16}           {median:8.3f} s, {median / plain:.3f} of none")


if __name__ == "__main__":
    main()
