"""Two sides compared, paired image by image: sweeps, cells or checkpoints, or folders of judged pictures.

The difference is always the second minus the first. What was scored otherwise (other prompts, judge, forms, guidance,
sampling steps) is refused: such a difference would mean nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from lensbench.forms import order_of
from lensbench.metrics import GENEVAL, Metric, metric, ordered
from lensbench.report.chance import UNKNOWN, Chance, chance_note, chance_of, with_chance
from lensbench.report.grid import MEAN
from lensbench.report.paired import NAN, SECONDARY, Paired, corrected, paired_values
from lensbench.report.placing import IMAGE
from lensbench.report.rows import difference_cell, p_cell
from lensbench.report.sides import Side
from lensbench.report.table import Cell, Column, Row, Table, number, signed
from lensbench.scoring.geneval import TASKS

PROMPTS_SHOWN = 12  # on the console
PART = ["part", "prompt_form", *IMAGE]


def refuse_otherwise(a: Side, b: Side) -> None:
    """Raise ValueError, one line, where the two were scored otherwise or have nothing in common."""
    for name in a.scored.keys() & b.scored.keys():
        if a.scored[name] != b.scored[name]:
            raise ValueError(
                f"{a.name} and {b.name} were scored otherwise: {name} is {_said(a.scored[name])} and "
                f"{_said(b.scored[name])}; they do not compare"
            )
    if not a.parts() & b.parts():
        raise ValueError(f"{a.name} and {b.name} have no arm and scale in common: there is nothing to compare")
    for name in ordered({*a.outcomes["metric"]} & {*b.outcomes["metric"]}):
        first, second = (side.outcomes[side.outcomes["metric"] == name] for side in (a, b))
        for part in sorted(set(first["part"]) & set(second["part"])):
            one, other = (rows[rows["part"] == part] for rows in (first, second))
            seeds = set(one["seed"]) & set(other["seed"])
            one, other = (
                rows[rows["seed"].isin(seeds)].sort_values(["prompt_form", *IMAGE], kind="stable")
                for rows in (one, other)
            )
            same = len(one) == len(other) and all(
                one[name].tolist() == other[name].tolist() for name in ("prompt_form", *IMAGE, "prompt")
            )
            if not same:
                where = f" ({part})" if part else ""
                raise ValueError(
                    f"{a.name} and {b.name} were judged on different prompts or samples{where}; they do not compare"
                )


def matched(a: Side, b: Side) -> pd.DataFrame:
    """Every judged image that both have: part, metric, prompt_form, IMAGE, prompt; value, reason and chance, each
    with _a and _b."""
    key = ["metric", *PART, "prompt"]
    kept = [*key, "value", "reason", "chance"]
    both = a.outcomes[kept].merge(b.outcomes[kept], on=key, suffixes=("_a", "_b"), validate="one_to_one")
    return both.sort_values(["metric", *PART], kind="stable", ignore_index=True)


def differences(a: Side, b: Side, both: pd.DataFrame) -> Table:
    """A row for each part, prompt form and metric; of GenEval for each task and their mean.

    The means are tested together; the tasks say where a difference comes from and are not tested.
    """
    found = _tested([*_paired(both), *_of_sets(a, b)])
    rows, above = [], None
    for part, form, name, column, values, by_chance, flips, gap in found:
        of = metric(name)
        words = column.replace("_", " ") or of.label
        cells = [
            with_chance(Cell(number(of.factor * value, of.digits), value), chance, of)
            for value, chance in zip(values, by_chance, strict=True)
        ]
        flipped = [Cell(f"{n:,}" if n is not None else "", float(n) if n is not None else None) for n in flips]
        labels = [Cell(part, part)] if any(a.parts()) else []
        labels += [Cell(form or "all", form), Cell(words, f"{name}.{column}".rstrip("."))]
        rows.append(Row((*labels, *cells, _gap(values, gap, of), _p(gap), *flipped), above != part))
        above = part
    heads = [Column("part", "arm", "arm", label=True)] if any(a.parts()) else []
    heads += [Column("prompts", "prompts", "prompts", label=True), Column("metric", "score", "score", label=True)]
    columns = (
        *heads,
        Column("a", "A", "A"),
        Column("b", "B", "B"),
        Column("difference", "B minus A", "B - A", interval=True, key=True),
        Column("p", "p, Holm", "p"),
        Column("gained", "only B right", "only B"),
        Column("lost", "only A right", "only A"),
    )
    seeds = sorted(set(both["seed"]))
    tests = sum(gap is not None and gap.tested for *_, gap in found)
    several = f" and {len(seeds)} training seeds" if len(seeds) > 1 else ""
    alone = sorted(a.parts() ^ b.parts())
    notes = (
        f"A: {a.name}. B: {b.name}.",
        f"GenEval in percent and points; {MEAN}: of its tasks, unweighted. [low, high]: interval over prompts"
        f"{several}, paired image by image. Distances are of sets of images: no interval.",
        f"*: significant after Holm's correction over the {tests} scores that are tested, whose intervals agree with "
        "it; the tasks are described with plain 95 % intervals."
        if tests
        else "",
        "" if len(seeds) > 1 else "One training run a side: the intervals speak of the prompts, not of training again.",
        f"Only one of them has {len(alone)}: {'; '.join(alone[:4])}{' ...' if len(alone) > 4 else ''}."
        if alone
        else "",
        chance_note(cell for row in rows for cell in row.cells),
        *a.notes,
        *b.notes,
    )
    told = tuple(note for note in notes if note)
    return Table("compare", "The second minus the first", columns, tuple(rows), told)


def flips(both: pd.DataFrame) -> pd.DataFrame:
    """The GenEval images that one side alone got right: `gained` (B) or not (A), in the order of the prompts."""
    judged = both[both["metric"] == GENEVAL]
    changed = judged[judged["value_a"] != judged["value_b"]]
    return changed.assign(gained=changed["value_b"] > changed["value_a"]).reset_index(drop=True)


def flips_table(both: pd.DataFrame, most: int | None = PROMPTS_SHOWN) -> Table:
    """The prompts whose verdicts changed, in each direction those with most changes first."""
    judged = both[both["metric"] == GENEVAL]
    groups = judged.groupby(["prompt_form", "task", "prompt_index", "prompt"], sort=True)
    counts = groups.agg(n=("value_a", "size"), a=("value_a", "sum"), b=("value_b", "sum")).reset_index()
    changed = flips(both).groupby(["prompt_form", "task", "prompt_index"])["gained"].agg(gained="sum", flipped="size")
    counts = counts.join(changed, on=["prompt_form", "task", "prompt_index"], how="inner")
    counts = counts.assign(net=counts["b"] - counts["a"], lost=counts["flipped"] - counts["gained"])
    counts["order"] = -counts["net"].abs()
    rows: list[Row] = []
    left = 0
    for word, part in (
        ("in B", counts[counts["net"] > 0]),
        ("in A", counts[counts["net"] < 0]),
        ("as often", counts[counts["net"] == 0]),
    ):
        part = part.sort_values(["order", "prompt_form", "task", "prompt_index"], kind="stable")
        left += max(0, len(part) - most) if most is not None else 0
        row: dict[Any, Any]
        for place, row in enumerate((part if most is None else part.head(most)).to_dict("records")):
            said = (word, str(row["prompt_form"]), str(row["task"]).replace("_", " "), _cut(str(row["prompt"])))
            cells = [Cell(f"{row[side]:.0f} of {row['n']}", float(row[side] / row["n"])) for side in ("a", "b")]
            cells += [Cell(f"{row[name]:.0f}", float(row[name])) for name in ("gained", "lost")]
            rows.append(Row((*(Cell(text, text) for text in said), *cells), opens=place == 0))
    columns = (
        *(Column(name, name, name, label=True) for name in ("right more", "prompts", "task", "prompt")),
        Column("a", "A right", "A right"),
        Column("b", "B right", "B right"),
        Column("gained", "only B", "only B"),
        Column("lost", "only A", "only A"),
    )
    notes = (f"And {left:,} more prompts; --out writes them all.",) if left else ()
    return Table("flips", "Prompts whose verdicts flipped", columns, tuple(rows), notes)


def flips_csv(both: pd.DataFrame) -> str:
    """Every flipped picture, one a line, with both reasons."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["right", *PART, "prompt", "reason_a", "reason_b"])
    for row in flips(both).to_dict("records"):
        names = [row[name] for name in (*PART, "prompt", "reason_a", "reason_b")]
        writer.writerow(["B" if row["gained"] else "A", *names])
    return out.getvalue()


