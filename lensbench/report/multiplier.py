"""The caption multiplier in words: its table and its sentences, from lensbench.report.scaling."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite, isnan

from lensbench.metrics import leading
from lensbench.metrics import metric as named
from lensbench.report.grid import Grid
from lensbench.report.scaling import AXES, COMPUTE, DATA, MOST_ARMS, PARAMETERS, SAMPLES, Worth
from lensbench.report.table import Cell, Column, Row, Table
from lensbench.scoring.multiplier import (
    ERROR,
    FEWEST,
    FLOOR,
    LEVELS,
    MULTIPLIERS,
    NOTHING,
    ODDS,
    Multiplier,
)

OUTSIDE = "outside the measured range"
REMARKS = {  # letter: what the note says
    "c": "not measurable here: an arm is at chance at a point that the number would come from (the last of the worse "
    "arm and those of the better arm around that score)",
    "f": "the arms end on floors of their own by the error on held-out cells: no factor makes them equal, so there is "
    "no multiplier; the direct number holds at this one score only",
    "o": f"{OUTSIDE}: only a bound is known, or the number or an end of its interval lies there",
    "d": "the two estimators disagree",
    "r": "an error rises along the axis by more than its noise: the curve was made to fall, read the figure",
    "p": "the law describes the cells poorly",
}
NAMES = {DATA: "data", PARAMETERS: "parameters", SAMPLES: "images seen", COMPUTE: "FLOPs"}
UNKNOWN = "?"
NOT_HERE = "not measurable here"
NONE_HERE = "not measurable"  # in a cell of a table or a line of a figure


def multiplier_table(grid: Grid, worths: Sequence[Worth]) -> Table | None:
    """Rows: score x prompts x axis x arm; the two estimators with their intervals, and remarks. None without curves."""
    if not worths or grid.reference is None:
        return None
    rows, above = [], None
    for worth in worths:
        place = (worth.metric, worth.form)
        words = (named(worth.metric).label, worth.form, NAMES[worth.axis], worth.arm.label)
        found = remarks(worth)
        told = Cell(" ".join(found), not_measurable(grid, worth) or "; ".join(REMARKS[letter] for letter in found))
        labels = (Cell(word, word) for word in words)
        rows.append(Row((*labels, _direct_cell(grid, worth), _joint_cell(worth), told), opens=above != place))
        above = place
    columns = (
        Column("metric", "score", "score", label=True),
        Column("form", "prompts", "prompts", label=True),
        Column("axis", "axis", "axis", label=True),
        Column("arm", "training captions", "captions", label=True),
        Column("direct", "worth, direct", "direct", interval=True, key=True),
        Column("joint", "worth, joint fit", "joint", interval=True),
        Column("remarks", "remarks", "rem."),
    )
    title = f"What the captions are worth: how many times as much {grid.reference.label} needs"
    return Table("multiplier", title, columns, tuple(rows), _notes(grid, worths))


def remarks(worth: Worth) -> list[str]:
    """The letters of what is to be said of a row."""
    found: list[str] = []
    fitted = worth.joint
    if not worth.measurable:
        return ["c"]
    if no_multiplier(worth):
        found.append("f")
    elif worth.direct.multiplier.outside or (fitted and fitted.multipliers[worth.place].outside):
        found.append("o")
    if worth.disagree and "f" not in found:
        found.append("d")
    if worth.direct.rises:
        found.append("r")
    if fitted is not None and fitted.poor:
        found.append("p")
    return found


def no_multiplier(worth: Worth) -> bool:
    """Whether the arms' own floors predict held-out cells better than any multiplier."""
    return worth.joint is not None and worth.joint.verdict == FLOOR


def multiplier_words(multiplier: Multiplier) -> tuple[str, str]:
    """A multiplier and its interval as they are shown: 3.2 and [2.4, > 6]."""
    low_limit, high_limit = multiplier.limits
    if isnan(multiplier.estimate) or (multiplier.low <= 0 and multiplier.high == inf):
        return UNKNOWN, ""  # anything is possible
    ends = [_value(end, low_limit, high_limit) for end in (multiplier.low, multiplier.high)]
    text = _value(multiplier.estimate, low_limit, high_limit)
    same = ends[0] == ends[1] == text
    return text, "" if same or isnan(multiplier.low) else f"[{ends[0]}, {ends[1]}]"


