"""What captions are worth along each axis that a sweep's models are scaled on: both estimators for every score.

An axis is there when the sweep has it: data (factor `images`), parameters (`model.depth`), and along training the
images seen and the FLOPs spent (checkpoints that were scored, held-out losses that were watched, or `training.steps`).
All other factors stay at their largest level that has a curve. The statistics are lensbench.scoring.multiplier's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lensbench.metrics import leading
from lensbench.metrics import metric as named
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.placing import refuse_other_prompts
from lensbench.scoring.chance import mean as chance_mean
from lensbench.scoring.multiplier import FEWEST, LEVELS, Direct, Joint, direct, disagree, joint
from lensbench.scoring.resampling import Draws, draw_images, draw_scores

DATA, PARAMETERS, SAMPLES, COMPUTE = "data", "parameters", "samples", "compute"
AXES = (DATA, PARAMETERS, SAMPLES, COMPUTE)
MOST_ARMS = 12  # beside the reference
DRAWS = 1000
IMAGES, DEPTH, STEPS = "images", "model.depth", "training.steps"


class Point(NamedTuple):
    """A cell of the study at one step of its training."""

    scale: int
    arm: int
    step: int


class Curve(NamedTuple):
    """Errors of one arm along an axis: log of the scale, rising, and which points they are."""

    log_x: np.ndarray
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Worth:
    """What an arm's captions are worth along an axis, by one score. `joint` is None where the cells are too few."""

    metric: str
    form: str
    axis: str
    arm: Level
    where: str  # what stays fixed
    direct: Direct
    joint: Joint | None
    place: int  # of the axis among those of the joint law
    reference_curve: Curve
    arm_curve: Curve
    draws: Draws  # of the points of both curves, the reference's first
    expected: int  # seeds that the sweep has
    at_chance: tuple[Level, ...] = ()  # of the two arms, those that are not above chance where the number comes from

    @property
    def measurable(self) -> bool:
        """Whether both arms are above chance at the points that decide the number, or chance is not known."""
        return not self.at_chance

    @property
    def disagree(self) -> bool:
        """Whether the two estimators differ by more than chance."""
        return self.joint is not None and disagree(self.direct, self.joint, self.place)


