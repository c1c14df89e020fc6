"""Simulated results of a sweep, with known effects: prompts and seeds vary, arms differ by what the test says."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.sweep.sweep import Results
from tests.images import EVALUATION, keep_images

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
HARD = dict(zip(TASKS, (0.15, -0.05, -0.1, 0.05, -0.2, -0.15), strict=True))
# What each arm adds to the chance of success, by prompt form.
EFFECT = {
    "short": {"alt": 0.0, "brief": 0.26, "detailed": 0.18},
    "detailed": {"alt": -0.05, "brief": 0.1, "detailed": 0.32},
}
ORIGIN = {
    "corpus_digest": "c" * 64,
    "captions_digest": "d" * 64,
    "prompts_digest": "e" * 64,
    "judge_digest": "0123456789abcdef" * 4,
    "extractor": "",
    "commit": "abc1234def56",
    "hardware": "Test CPU, 2 cores",
}


def name_of(values: dict[str, Any]) -> str:
    return f"{zlib.crc32(repr(sorted(values.items())).encode()):012x}"


def simulate(
    factors: dict[str, list[Any]] | None = None,
    reference: dict[str, Any] | None = None,
    effect: dict[str, dict[str, float]] | None = None,
    steps: tuple[int, ...] = (600,),
    prompts: int = 16,
    samples: int = 2,
    geneval: bool = True,
    missing: tuple[dict[str, Any], ...] = (),
    broken: tuple[dict[str, Any], ...] = (),
    watched: tuple[int, ...] = (),
    excluded: tuple[dict[str, Any], ...] = (),
) -> Results:
    """Results of a sweep. `missing`: the cells with these factor values failed. `broken`: they have no GenEval.
    `watched`: earlier steps with a held-out loss and nothing else. `excluded`: the sweep has no such cells.
    """
    factors = factors or {"captions.set": ["alt", "brief", "detailed"], "model.depth": [4], "seed": [0, 1, 2]}
    effect = effect or EFFECT
    records, outcomes, gone = [], [], []
    for levels in product(*factors.values()):
        values = dict(zip(factors, levels, strict=True))
        cell = name_of(values)
        if any(part.items() <= values.items() for part in excluded):
            continue
        if any(part.items() <= values.items() for part in missing):
            gone.append({"cell": cell, **values, "reason": "failed: the loss is not a number"})
            continue
        judged = geneval and not any(part.items() <= values.items() for part in broken)
        arm = str(values.get("captions.set", "detailed"))
        of_seed = np.random.default_rng([7, values.get("seed", 0)]).normal(0, 0.01)
        bigger = 0.04 * np.log2(values.get("model.depth", 4) / 4)
        rng = np.random.default_rng(zlib.crc32(cell.encode()))

        def record(metric: str, form: str, value: float, n: int, step: int, low: float = np.nan, high: float = np.nan,
                   cell: str = cell, values: dict = values) -> None:  # fmt: skip
            numbers = {"value": value, "low": low, "high": high, "n": n, "step": step}
            amount = {"samples_seen": 64 * step, "train_flops": 1.3e9 * step * 64}
            records.append({"sweep": "simulated", **values, "cell": cell, "experiment_hash": cell * 5,
                            "prompt_form": form, "metric": metric, **numbers, **amount, **ORIGIN})  # fmt: skip

        for step, form in product(steps, ("short", "detailed")):
            grown = 0.35 + 0.65 * step / steps[-1]
            means = []
            for number, (task, prompt) in enumerate(product(TASKS, range(prompts))) if judged else ():
                of_prompt = np.random.default_rng([11, number]).normal(0, 0.12)
                for sample in range(samples):
                    chance = 0.4 + HARD[task] + (effect[form][arm] + bigger) * grown + of_prompt + of_seed
                    value = float(rng.random() < np.clip(chance, 0.02, 0.98))
                    means.append((task, value))
                    outcomes.append({"sweep": "simulated", **values, "cell": cell, "step": step, "metric": "geneval",
                                     "prompt_form": form, "task": task, "prompt_index": number, "sample": sample,
                                     "prompt": f"{form} {task.replace('_', ' ')} prompt {prompt}", "value": value,
                                     "reason": "" if value else "expected 1 circle, found 0"})  # fmt: skip
            if judged:
                by_task = {task: np.mean([v for t, v in means if t == task]) for task in TASKS}
                for task, value in by_task.items():
                    record(f"geneval.{task}", form, float(value), prompts * samples, step)
                record("geneval", form, float(np.mean(list(by_task.values()))), len(means), step)
            if step != steps[-1]:
                continue
            for metric, base, spread in (("shapes_alignment", 0.3, 0.1), ("validation_loss", 0.4, 0.05)):
                if metric == "shapes_alignment" and not judged:
                    continue
                sign = 0.2 if metric == "shapes_alignment" else -0.05
                numbers = base + sign * effect[form][arm] + spread * np.random.default_rng(5).standard_normal(48)
                numbers = numbers + 0.002 * rng.standard_normal(48)
                for i, value in enumerate(numbers):
                    outcomes.append({"sweep": "simulated", **values, "cell": cell, "step": step, "metric": metric,
                                     "prompt_form": form, "task": "scenes", "prompt_index": i, "sample": 0,
                                     "prompt": f"{form} scene {i}", "value": float(value), "reason": ""})  # fmt: skip
                record(
                    metric,
                    form,
                    float(numbers.mean()),
                    48,
                    step,
                    float(numbers.mean() - 0.02),
                    float(numbers.mean() + 0.02),
                )
            record("fd_shapes", form, 20 - 20 * effect[form][arm] + rng.normal(0, 0.3), 48, step)
        for step, form in product(watched, ("short", "detailed")):
            record("validation_loss", form, 0.4 + 40 / step - 0.05 * effect[form][arm] + of_seed, 48, step)
        facts = {
            "train_seconds": 61.5 + rng.normal(),
            "cell_seconds": 90.0,
            "training_images": 4096,
            "dropped_images": 3,
            "set_aside_images": 0,
            "caption_tokens": 9.25 if arm == "alt" else 31.5,
            "truncated_captions": 5 if arm == "detailed" else 0,
        }
        for metric, value in facts.items():
            record(metric, "", float(value), 4096, steps[-1])
    columns = ["sweep", *factors, "cell", "step", "metric", "prompt_form", "task", "prompt_index", "sample", "prompt"]
    return Results(
        sweep_name="simulated",
        factors=factors,
        reference=reference or {"captions.set": "alt"},
        records=pd.DataFrame(records),
        outcomes=pd.DataFrame(outcomes).assign(evaluation_hash=EVALUATION)
        if outcomes
        else pd.DataFrame(columns=[*columns, "value", "reason"]),
        missing=gone,
        notes=[],
    )


def draw_pictures(results: Results, runs: Path, side: int = 8, evaluation: str = EVALUATION) -> None:
    """Each cell's pictures as a run leaves them: a color for its arm, one image a judged row."""
    judged = results.outcomes[results.outcomes["metric"] == "geneval"]
    for (cell, form), rows in judged.groupby(["cell", "prompt_form"]):
        rows = rows[rows["step"] == rows["step"].max()]
        shade = np.random.default_rng(zlib.crc32(str(cell).encode())).integers(40, 220, (1, 1, 1, 3))
        images = np.broadcast_to(shade, (len(rows), side, side, 3)).astype(np.uint8).copy()
        images[:, 2:5, 2:5] = 255
        keep_images(runs, str(cell), str(form), images, evaluation)


@pytest.fixture(scope="session")
def simulated() -> Callable[..., Results]:
    return simulate


@pytest.fixture(scope="session")
def drawn() -> Callable[..., None]:
    return draw_pictures
