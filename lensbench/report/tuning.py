"""What a tuning cost and found: the budget, the values of every arm at every scale, and the way to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lensbench.metrics import GENEVAL, Metric, metric
from lensbench.report.figures import MARKERS, STYLE, palette, save
from lensbench.report.levels import factor_label
from lensbench.report.table import Cell, Column, Row, Table, number

SAMPLERS = {"tpe": "TPE", "gp": "a Gaussian process"}
PRUNERS = {"none": "", "asha": ", pruned by successive halving", "wilcoxon": ", pruned by Wilcoxon's test over seeds"}
SHOWN_ON_AXIS = 12  # names of units; more are numbered


def tuning_table(tuned: Mapping[str, Any]) -> Table:
    """A row for each arm at each scale: its finished trials, their steps, the best values and their objective."""
    search = list(tuned["tuning"]["search"])
    columns = [Column("unit", "arm and size", "arm", label=True)]
    columns += [Column(name, name, name, "budget") for name in ("trials", "pruned", "steps")]
    columns += [Column(dotted, _leaf(dotted), _leaf(dotted), "best") for dotted in search]
    columns += [Column("objective", "objective", "obj.", "best")]
    rows = []
    for entry in tuned["units"]:
        trials = entry["trials"]
        pruned = sum(trial["state"] == "pruned" for trial in trials)
        steps = sum(trial["steps"] for trial in trials)
        counts = [Cell(f"{n:,}", n) for n in (len(trials), pruned, steps)]
        best = [_value(entry["values"][dotted]) for dotted in search]
        score = Cell(number(entry["objective"], 4), entry["objective"])
        rows.append(Row((Cell(_name(entry), _name(entry)), *counts, *best, score)))
    return Table("tuning", "What was tuned, and with what", tuple(columns), tuple(rows), _notes(tuned))


def tuning_figure(tuned: Mapping[str, Any], path: Path) -> list[Path]:
    """The objective against the trial, the best so far as a line, and what was chosen: PNG and PDF."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    search = [d for d, among in tuned["tuning"]["search"].items() if isinstance(among, Mapping)]
    objective = metric(tuned["tuning"]["objective"])
    sign = -1 if objective.more else 1
    units = tuned["units"]
    colors = palette(len(units))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 + 2.2 * len(search), 2.4 + 0.12 * len(units)), layout="constrained")
        panels = figure.subplots(1, 1 + len(search), squeeze=False, width_ratios=[3.0, *[2.0] * len(search)])[0]
        for n, (entry, color) in enumerate(zip(units, colors, strict=True)):
            done = [(t["number"] + 1, t["objective"]) for t in entry["trials"] if t["objective"] is not None]
            complete = [(t["number"] + 1, t["objective"]) for t in entry["trials"] if t["state"] == "complete"]
            look: dict[str, Any] = {"color": color, "marker": MARKERS[n % len(MARKERS)]}
            panels[0].plot(*_xy(done), linestyle="", markersize=3, alpha=0.5, **look)
            scores = [sign * score for _, score in complete]
            best = [(trial, sign * min(scores[: k + 1])) for k, (trial, _) in enumerate(complete)]
            panels[0].plot(*_xy(best), color=color, linewidth=1.3, drawstyle="steps-post", label=_name(entry))
            for axes, dotted in zip(panels[1:], search, strict=True):
                axes.plot(entry["values"][dotted], n, linestyle="", markersize=5, **look)
        panels[0].set_xlabel("trial")
        panels[0].set_ylabel(_words(objective))
        panels[0].xaxis.get_major_locator().set_params(integer=True)
        for k, (axes, dotted) in enumerate(zip(panels[1:], search, strict=True)):
            among = tuned["tuning"]["search"][dotted]
            axes.set_xscale("log" if among["log"] else "linear")
            axes.set_xlim(among["low"], among["high"])
            axes.set_xlabel(f"{_leaf(dotted)}, chosen")
            few = len(units) <= SHOWN_ON_AXIS
            names = [_name(entry) if few else str(n + 1) for n, entry in enumerate(units)]
            axes.set_yticks(range(len(units)), names if k == 0 else [""] * len(units))
            axes.set_ylim(len(units) - 0.5, -0.5)
        if not search:
            panels[0].legend(loc="best")
        return save(figure, path)


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _notes(tuned: Mapping[str, Any]) -> tuple[str, ...]:
    tuning = tuned["tuning"]
    seeds = f"{len(tuning['seeds'])} training seed{'s' if len(tuning['seeds']) > 1 else ''}"
    budget = (
        f"The same for all: {tuning['trials']} finished trials by {SAMPLERS[tuning['sampler']]}, {seeds} each"
        f"{PRUNERS[tuning['pruner']]}; the first has the base's own values where they lie in the ranges."
    )
    if at := tuning.get("at"):
        budget += f" Tuned at {', '.join(factor_label(*one) for one in at.items())}, used at the other sizes as it is."
    wording = "on the prompts that a trial does best on" if tuning["form"] == "best" else f"on {tuning['form']} prompts"
    objective = metric(tuning["objective"])
    of = f"{_words(objective)} {wording}"
    on = "on GenEval prompts" if objective.outcome == GENEVAL else "on held-out images"
    apart = f"Objective: {of}, {on} that no reported number comes from, with seeds that are not reported."
    return budget, apart, f"steps: of all trials together. Found: {tuned['digest'][:12]}."


def _words(objective: Metric) -> str:
    return f"{objective.label}'s mean" if objective.strata else objective.label


def _name(entry: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (factor_label(dotted, level) for dotted, level in entry["levels"].items())))


def _value(value: Any) -> Cell:
    if isinstance(value, float):
        return Cell(f"{value:.3g}", value)
    return Cell(str(value), value if isinstance(value, int | str) else str(value))


def _leaf(dotted: str) -> str:
    return dotted.rpartition(".")[2].replace("_", " ")
