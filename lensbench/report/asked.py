"""What a sweep asks of its results: which comparison is its primary question, which are secondary or post hoc."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lensbench.metrics import GENEVAL, ordered
from lensbench.metrics import metric as named
from lensbench.report.paired import ASKED, DESCRIPTIVE, PRIMARY, SECONDARY, Role
from lensbench.report.placing import plain

if TYPE_CHECKING:
    from lensbench.report.grid import Grid
    from lensbench.report.levels import Level


def asked_pairs(grid: Grid) -> list[tuple[Level, Level]]:
    """The pairs of arms that are asked about, in the order of the questions; of arms that are not there, none."""
    found = (_pair(grid, question) for question in grid.results.questions)
    return list(dict.fromkeys(pair for pair in found if pair is not None))


def asks_alone(grid: Grid) -> bool:
    """Whether the tables tell what is asked and nothing beside: a sweep of questions without a primary one."""
    questions = grid.results.questions
    return bool(questions) and not any(role_of(question) == PRIMARY for question in questions)


def is_row(grid: Grid, scale: Level, form: str, arm: Level, other: Level, metric: str) -> bool:
    """Whether any number of the row that this metric stands in is asked about."""
    return any(
        (not grid.tasks or _of_geneval(question["metric"]) == _of_geneval(metric))
        and _fits(grid, question, scale, form, arm, other)
        for question in grid.results.questions
    )


def asked_as(grid: Grid, scale: Level, arm: Level, other: Level, metric: str, form: str) -> Role:
    """What the sweep asks of a number. Without a question about it, it is descriptive."""
    found = [
        role_of(question)
        for question in grid.results.questions
        if asks(grid, question, scale, arm, other, metric, form)
    ]
    return PRIMARY if PRIMARY in found else found[0] if found else DESCRIPTIVE


def role_of(question: Mapping[str, Any]) -> Role:
    """The role of a question as results keep it; those of before had secondary ones alone."""
    found: dict[str, Role] = {role: role for role in ASKED}
    return found[question.get("role", SECONDARY)]


def asks(
    grid: Grid, question: Mapping[str, Any], scale: Level, arm: Level, other: Level, metric: str, form: str
) -> bool:
    """Whether a question is about this number."""
    return question["metric"] == metric and _fits(grid, question, scale, form, arm, other)


def asked_beside(grid: Grid) -> list[str]:
    """The metrics that the sweep asks about and is scored by, beside the one that it is told by."""
    asked = {question["metric"] for question in grid.results.questions} & set(grid.results.records["metric"])
    return [name for name in ordered(asked) if name != grid.shown_metric and not named(name).variant_of]


def _of_geneval(metric: str) -> bool:
    return metric.partition(".")[0] == GENEVAL


def _fits(grid: Grid, question: Mapping[str, Any], scale: Level, form: str, arm: Level, other: Level) -> bool:
    at = dict(scale.settings)
    return (
        _pair(grid, question) == (arm, other)
        and all(at.get(factor) == plain(level) for factor, level in question["scale"].items())
        and (not form or question["form"] in (None, form))
    )


def _pair(grid: Grid, question: Mapping[str, Any]) -> tuple[Level, Level] | None:
    found = []
    for levels in (question["arm"], question["other"]):
        wanted = {factor: plain(level) for factor, level in levels.items()}
        found += [arm for arm in grid.arms if dict(arm.settings) == wanted]
    return (found[0], found[1]) if len(found) == 2 else None
