"""What a sweep found, in a few sentences computed from the numbers: who beats whom, by how much, how surely."""

from __future__ import annotations

import json

from lensbench.metrics import GENEVAL, metric
from lensbench.report.asked import asks
from lensbench.report.grid import FORMS, MEAN, Grid
from lensbench.report.paired import Comparison, Paired
from lensbench.report.table import bounds, number, signed

NAMED_SCALES = 3


def headline(grid: Grid) -> list[str]:
    """The answers to the sweep's questions or, without any, the findings at the largest scale for each prompt form: the
    best arm against the reference, then against the next arm where that difference is clear. Empty when there is
    nothing to compare."""
    if not grid.scales or not (grid.comparisons() or grid.comparisons_beside()):
        return []
    found = _of_questions if grid.results.questions else _of_geneval if grid.tasks else _of_scores
    sentences = found(grid)
    if sentences and len(grid.seeds) == 1:
        sentences.append("One training seed: the intervals speak of the sampling only, not of training again.")
    return [*sentences, *_doubts(grid)]


def _doubts(grid: Grid) -> list[str]:
    """What makes a recorded distance doubtful, such as too few images: a sentence each, with the metrics it is of."""
    records = grid.results.records
    if "protocol" not in records:
        return []
    of: dict[str, list[str]] = {}
    for name, protocol in records[["metric", "protocol"]].drop_duplicates().itertuples(index=False):
        for doubt in json.loads(protocol).get("doubts", ()) if protocol else ():
            labels = of.setdefault(doubt, [])
            if (label := metric(str(name)).label) not in labels:
                labels.append(label)
    return [f"{', '.join(labels)}: {doubt}." for doubt, labels in of.items()]


def _of_questions(grid: Grid) -> list[str]:
    """One sentence for each wording of each question: the last scale that it is about and that any seed answers, and
    what the others say."""
    answers: dict[Comparison, None] = {}
    for question in grid.results.questions:
        last: dict[tuple[str, str], Comparison] = {}
        for row in (*grid.comparisons(), *grid.comparisons_beside()):
            if row.difference.seeds and asks(
                grid, question, row.scale, row.arm, row.other, row.metric, row.metric_form
            ):
                last[row.form, row.column] = row
        answers |= dict.fromkeys(last.values())
    ordered = sorted(answers, key=lambda row: FORMS.index(row.form) if row.form in FORMS else len(FORMS))
    return [
        _sentence(grid, row) if metric(row.metric).outcome == GENEVAL else _score_sentence(grid, row) for row in ordered
    ]


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
        rows = [
            row
            for row in grid.comparisons()
            if (row.scale, row.form, row.column) == (scale, form, MEAN) and row.difference.seeds
        ]
        found = {(row.arm, row.other): row for row in (*rows, *map(_turned, rows))}
        ranked = sorted(there, key=lambda arm: -scores[arm].value)
        best = ranked[0] if ranked else None
        reference = grid.reference if grid.reference in there else None
        # The best against the reference (or the next, where it is that), then against the next that is clearly behind.
        rivals = [arm for arm in ranked[1:] if (best, arm) in found]
        first = reference if reference in rivals else next(iter(rivals), None)
        if best is None or first is None:
            continue
        sentences.append(_sentence(grid, found[best, first]))
        clear = [arm for arm in rivals if arm is not first and _leads(found[best, arm].difference)]
        if best is not reference and clear:
            sentences.append(_sentence(grid, found[best, clear[0]]))
    return sentences


def _leads(gap: Paired) -> bool:
    return gap.significant and gap.estimate > 0


def _turned(row: Comparison) -> Comparison:
    return row._replace(arm=row.other, other=row.arm, difference=row.difference.flipped())


def _sentence(grid: Grid, row: Comparison) -> str:
    """What a difference says of GenEval's mean or of a task, and how the same arms stand at the other scales."""
    if row.difference.estimate < 0:
        row = _turned(row)
    arm, other, gap = row.arm, row.other, row.difference
    amount = f"{signed(100 * gap.estimate)} points {bounds(100 * gap.low, 100 * gap.high)}".rstrip()
    where = f"{row.form} prompts" + (f", {row.scale.label}" if row.scale.label else "")
    if gap.seeds < gap.expected:
        where += f", {gap.seeds} of {gap.expected} seeds{', sampling interval only' if gap.seeds == 1 else ''}"
    where += _elsewhere(grid, row, 100.0, 1)
    names = (
        (f"{_capital(arm.label)} captions", "beat")
        if grid.arm_factors == ("captions.set",)
        else (_capital(arm.label), "beats")
    )
    what = f"GenEval's {metric(row.metric).heads[0]}"
    if gap.significant:
        return f"{' '.join(names)} {other.label} by {amount} on {what} ({where})."
    hint = ", which Holm's correction does not let stand" if gap.clear else ""
    return f"No clear difference between {arm.label} and {other.label} on {what}: {amount} ({where}){hint}."


def _elsewhere(grid: Grid, row: Comparison, factor: float, digits: int) -> str:
    """The same comparison at the other scales: few are named, many are counted."""
    others = [
        (one.scale, one.difference if one.arm is row.arm else one.difference.flipped())
        for one in (*grid.comparisons(), *grid.comparisons_beside())
        if (one.form, one.column) == (row.form, row.column)
        and {one.arm.index, one.other.index} == {row.arm.index, row.other.index}
        and one.scale is not row.scale
        and one.difference.seeds
    ]
    if len(others) <= NAMED_SCALES:
        return "".join(f"; {signed(factor * gap.estimate, digits)} at {scale.label}" for scale, gap in others)
    above = sum(gap.significant and gap.estimate > 0 for _, gap in others)
    below = sum(gap.significant and gap.estimate < 0 for _, gap in others)
    return f"; of the {len(others)} other scales clearly above at {above or 'none'}, clearly below at {below or 'none'}"


def _of_scores(grid: Grid) -> list[str]:
    """For each score the best arm against the reference, without a verdict where there is no test."""
    scale, sentences = grid.scales[-1], []
    for score in grid.scores():
        rows = [
            row
            for row in grid.comparisons()
            if (row.scale, row.metric, row.metric_form, row.other) == (scale, *score, grid.reference)
        ]
        rows = [row for row in rows if row.difference.seeds]
        if not rows:
            continue
        sign = 1 if metric(score[0]).more else -1
        row = max(rows, key=lambda row: sign * row.difference.estimate)
        sentences.append(_score_sentence(grid, row))
    return sentences


def _score_sentence(grid: Grid, row: Comparison) -> str:
    of, form, gap, scale = metric(row.metric), row.metric_form, row.difference, row.scale
    digits, factor = of.digits, of.factor
    a, b = (number(factor * grid.number(scale, arm, of.name, form).value, digits) for arm in (row.arm, row.other))
    low, high = factor * gap.low, factor * gap.high
    spread = f" {bounds(low, high, digits)}" if gap.kind == "95%" else ""
    if gap.kind == "seeds":
        spread = f" ({signed(low, digits)} to {signed(high, digits)} over {gap.seeds} seeds)"
    where = ", ".join(filter(None, [of.titled, f"{form} prompts" if form else "", scale.label]))
    doubt = "" if gap.significant or gap.kind != "95%" else ", no clear difference"
    difference = f"{signed(factor * gap.estimate, digits)}{spread}{doubt}{_elsewhere(grid, row, factor, digits)}"
    return f"{_capital(where)}: {row.arm.label} {a}, {row.other.label} {b}; {difference}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
