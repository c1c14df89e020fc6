"""What tracking costs: seconds to mirror one realistic cell in MLflow on SQLite, and its share of the cell's time.

Command: python benchmarks/tracking.py [--cell-seconds 120]
The aim is below 2 % of a cell's time. A cell here has 2,500 training rows of 4 metrics, 60 records and 3 pictures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lensbench.experiment import Experiment
from lensbench.streams import numpy_stream
from lensbench.sweep.quiet import quiet
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.tracking import mirror_cell, open_tracker

ROWS = 2500
PICTURES = 3


def write_cell(runs: Path, cell: Cell) -> Path:
    """A cell's directory as a finished run leaves it, with made-up numbers."""
    directory = runs / cell.id
    (directory / "pictures").mkdir(parents=True)
    rng = numpy_stream(cell.experiment.seed, "benchmark")
    (directory / "experiment.json").write_text(json.dumps(json.loads(cell.experiment.model_dump_json())))
    columns = ("loss", "gradient_norm", "learning_rate", "images_per_second")
    table = pd.DataFrame({column: rng.random(ROWS) for column in columns})
    table.insert(0, "step", np.arange(1, ROWS + 1))
    table.to_csv(directory / "train.csv", index=False)
    for i in range(PICTURES):
        pixels = rng.integers(0, 256, (512, 1024, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / "pictures" / f"grid-{i}.png")
    origin = dict.fromkeys(("corpus_digest", "captions_digest", "prompts_digest", "judge_digest"), "0" * 64)
    records = pd.DataFrame(
        {"metric": [f"metric-{i}" for i in range(60)], "prompt_form": "short", "value": rng.random(60), "step": ROWS}
    ).assign(cell=cell.id, experiment_hash=cell.experiment.hash(), commit="0" * 12, hardware="cpu", **origin)
    records.to_parquet(directory / "records.parquet")
    return directory


def main() -> None:
    """Print the seconds and the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell-seconds", type=float, default=120.0, help="time of one cell (default: 120)")
    parser.add_argument("--cells", type=int, default=5, help="cells to mirror (default: 5)")
    given = parser.parse_args()
    quiet()
    sweep = Sweep(
        name="benchmark",
        base=Experiment(),
        factors={"captions.set": ("alt",), "seed": tuple(range(given.cells))},
        reference={"captions.set": "alt"},
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        began = time.perf_counter()
        tracker = open_tracker(runs, sweep)
        opening = time.perf_counter() - began
        seconds = []
        for cell in cells(sweep):
            directory = write_cell(runs, cell)
            began = time.perf_counter()
            mirror_cell(tracker, directory, cell.levels)
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        mirror_cell(tracker, directory, cell.levels)
        again = time.perf_counter() - began
        typical = statistics.median(seconds)
        print(f"open (once a run, imports included)  {opening:8.3f} s")
        print(f"mirror one cell (median of {len(seconds)})          {typical:8.3f} s")
        print(f"mirror it again (nothing to do)      {again:8.3f} s")
        share = 100 * typical / given.cell_seconds
        print(f"share of a cell of {given.cell_seconds:g} s           {share:8.2f} %  (aim: below 2 %)")


if __name__ == "__main__":
    main()