def counted(both: pd.DataFrame) -> str:
    """How many pictures flipped, in a sentence; empty where nothing was judged by GenEval's verdicts."""
    judged = both[both["metric"] == GENEVAL]
    if judged.empty:
        return ""
    changed = flips(both)
    gained = int(changed["gained"].sum())
    prompts = len(changed[["prompt_form", "task", "prompt_index"]].drop_duplicates())
    return (
        f"Of {len(judged):,} pairs of pictures, {gained:,} are right in B alone and {len(changed) - gained:,} in A "
        f"alone ({prompts:,} prompts)."
    )


Both = tuple[float, float]
Found = tuple[str, str, str, str, Both, tuple[Chance, Chance], tuple[int | None, int | None], Paired | None]


def _paired(both: pd.DataFrame) -> Iterator[Found]:
    for part in dict.fromkeys(both["part"]):
        here = both[both["part"] == part]
        for name in ordered({*here["metric"]}):
            of_metric = here[here["metric"] == name]
            for form in sorted(set(of_metric["prompt_form"]), key=lambda form: (order_of(form), form)):
                rows = of_metric[of_metric["prompt_form"] == form]
                tasks = sorted(set(rows["task"]), key=lambda task: (_order(TASKS, task), task))
                if name == GENEVAL:
                    for task in tasks:
                        yield _difference(part, form, name, task, rows[rows["task"] == task])
                yield _difference(part, form, name, MEAN if name == GENEVAL else "", rows)