class Measured:
    """The errors of a score at every point, drawn together: the same prompts in every arm and at every scale."""

    def __init__(self, grid: Grid, metric: str, form: str, arms: tuple[Level, ...]) -> None:
        self.grid, self.metric, self.form = grid, metric, form
        self.x: dict[str, dict[Point, float]] = {SAMPLES: {}, COMPUTE: {}}
        scores: dict[Point, dict[Any, float]] = {}
        for scale in grid.scales:
            for arm in arms:
                place = (scale.index, arm.index, metric, form)
                columns = [grid.numbers.column(place, name).tolist() for name in ("step", "seed", "value")]
                amounts = [grid.numbers.column(place, name).tolist() for name in ("samples_seen", "train_flops")]
                for step, seed, value, seen, flops in zip(*columns, *amounts, strict=True):
                    point = Point(scale.index, arm.index, int(step))
                    scores.setdefault(point, {})[seed] = named(metric).error(float(value))
                    self.x[SAMPLES][point], self.x[COMPUTE][point] = float(seen), float(flops)
        self._by_chance: dict[Point, float] = {}
        self.points = list(scores)
        self.places = {point: place for place, point in enumerate(self.points)}
        self.scores = scores

    @cached_property
    def last(self) -> dict[tuple[int, int], int]:
        """(scale, arm) -> the last step."""
        found: dict[tuple[int, int], int] = {}
        for scale, arm, step in self.points:
            found[scale, arm] = max(step, found.get((scale, arm), step))
        return found

    def draws(self, points: tuple[Point, ...]) -> Draws:
        """The draws of these points, image by image where every one of them was judged so."""
        judged = self._judged
        if all(point in self._of_images for point in points) and judged is not None:
            drawn = judged.of([self._of_images[point] for point in points])
        else:
            drawn = self._by_seed.of([self.places[point] for point in points])
        by_chance = np.array([self.by_chance(point) for point in points])
        return drawn if np.isnan(by_chance).any() else replace(drawn, chance=by_chance)

    def by_chance(self, point: Point) -> float:
        """The error that chance gives at a point; NaN where chance is not known."""
        if point not in self._by_chance:
            place = (*self._place(point), self.metric, self.form, point.step)
            tasks = self.grid.images(*place)["task"].to_numpy()
            self._by_chance[point] = float(named(self.metric).error(chance_mean(self.grid.chances(*place), tasks)))
        return self._by_chance[point]

    def clears(self, point: Point) -> bool:
        """Whether the score of a point is above chance; True where chance is not known."""
        found = self.grid.chance(*self._place(point), self.metric, self.form, point.step)
        return found.above or not found.known

    def _place(self, point: Point) -> tuple[Level, Level]:
        return self.grid.scales[point.scale], self.grid.arms[point.arm]

    @cached_property
    def _by_seed(self) -> Draws:
        seeds = list(self.grid.seeds)
        values = np.array([[self.scores[point].get(seed, np.nan) for seed in seeds] for point in self.points])
        return draw_scores(values, np.array([point.scale for point in self.points]), draws=DRAWS)

    @cached_property
    def _of_images(self) -> dict[Point, int]:
        judged = (point for point in self.points if point in self._images)
        return {point: place for place, point in enumerate(judged)}

    @cached_property
    def _images(self) -> dict[Point, Any]:
        """The mean of every prompt at a point, (seeds, prompts), and the prompts with their numbers of images."""
        found: dict[Point, Any] = {}
        for scale, arm in self.last:
            place = (scale, arm, named(self.metric).outcome, self.form)
            if place not in self.grid.judged:
                continue
            steps: Any = self.grid.judged[place].groupby("step")
            for step, rows in steps:
                if (point := Point(scale, arm, int(step))) in self.places:
                    found[point] = rows
        return found

    @cached_property
    def _judged(self) -> Draws | None:
        if not self._of_images:
            return None
        seeds = {seed: place for place, seed in enumerate(self.grid.seeds)}
        prompts: Any = None
        first: Any = None
        values = []
        for point in self._of_images:
            frame = self._images[point].sort_values(["seed", "task", "prompt_index", "sample"], kind="stable")
            one = frame[frame["seed"] == frame["seed"].iloc[0]]
            if prompts is None:
                first, grouped = one, one.groupby(["task", "prompt_index"], sort=True)
                prompts = grouped.size()
            else:
                same = first.assign(seed=one["seed"].iloc[0]) if len(first) == len(one) else first
                refuse_other_prompts(one, same, f"two cells of {self.metric} ({self.form} prompts)")
            of_point = np.full((len(seeds), len(prompts)), np.nan)
            means = frame.groupby(["seed", "task", "prompt_index"], sort=True)["value"].mean()
            for seed, of_seed in means.groupby(level="seed"):
                if len(of_seed) != len(prompts):
                    raise ValueError(f"seed {seed} of a cell was judged on other prompts ({self.form}): score it again")
                of_point[seeds[seed]] = of_seed.to_numpy()
            values.append(named(self.metric).error(of_point))
        tasks = prompts.index.get_level_values("task").to_numpy()
        runs = np.array([point.scale for point in self._of_images])
        return draw_images(np.array(values), prompts.to_numpy(), tasks, runs, draws=DRAWS)


def worths(grid: Grid, parameters: Mapping[str, int] | None = None) -> list[Worth]:
    """Every arm against the reference: each score, prompt form and axis there are curves for.

    `parameters` are of each cell; without them there is no axis of parameters. The first `MOST_ARMS` arms alone.
    """
    if grid.reference is None or not grid.scales:
        return []
    key = ("worths", tuple(sorted((parameters or {}).items())))
    if key not in grid.memory:
        grid.memory[key] = _worths(grid, parameters or {})
    return list(grid.memory[key])


