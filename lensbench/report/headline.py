"""What a sweep found, in a few sentences computed from the numbers: who beats whom, by how much, how surely."""

from __future__ import annotations

from lensbench.report.grid import GENEVAL, MEAN, Grid, Level, Paired
from lensbench.report.table import bounds, number, signed
from lensbench.report.tables import NAMES, better, metric_name


def headline(grid: Grid) -> list[str]:
    """The findings at the largest scale for each prompt form: the best arm against the reference, then against the
    next arm where that difference is clear. Empty when there is nothing to compare."""
    if not grid.scales or not grid.comparisons():
        return []
    sentences = _of_geneval(grid) if grid.tasks else _of_scores(grid)
    if sentences and len(grid.seeds) == 1:
        sentences.append("One training seed: the intervals speak of the sampling only, not of training again.")
    return sentences


def _of_geneval(grid: Grid) -> list[str]:
    scale = grid.scales[-1]
    sentences = []
    for form in grid.forms(GENEVAL):
        found = {
            (row.arm, row.other): row.difference
            for row in grid.comparisons()
            if (row.scale, row.form, row.column) == (scale, form, MEAN) and row.difference.seeds
        }
        with_reference = [pair for pair in found if pair[1] is grid.reference]
        if not with_reference:
            continue
        top, reference = max(with_reference, key=lambda pair: found[pair].estimate)
        sentences.append(_sentence(grid, top, reference, found[top, reference], form, scale))
        others = {pair: gap for pair, gap in found.items() if top in pair and reference not in pair}
        leads = {pair: gap if pair[0] is top else gap.flipped() for pair, gap in others.items()}
        clear = {pair: gap for pair, gap in leads.items() if gap.significant and gap.estimate > 0}
        if clear:
            closest = min(clear, key=lambda pair: clear[pair].estimate)
            other = closest[1] if closest[0] is top else closest[0]
            sentences.append(_sentence(grid, top, other, clear[closest], form, scale))
    return sentences


def _sentence(grid: Grid, arm: Level, other: Level, gap: Paired, form: str, scale: Level) -> str:
    if gap.estimate < 0:
        arm, other, gap = other, arm, gap.flipped()
    amount = f"{signed(100 * gap.estimate)} points {bounds(100 * gap.low, 100 * gap.high)}".rstrip()
    where = f"{form} prompts" + (f", {scale.label}" if scale.label else "")
    if gap.seeds < gap.expected:
        where += f", {gap.seeds} of {gap.expected} seeds{', sampling interval only' if gap.seeds == 1 else ''}"
    for smaller in grid.scales[:-1]:
        there = grid.paired(smaller, arm, other, GENEVAL, form)
        if there.seeds:
            where += f"; {signed(100 * there.estimate)} at {smaller.label}"
    names = (
        (f"{_capital(arm.label)} captions", "beat")
        if grid.arm_factors == ("captions.set",)
        else (_capital(arm.label), "beats")
    )
    if gap.significant:
        return f"{' '.join(names)} {other.label} by {amount} on GenEval's mean ({where})."
    hint = ", which Holm's correction does not let stand" if gap.clear else ""
    return f"No clear difference between {arm.label} and {other.label} on GenEval's mean: {amount} ({where}){hint}."


def _of_scores(grid: Grid) -> list[str]:
    """For each score the best arm against the reference, without a verdict where there is no test."""
    scale, sentences = grid.scales[-1], []
    for metric, form in grid.scores():
        column = f"{metric}.{form}".rstrip(".")
        rows = [r for r in grid.comparisons() if (r.scale, r.column, r.other) == (scale, column, grid.reference)]
        rows = [row for row in rows if row.difference.seeds]
        if not rows:
            continue
        sign = 1 if better(metric) else -1
        row = max(rows, key=lambda row: sign * row.difference.estimate)
        gap, digits = row.difference, NAMES.get(metric, ("", 4, True))[1]
        a, b = (number(grid.number(scale, arm, metric, form).value, digits) for arm in (row.arm, row.other))
        spread = f" {bounds(gap.low, gap.high, digits)}" if gap.kind == "95%" else ""
        if gap.kind == "seeds":
            spread = f" ({signed(gap.low, digits)} to {signed(gap.high, digits)} over {gap.seeds} seeds)"
        where = ", ".join(filter(None, [metric_name(metric), f"{form} prompts" if form else "", scale.label]))
        doubt = "" if gap.significant or gap.kind != "95%" else ", no clear difference"
        difference = f"{signed(gap.estimate, digits)}{spread}{doubt}"
        sentences.append(f"{_capital(where)}: {row.arm.label} {a}, {row.other.label} {b}; {difference}.")
    return sentences


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
