"""How long the tables and the page of a large sweep take, and how much memory.

Command: python benchmarks/report.py [--scales 400] [--judged 4]
A sweep of five arms, `--scales` scales and five training seeds (400 scales are 10,000 cells), 70 records a cell. The
single judged images, with boxes and pictures, are there for the last `--judged` scales (100 cells by default, 24,000
images): intervals over prompts are computed for those alone, elsewhere a number's interval is that of its seed. A table
of bootstrap intervals for every cell costs what benchmarks/intervals.py says, times the cells.
Goal: tables and page of 10,000 cells in 10 s and 1 GB.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from lensbench.report import render
from lensbench.report.grid import TASKS, arrange
from lensbench.report.headline import headline
from lensbench.report.page.write import write_page
from lensbench.report.tables import tables
from lensbench.sweep.provenance import hardware
from lensbench.sweep.sweep import Results

ARMS = ("alt", "brief", "dose", "detailed", "0.5*alt+0.5*detailed")
FORMS = ("short", "detailed")
SEEDS = (0, 1, 2, 3, 4)
PROMPTS, SAMPLES, SIDE = 20, 1, 24
FACTS = ("train_seconds", "cell_seconds", "training_images", "dropped_images", "caption_tokens", "truncated_captions")
STEPS = (250, 500, 750, 1000)


def results_of(scales: int, judged: int, runs: Path) -> Results:
    """A simulated sweep, with pictures of blots in `runs`."""
    images = [2**i for i in range(8, 28)][: max(1, scales // 20)]
    depths = list(range(2, 2 + -(-scales // len(images))))
    places = [*product(images, depths)][:scales]
    cells = pd.DataFrame(
        [(arm, *place, seed) for place, arm, seed in product(places, ARMS, SEEDS)],
        columns=["captions.set", "images", "model.depth", "seed"],
    )
    cells.insert(0, "cell", [f"{i:012x}" for i in range(len(cells))])
    scored = [f"geneval.{task}" for task in TASKS] + ["geneval"]
    kinds = [(metric, form, step) for metric in scored for form in FORMS for step in STEPS]
    kinds += [("fd_shapes", form, STEPS[-1]) for form in FORMS] + [(fact, "", STEPS[-1]) for fact in FACTS]
    kinds += [("validation_loss", form, step) for form in FORMS for step in STEPS[-3:]]
    told = pd.DataFrame(kinds, columns=["metric", "prompt_form", "step"])
    rng = np.random.default_rng(0)
    records = cells.merge(told, how="cross").assign(sweep="large", n=240, judge_digest="j" * 64, commit="c" * 12)
    value = rng.random(len(records))
    records = records.assign(value=value, low=value - 0.02, high=value + 0.02, hardware="one GPU", experiment_hash="e")
    records = records.assign(samples_seen=64 * records["step"], train_flops=1e9 * records["step"])
    last = cells.tail(judged * len(ARMS) * len(SEEDS))
    asked = pd.DataFrame(
        [
            (task, 100 * t + i, sample)
            for (t, task), i, sample in product(enumerate(TASKS), range(PROMPTS), range(SAMPLES))
        ],
        columns=["task", "prompt_index", "sample"],
    ).merge(pd.DataFrame({"prompt_form": FORMS}), how="cross")
    outcomes = last.merge(asked, how="cross").assign(sweep="large", step=STEPS[-1], metric="geneval")
    right = rng.random(len(outcomes)) < 0.5
    outcomes = outcomes.assign(
        value=right.astype(float),
        prompt=outcomes["prompt_form"] + " prompt " + outcomes["prompt_index"].astype(str),
        reason=np.where(right, "", "0 of 1 circle found"),
        boxes='[["circle","red",2.13,2.5,10.2,10,0.9713],["ring","blue",8,8,15,15,0.5]]',
    )
    for cell in last["cell"]:
        (runs / cell / "pictures").mkdir(parents=True)
        for form in FORMS:
            blots = rng.integers(20, 230, (len(asked) // len(FORMS), SIDE // 6, SIDE // 6, 3)).repeat(6, 1).repeat(6, 2)
            drawn = (blots + rng.integers(-8, 9, blots.shape)).astype(np.uint8)
            np.savez(runs / cell / "pictures" / f"geneval-{form}.npz", images=drawn)
    factors = {
        name: list(dict.fromkeys(cells[name].tolist())) for name in ("captions.set", "images", "model.depth", "seed")
    }
    return Results("large", factors, {"captions.set": "alt"}, records, outcomes, missing=[], notes=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=int, default=400)
    parser.add_argument("--judged", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, out = Path(folder) / "runs", Path(folder)
        results = results_of(options.scales, options.judged, runs)
        cells, before = results.records["cell"].nunique(), _peak()
        print(
            f"{hardware()}; {cells:,} cells, {len(results.records):,} records, {len(results.outcomes):,} judged images"
        )
        took: dict[str, float] = {}
        began = time.perf_counter()
        grid = arrange(results)
        took["arranged"] = time.perf_counter()
        built = tables(grid)
        findings = headline(grid)
        took["tables"] = time.perf_counter()
        written = sum(
            len(text)
            for table in built.values()
            for text in (render.to_markdown(table), render.to_csv(table), render.to_latex(table, table.name))
        )
        took["Markdown, CSV, LaTeX"] = time.perf_counter()
        page = write_page(grid, built, findings, [], {"sweep": "large"}, [], runs, out)
        took["page"] = time.perf_counter()
        size = page.stat().st_size
    above = began
    for name, at in took.items():
        print(f"{name:<22}{at - above:6.2f} s")
        above = at
    rows = sum(len(table.rows) for table in built.values())
    print(
        f"{'all':<22}{above - began:6.2f} s (goal 10), peak {_peak() / 1e9:.2f} GB (goal 1; {before / 1e9:.2f} before)"
    )
    print(f"{len(built)} tables of {rows:,} rows, {written / 1e6:.1f} MB; the page {size / 1e6:.1f} MB")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