def _worths(grid: Grid, parameters: Mapping[str, int]) -> list[Worth]:
    assert grid.reference is not None
    others = tuple(arm for arm in grid.arms if arm is not grid.reference)[:MOST_ARMS]
    sizes = _sizes(grid, parameters)
    found = []
    for metric in (name for name in leading(grid.measured) if named(name).has_error):
        for form in grid.forms(metric):
            measured = Measured(grid, metric, form, (grid.reference, *others))
            for axis in AXES:
                found += [worth for arm in others if (worth := _worth(measured, axis, arm, sizes)) is not None]
    return found


def _sizes(grid: Grid, parameters: Mapping[str, int]) -> dict[int, float]:
    """Parameters of the models of each scale."""
    found: dict[int, float] = {}
    for place in grid.numbers:
        if place[0] not in found:
            counts = [
                parameters[cell] for cell in set(grid.numbers.column(place, "cell").tolist()) if cell in parameters
            ]
            if counts:
                found[place[0]] = float(np.mean(counts))
    return found


def _worth(measured: Measured, axis: str, arm: Level, sizes: dict[int, float]) -> Worth | None:
    grid = measured.grid
    assert grid.reference is not None
    found = _curves(measured, axis, arm, sizes)
    if found is None:
        return None
    reference, own, where = found
    points = reference.points + own.points
    draws = measured.draws(points)
    n = len(reference.points)
    of_reference, of_arm = draws.of(np.arange(n)), draws.of(np.arange(n, len(points)))
    told = direct(reference.log_x, own.log_x, of_reference, of_arm)
    deciding = zip((grid.reference, arm), (reference, own), told.deciding, strict=True)
    at_chance = tuple(who for who, curve, few in deciding if not all(measured.clears(curve.points[k]) for k in few))
    fitted, place = _joint(measured, axis, arm, sizes, where) if not at_chance else (None, 0)
    shown = ", ".join(level for level in (where.label,) if level)
    return Worth(
        *(measured.metric, measured.form, axis, arm, shown),
        told,
        fitted,
        place,
        reference,
        own,
        draws,
        min(len(grid.planned[point.scale, point.arm]) for point in points),
        at_chance,
    )


class Where(NamedTuple):
    """The scales of a curve and what they have in common."""

    scales: tuple[Level, ...]
    label: str


def _curves(measured: Measured, axis: str, arm: Level, sizes: dict[int, float]) -> tuple[Curve, Curve, Where] | None:
    """The curve of the reference and of the arm, over the places that both have."""
    grid = measured.grid
    assert grid.reference is not None
    factor = {DATA: IMAGES, PARAMETERS: DEPTH}.get(axis, STEPS)
    if axis in (DATA, PARAMETERS) and factor not in grid.scale_factors:
        return None
    for where in reversed(_groups(grid, factor)):
        of_arm = [_points(measured, axis, where.scales, who, sizes) for who in (grid.reference, arm)]
        if axis in (DATA, PARAMETERS):  # the same levels for both
            shared = {point.scale for _, point in of_arm[0]} & {point.scale for _, point in of_arm[1]}
            of_arm = [[(x, point) for x, point in points if point.scale in shared] for points in of_arm]
        if all(len({x for x, _ in points}) == len(points) > 1 for points in of_arm):
            a, b = (Curve(np.log([x for x, _ in points]), tuple(point for _, point in points)) for points in of_arm)
            return a, b, where
    return None