def not_measurable(grid: Grid, worth: Worth) -> str:
    """Why there is no number, where an arm is at chance at a point that decides it; "" where both are above."""
    if worth.measurable:
        return ""
    assert grid.reference is not None
    worse, better = (grid.reference, worth.arm) if worth.direct.ahead else (worth.arm, grid.reference)
    if worse in worth.at_chance:
        return f"{NOT_HERE}: {worse.label} is at chance"
    return f"{NOT_HERE}: {better.label} is at chance at the point before it passes {worse.label}"


def multiplier_sentences(grid: Grid, worths: Sequence[Worth]) -> list[str]:
    """For each prompt form what the best captions are worth on every axis, by GenEval or the first score there is.

    One sentence a form.
    """
    if grid.reference is None or not worths:
        return []
    metric = leading(worth.metric for worth in worths)[0]
    sentences = []
    for form in grid.forms(metric):
        of_form = [worth for worth in worths if (worth.metric, worth.form) == (metric, form)]
        if of_form:
            best = min(of_form, key=lambda worth: float(worth.draws.mean[-1])).arm
            sentences.append(_sentence(grid, [worth for worth in of_form if worth.arm is best]))
    return [sentence for sentence in sentences if sentence]


def _sentence(grid: Grid, worths: list[Worth]) -> str:
    """One arm's worth on its axes; where there is no number on any of them, why. "" where nobody gained anything."""
    assert grid.reference is not None
    arm, reference = worths[0].arm.label, grid.reference.label
    told = [worth for worth in worths if not no_multiplier(worth) and worth.measurable and _known(worth)]
    by = ", ".join(filter(None, [named(worths[0].metric).label, worths[0].form and f"{worths[0].form} prompts"]))
    captions = f"{arm} captions are" if grid.arm_factors == ("captions.set",) else f"{arm} is"
    parts = [_amount(worth, first=worth is told[0]) for worth in told]
    without = _reasons(grid, worths)
    if not parts:
        return f"What {arm} is worth against {reference} ({by}): {'; '.join(without)}." if without else ""
    said = f"{captions[:1].upper()}{captions[1:]} worth {_listed(parts)}, against {reference} ({by})"
    return "; ".join([said, *without]) + "."


def _known(worth: Worth) -> bool:
    return multiplier_words(worth.direct.multiplier)[0] != UNKNOWN and not worth.direct.rises


def _amount(worth: Worth, *, first: bool) -> str:
    """5.5 times the parameters at 1,024 images (95 % interval 4.2 to more than 6.3)."""
    text, interval = multiplier_words(worth.direct.multiplier)
    told = f"{_end(text)} times the {NAMES[worth.axis]}" + (f" at {worth.where}" if worth.where else "")
    if not interval:
        return f"{told}, the end of the measured range" if text[0] in "<>" else told
    low, high = (_end(end) for end in interval.strip("[]").split(", "))
    return f"{told} ({'95 % interval ' if first else ''}{low} to {high})"


def _end(text: str) -> str:
    return {"<": "less than ", ">": "more than "}.get(text[:1], "") + text.lstrip("<> ")


def _reasons(grid: Grid, worths: Sequence[Worth]) -> list[str]:
    """Why there is no number on an axis, axes with the same reason together."""
    reference = grid.reference
    assert reference is not None
    axes_of: dict[str, list[str]] = {}
    for worth in worths:
        reason = not_measurable(grid, worth)
        if not reason and no_multiplier(worth):
            reason = f"there is no multiplier: {worth.arm.label} and {reference.label} end on floors of their own"
        elif not reason and worth.direct.rises:
            reason = "not known: an error rises along the axis"
        if reason:
            axes_of.setdefault(reason, []).append(NAMES[worth.axis])
    if len(axes_of) == 1 and sum(map(len, axes_of.values())) == len(worths):
        return list(axes_of)
    return [f"along {_listed(axes)} {reason}" for reason, axes in axes_of.items()]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _direct_cell(grid: Grid, worth: Worth) -> Cell:
    reason = not_measurable(grid, worth)
    return Cell(NONE_HERE, reason) if reason else _cell(worth, worth.direct.multiplier)


def _joint_cell(worth: Worth) -> Cell:
    if worth.joint is None or not worth.measurable:
        return Cell("\N{EN DASH}")
    if no_multiplier(worth):
        return Cell("none", "none")
    return _cell(worth, worth.joint.multipliers[worth.place])