def _tested(found: list[Found]) -> list[Found]:
    """The same with the means, and the scores without tasks, corrected as one family."""
    places = [i for i, (_, _, _, column, *_, gap) in enumerate(found) if gap is not None and column in (MEAN, "")]
    gaps = [gap._replace(role=SECONDARY) for i in places if (gap := found[i][-1]) is not None]
    told = dict(zip(places, corrected(gaps, [metric(found[i][2]).widest for i in places]), strict=True))
    return [(*row[:-1], told.get(i, row[-1])) for i, row in enumerate(found)]


def _difference(part: str, form: str, name: str, column: str, rows: pd.DataFrame) -> Found:
    a, b = (rows[name].to_numpy(float) for name in ("value_a", "value_b"))
    seeds = rows["seed"].to_numpy()
    clusters, _ = pd.factorize(pd.MultiIndex.from_frame(rows[["task", "prompt_index"]]), sort=True)
    count = len(set(seeds.tolist()))
    tasks = rows["task"].to_numpy()
    design = (clusters, tasks, seeds if count > 1 else None)
    gap = paired_values(b, a, design, count, metric(name).widest)
    first, second = (
        chance_of(values, rows[name].to_numpy(float), tasks, design)
        for values, name in ((a, "chance_a"), (b, "chance_b"))
    )
    means = tuple(float(np.mean(rows.groupby("task")[side].mean())) for side in ("value_a", "value_b"))
    verdicts = metric(name).outcome == GENEVAL  # right or wrong: such an image flips
    changed = (int((b > a).sum()), int((b < a).sum())) if verdicts else (None, None)
    return part, form, name, column, (means[0], means[1]), (first, second), changed, gap


def _of_sets(a: Side, b: Side) -> Iterator[Found]:
    """Scores of sets of images: means over the seeds that both have."""
    key = ["part", "metric", "prompt_form", "seed"]
    both = a.sets.merge(b.sets, on=key, suffixes=("_a", "_b")).sort_values(key, kind="stable")
    grouped: Any = both.groupby(["part", "metric", "prompt_form"], sort=False)
    groups: dict[tuple[str, str, str], pd.DataFrame] = dict(iter(grouped))
    places = {name: place for place, name in enumerate(ordered({name for _, name, _ in groups}))}
    for part, name, form in sorted(groups, key=lambda place: (place[0], places[place[1]], order_of(place[2]))):
        rows = groups[part, name, form]
        values = (float(rows["value_a"].mean()), float(rows["value_b"].mean()))
        yield str(part), str(form), str(name), "", values, (UNKNOWN, UNKNOWN), (None, None), None


def _gap(values: tuple[float, float], gap: Paired | None, of: Metric) -> Cell:
    if gap is None:
        return Cell(signed(of.factor * (values[1] - values[0]), of.digits), values[1] - values[0])
    return difference_cell(gap, of)


def _p(gap: Paired | None) -> Cell:
    return p_cell(NAN if gap is None else gap.p_holm)


def _order(names: Iterable[str], name: str) -> int:
    known = list(names)
    return known.index(name) if name in known else len(known)


def _said(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _cut(text: str, width: int = 38) -> str:
    return text if len(text) <= width else f"{text[: width - 3].rstrip()}..."