def _points(
    measured: Measured, axis: str, scales: tuple[Level, ...], arm: Level, sizes: dict[int, float]
) -> list[tuple[float, Point]]:
    """(scale's amount, point) of an arm along an axis, rising."""
    found = []
    for scale in scales:
        last = measured.last.get((scale.index, arm.index))
        if last is None:
            continue
        steps = [p.step for p in measured.points if (p.scale, p.arm) == (scale.index, arm.index)]
        along_training = axis in (SAMPLES, COMPUTE) and STEPS not in measured.grid.scale_factors
        for step in sorted(steps) if along_training else [last]:
            point = Point(scale.index, arm.index, step)
            x = _amount(measured, axis, scale, point, sizes)
            if x:
                found.append((x, point))
    return sorted(found)


def _amount(measured: Measured, axis: str, scale: Level, point: Point, sizes: dict[int, float]) -> float:
    if axis == DATA:
        return float(dict(scale.settings).get(IMAGES, 0))
    return sizes.get(scale.index, 0.0) if axis == PARAMETERS else measured.x[axis][point]


def _groups(grid: Grid, factor: str) -> list[Where]:
    """The scales that differ in this factor alone, the largest other levels last."""
    groups: dict[tuple[Any, ...], list[Level]] = {}
    for scale in grid.scales:
        groups.setdefault(tuple(pair for pair in scale.settings if pair[0] != factor), []).append(scale)
    order = sorted(groups, key=lambda settings: tuple((_number(value), 0) for _, value in settings))
    return [Where(tuple(groups[settings]), _label(groups[settings], factor)) for settings in order]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _label(scales: list[Level], factor: str) -> str:
    from lensbench.report.levels import factor_label

    words = [factor_label(name, value) for name, value in scales[0].settings if name != factor]
    return ", ".join(filter(None, words))


def _joint(
    measured: Measured, axis: str, arm: Level, sizes: dict[int, float], where: Where
) -> tuple[Joint | None, int]:
    """The joint law over this axis and, where the sweep has enough of both, data and parameters together."""
    grid = measured.grid
    second = {DATA: PARAMETERS, PARAMETERS: DATA, SAMPLES: PARAMETERS}.get(axis)
    for axes in ([axis, second], [axis]) if second else ([axis],):
        scales = where.scales if len(axes) == 1 else _beside(grid, where, axes)
        of_arm = [_places(measured, axes, scales, who, sizes) for who in (grid.reference, arm) if who is not None]
        shared = {point[:1] + point[2:] for _, point in of_arm[0]} & {point[:1] + point[2:] for _, point in of_arm[1]}
        kept = [[(x, point) for x, point in places if point[:1] + point[2:] in shared] for places in of_arm]
        if sum(map(len, kept)) < FEWEST or any(
            len({x[k] for x, _ in places}) < LEVELS for places in kept for k in range(len(axes))
        ):
            continue
        logs = [[np.log([x[k] for x, _ in places]) for k in range(len(axes))] for places in kept]
        draws = [measured.draws(tuple(point for _, point in places)) for places in kept]
        return joint(logs[0], logs[1], draws[0], draws[1]), 0
    return None, 0


def _beside(grid: Grid, where: Where, axes: list[str]) -> tuple[Level, ...]:
    """The scales that differ from those of the curve in the factors of these axes alone."""
    free = {{DATA: IMAGES, PARAMETERS: DEPTH}.get(axis, STEPS) for axis in axes}
    fixed = {pair for pair in where.scales[0].settings if pair[0] not in free}
    return tuple(scale for scale in grid.scales if fixed <= set(scale.settings))


def _places(
    measured: Measured, axes: list[str], scales: tuple[Level, ...], arm: Level, sizes: dict[int, float]
) -> list[tuple[tuple[float, ...], Point]]:
    """(amounts on the axes, point) of an arm at these scales; along training where an axis is."""
    found = []
    for scale in scales:
        own = _points(measured, axes[0], (scale,), arm, sizes)
        found += [(tuple(_amount(measured, a, scale, point, sizes) for a in axes), point) for _, point in own]
    return [(x, point) for x, point in found if all(x)]