def _cell(worth: Worth, multiplier: Multiplier) -> Cell:
    text, interval = multiplier_words(multiplier)
    low, high = multiplier.low, multiplier.high
    clear = low == inf or (isfinite(low) and (low > 1 or high < 1))
    emphasis = ("better" if low > 1 else "worse") if clear else "unclear"
    kind = "" if isnan(low) else "95%"
    value = multiplier.estimate if 0 < multiplier.estimate < inf else text
    seeds = int(worth.draws.seeds.min())
    return Cell(text, value, low, high, interval, kind, emphasis=emphasis, seeds=seeds, expected=worth.expected)


def _value(value: float, low_limit: float, high_limit: float) -> str:
    if value == inf:
        return f"> {_short(high_limit)}"
    if value <= 0:
        return f"< {_short(low_limit)}"
    return "" if isnan(value) else _short(value)


def _short(value: float) -> str:
    """Two digits that count, as multipliers are known: 0.42, 3.2, 14, 120."""
    if value >= 1000:
        return f"{value:.0e}".replace("e+0", "e")
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:.2g}"


def _between(worths: Sequence[Worth]) -> str:
    """What curves are straight in between their points."""
    told = [worth for worth in worths if worth.measurable]
    labels = {
        scale: sorted({named(w.metric).label for w in told if w.direct.scale == scale}) for scale in (ODDS, ERROR)
    }
    if not labels[ODDS]:
        return "log error"
    odds = f"the logit of the share above chance ({', '.join(labels[ODDS])})"
    return f"{odds} or log error ({', '.join(labels[ERROR])})" if labels[ERROR] else odds


def _law(worths: Sequence[Worth]) -> str:
    """What the joint law is of, where a score has a chance."""
    if all(w.joint is None or w.joint.scale == ERROR for w in worths):
        return "y is the error."
    return (
        "y is the error or, where chance is known, the share missed of what is above chance or the odds of missing it, "
        "whichever predicts held-out cells better."
    )


def _notes(grid: Grid, worths: Sequence[Worth]) -> tuple[str, ...]:
    assert grid.reference is not None
    seeds = max(int(worth.draws.seeds.max()) for worth in worths)
    found = {letter for worth in worths for letter in remarks(worth)}
    along = any(worth.axis in (SAMPLES, COMPUTE) for worth in worths) and "training.steps" not in grid.scale_factors
    arms = len(grid.arms) - 1
    without = sorted({named(w.metric).label for w in worths if not w.draws.prompts})
    where = {axis: sorted({w.where for w in worths if w.axis == axis} - {""}) for axis in AXES}
    over = "prompts and training seeds" if seeds > 1 else "prompts alone, one training seed"
    notes = [
        f"Direct: how much further along the axis the worse of the two arms is at its last score than the better one "
        f"was there. Curves are straight between points in {_between(worths)} over the log of the axis. Nothing is "
        "extrapolated: > and < say that the measured range tells no more.",
        f"Joint fit: y = E + A/(p P)^a + B/(n N)^b over the cells of both arms, from {LEVELS} levels an axis and "
        f"{FEWEST} cells; {grid.reference.label} = 1. {_law(worths)}",
        f"[low, high]: 95 % interval over {over}"
        + (f" ({', '.join(without)}: over seeds alone)" if without and seeds > 1 else "")
        + f". {UNKNOWN}: anything is possible.",
        "; ".join(f"{NAMES[axis]} at {' or '.join(places)}" for axis, places in where.items() if places).capitalize(),
        "Images seen and FLOPs: checkpoints of one run, before its rate has fallen; runs of their own, a factor "
        "training.steps, would do better."
        if along
        else "",
        *(f"{letter}: {REMARKS[letter]}." for letter in REMARKS if letter in found),
        f"The first {MOST_ARMS} of {arms} arms." if arms > MOST_ARMS else "",
    ]
    undecided = [w for w in worths if "f" in remarks(w) and w.joint and not w.joint.clear]
    if undecided:
        notes.append("Some floors of their own (f) predict held-out cells better by less than a standard error.")
    if any(w.joint and w.joint.verdict in (NOTHING, MULTIPLIERS) for w in worths) and "f" in found:
        notes.append("Where no floor is named, one floor for both arms predicts held-out cells at least as well.")
    return tuple(note for note in notes if note)
