"""Records and outcomes by their place: the frames of results, each row with its scale and arm, looked up by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.records import Schema, empty

Place = tuple[int, int, str, str]  # scale, arm, metric, prompt form
IMAGE = ["seed", "task", "prompt_index", "sample"]  # what makes a judged image of one arm the partner of another's
Design = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # clusters, strata and seeds of images


class ByNumber(Mapping[Place, pd.DataFrame]):
    """The rows of each place, in their order. A row is looked up in the one frame, so that 10,000 cells stay cheap."""

    def __init__(self, frame: pd.DataFrame) -> None:
        columns = ["scale", "arm", "metric", "prompt_form"]
        groups = frame.groupby(columns, sort=True, observed=True)
        codes = groups.ngroup().to_numpy()
        self._frame = frame.iloc[np.argsort(codes, kind="stable")]
        self._arrays: dict[str, np.ndarray] = {}
        ends = np.cumsum(np.bincount(codes)) if len(codes) else np.array([], int)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        firsts = self._frame.iloc[starts]
        places: Any = zip(*(firsts[name].tolist() for name in columns), strict=True)
        self._bounds: dict[Place, tuple[int, int]] = dict(
            zip(places, zip(starts.tolist(), ends.tolist(), strict=True), strict=True)
        )

    def __getitem__(self, place: Place) -> pd.DataFrame:
        start, end = self._bounds[place]
        return self._frame.iloc[start:end]

    def __contains__(self, place: object) -> bool:
        return place in self._bounds

    def __iter__(self) -> Iterator[Place]:
        return iter(self._bounds)

    def __len__(self) -> int:
        return len(self._bounds)

    def column(self, place: Place, name: str) -> np.ndarray:
        """One column of a place, without a frame; empty where there is no row."""
        if name not in self._arrays:
            self._arrays[name] = self._frame[name].to_numpy()
        start, end = self._bounds.get(place, (0, 0))
        return self._arrays[name][start:end]


class Amount(NamedTuple):
    """What one run of a scale and arm took, by training seed."""

    samples_seen: dict[Any, float]
    train_flops: dict[Any, float]


def amounts(frame: pd.DataFrame) -> dict[tuple[int, int], Amount]:
    """(scale, arm) -> the images that each seed saw and its training FLOPs."""
    found: dict[tuple[int, int], Amount] = {}
    if not {"samples_seen", "train_flops"} <= set(frame.columns):
        return found
    most = frame.groupby(["scale", "arm", "seed"])[["samples_seen", "train_flops"]].max()
    for (scale, arm, seed), seen, flops in zip(most.index, most["samples_seen"], most["train_flops"], strict=True):
        amount = found.setdefault((scale, arm), Amount({}, {}))
        amount.samples_seen[seed], amount.train_flops[seed] = float(seen), float(flops)
    return found


def plain(value: Any) -> Any:
    """A value that compares and hashes alike whether it comes from a recipe or from a data frame."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def plain_frame(frame: pd.DataFrame, factors: Mapping[str, list[Any]], schema: Schema) -> pd.DataFrame:
    """The frame with plain values of the factors and a seed. Raises ValueError where it lacks a factor's column."""
    absent = [name for name in factors if name not in frame.columns and name != "seed"]
    if absent and len(frame):
        raise ValueError(f"results lack a column for factor {absent[0]!r}: collect the sweep again")
    if not len(frame):
        return empty(schema, ("seed", *factors))
    columns = {}
    for name in factors:
        if name in frame.columns:
            codes, values = pd.factorize(frame[name], use_na_sentinel=False)
            columns[name] = pd.Series([plain(value) for value in values])[codes].array
    return frame.assign(**{"seed": 0} | columns, prompt_form=frame["prompt_form"].fillna(""))


def placed(
    frame: pd.DataFrame,
    arms: tuple[tuple[tuple[str, Any], ...], ...],
    scales: tuple[tuple[tuple[str, Any], ...], ...],
) -> pd.DataFrame:
    """The frame with the places of its arm and scale, and whether a row is of its cell's last step.

    `arms` and `scales` are the settings of each, in order. Raises ValueError for rows that are of none of them.
    """
    out = {}
    for word, levels in (("arm", arms), ("scale", scales)):
        places = {tuple(value for _, value in settings): i for i, settings in enumerate(levels)}
        names = [name for name, _ in levels[0]] if levels else []
        if not names or frame.empty:
            out[word] = np.zeros(len(frame), dtype=np.int64)
            continue
        groups = frame.groupby(names, sort=False, observed=True)
        codes = groups.ngroup().to_numpy()
        _, firsts = np.unique(codes, return_index=True)
        rows = zip(*(frame[name].iloc[firsts].tolist() for name in names), strict=True)
        try:
            out[word] = np.array([places[tuple(row)] for row in rows], dtype=np.int64)[codes]
        except KeyError as error:
            raise ValueError(f"results hold {names} = {error.args[0]}, which is no level of the sweep") from None
    last = frame["step"] == frame.groupby(["cell", "metric", "prompt_form"])["step"].transform("max")
    return frame.assign(**out, last=last).sort_values(["seed", "step"], kind="stable")


def refuse_two(records: pd.DataFrame) -> None:
    """Raise ValueError where two cells claim one place."""
    key = ["scale", "arm", "seed", "metric", "prompt_form", "step"]
    twice = records[records.duplicated(key, keep=False)]
    if len(twice):
        row = twice.iloc[0]
        cells = " and ".join(sorted(set(twice["cell"].astype(str)))[:2])
        raise ValueError(f"{row['metric']} is recorded twice for one arm, scale and seed (cells {cells}): remove one")


def refuse_judges(records: pd.DataFrame) -> None:
    """Raise ValueError where several judges were at work."""
    judges = sorted({str(d) for d in records.get("judge_digest", pd.Series(dtype=str)).dropna().unique()} - {""})
    if len(judges) > 1:
        short = ", ".join(digest[:12] for digest in judges)
        raise ValueError(f"the cells were judged by {len(judges)} judges ({short}): score them again with one of them")


def refuse_other_prompts(a: pd.DataFrame, b: pd.DataFrame, where: str) -> None:
    """Raise ValueError where two arms' images, in one order, are not of the same prompts and samples."""
    columns = [*IMAGE, "prompt"]
    if len(a) != len(b) or any(a[name].tolist() != b[name].tolist() for name in columns):
        raise ValueError(f"{where} were judged on different prompts or samples: score them again with one evaluation")


def design(images: pd.DataFrame) -> Design:
    """Clusters (prompts), strata (tasks) and, when there are several, training seeds of judged images."""
    clusters, _ = pd.factorize(pd.MultiIndex.from_frame(images[["task", "prompt_index"]]), sort=True)
    strata, _ = pd.factorize(images["task"], sort=True)
    seeds, names = pd.factorize(images["seed"], sort=True)
    return clusters, strata, seeds if len(names) > 1 else None
