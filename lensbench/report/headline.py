"""What a sweep found, in a few sentences computed from the numbers: who beats whom, by how much, how surely."""

from __future__ import annotations

from lensbench.report.grid import GENEVAL, MEAN, Comparison, Grid, Level, Paired
from lensbench.report.names import HEADS, NAMES, better, metric_name
from lensbench.report.table import bounds, number, signed


def headline(grid: Grid) -> list[str]:
    """The answers to the sweep's questions or, without any, the findings at the largest scale for each prompt form: the
    best arm against the reference, then against the next arm where that difference is clear. Empty when there is
    nothing to compare."""
    if not grid.scales or not grid.comparisons():
        return []
    found = _of_questions if grid.results.questions else _of_geneval if grid.tasks else _of_scores
    sentences = found(grid)
    if sentences and len(grid.seeds) == 1:
        sentences.append("One training seed: the intervals speak of the sampling only, not of training again.")
    return sentences


def _of_questions(grid: Grid) -> list[str]:
    """One sentence for each comparison that is asked for and that any seed answers."""
    sentences = []
    for row in grid.comparisons():
        if not row.asked or not row.difference.seeds:
            continue
        if grid.tasks:
            task = "" if row.column == MEAN else row.column
            sentences.append(_sentence(grid, row.arm, row.other, row.difference, row.form, row.scale, task, ()))
        else:
            metric, _, form = row.column.partition(".")
            sentences.append(_score_sentence(grid, row, metric, form))
    return sentences


def _of_geneval(grid: Grid) -> list[str]:
    scale = grid.scales[-1]
    sentences = []
    for form in grid.forms(GENEVAL):
        scores = {arm: grid.number(scale, arm, GENEVAL, form) for arm in grid.arms}
        there = [arm for arm in grid.arms if scores[arm].seeds]
        if len(there) > 1 and not any(scores[arm].value for arm in there):
            where = ", ".join(filter(None, [f"{form} prompts", scale.label]))
            sentences.append(f"No arm gets any picture right ({where}): there is nothing to tell apart yet.")
            continue
        found = {
            (row.arm, row.other): row.difference
            for row in grid.comparisons()
            if (row.scale, row.form, row.column) == (scale, form, MEAN) and row.difference.seeds
        }
        found |= {(other, arm): gap.flipped() for (arm, other), gap in found.items()}
        ranked = sorted(there, key=lambda arm: -scores[arm].value)
        best = ranked[0] if ranked else None
        reference = grid.reference if grid.reference in there else None
        # The best against the reference (or the next, where it is that), then against the next that is clearly behind.
        rivals = [arm for arm in ranked[1:] if (best, arm) in found]
        first = reference if reference in rivals else next(iter(rivals), None)
        if best is None or first is None:
            continue
        sentences.append(_sentence(grid, best, first, found[best, first], form, scale))
        clear = [arm for arm in rivals if arm is not first and _leads(found[best, arm])]
        if best is not reference and clear:
            sentences.append(_sentence(grid, best, clear[0], found[best, clear[0]], form, scale))
    return sentences


def _leads(gap: Paired) -> bool:
    return gap.significant and gap.estimate > 0


def _sentence(
    grid: Grid,
    arm: Level,
    other: Level,
    gap: Paired,
    form: str,
    scale: Level,
    task: str = "",
    beside: tuple[Level, ...] | None = None,
) -> str:
    """What a difference says of GenEval's mean or of a task; `beside` are the scales whose differences are added, the
    smaller ones if none are given."""
    if gap.estimate < 0:
        arm, other, gap = other, arm, gap.flipped()
    amount = f"{signed(100 * gap.estimate)} points {bounds(100 * gap.low, 100 * gap.high)}".rstrip()
    where = f"{form} prompts" + (f", {scale.label}" if scale.label else "")
    if gap.seeds < gap.expected:
        where += f", {gap.seeds} of {gap.expected} seeds{', sampling interval only' if gap.seeds == 1 else ''}"
    for smaller in grid.scales[:-1] if beside is None else beside:
        there = grid.paired(smaller, arm, other, GENEVAL, form)
        if there.seeds:
            where += f"; {signed(100 * there.estimate)} at {smaller.label}"
    names = (
        (f"{_capital(arm.label)} captions", "beat")
        if grid.arm_factors == ("captions.set",)
        else (_capital(arm.label), "beats")
    )
    what = f"GenEval's {HEADS[task][0] if task in HEADS else task}" if task else "GenEval's mean"
    if gap.significant:
        return f"{' '.join(names)} {other.label} by {amount} on {what} ({where})."
    hint = ", which Holm's correction does not let stand" if gap.clear else ""
    return f"No clear difference between {arm.label} and {other.label} on {what}: {amount} ({where}){hint}."


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
        sentences.append(_score_sentence(grid, row, metric, form))
    return sentences


def _score_sentence(grid: Grid, row: Comparison, metric: str, form: str) -> str:
    gap, digits, scale = row.difference, NAMES.get(metric, ("", 4, True))[1], row.scale
    a, b = (number(grid.number(scale, arm, metric, form).value, digits) for arm in (row.arm, row.other))
    spread = f" {bounds(gap.low, gap.high, digits)}" if gap.kind == "95%" else ""
    if gap.kind == "seeds":
        spread = f" ({signed(gap.low, digits)} to {signed(gap.high, digits)} over {gap.seeds} seeds)"
    where = ", ".join(filter(None, [metric_name(metric), f"{form} prompts" if form else "", scale.label]))
    doubt = "" if gap.significant or gap.kind != "95%" else ", no clear difference"
    difference = f"{signed(gap.estimate, digits)}{spread}{doubt}"
    return f"{_capital(where)}: {row.arm.label} {a}, {row.other.label} {b}; {difference}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
