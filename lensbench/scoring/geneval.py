"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): the official prompts, the verdict on one image, and the scores.

The reference implementation needs mmdet 2.x, which most machines can no longer install. What is here is its protocol
and nothing else: no detector, no picture. The same detections get the same verdict whatever found them, and the
classes may be any strings.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four")

# COCO's eighty in COCO's order; three have a longer name than there, so that a text-to-image model understands them.
CLASSES = tuple(
    name.strip()
    for name in """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush
    """.split(",")  # noqa: SIM905 (eighty quoted lines read worse)
)

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MOST_PER_CLASS = 16
OFFICIAL_SEED = 43
OFFICIAL_DRAWS = 100
OFFICIAL_SAMPLES = 4

Row = dict[str, Any]
Detection = Sequence[float]  # x1, y1, x2, y2, score; x to the right, y down


def with_article(noun: str) -> str:
    """The noun with "a" or "an" by its first letter: "a ring", "an orange ring", and also "a skis"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The noun with "s", or "es" after an s: "crosses", and also "toothbrushs"."""
    return noun + ("es" if noun.endswith("s") else "s")


def make_row(tag: str, *wanted: tuple[str, str], count: int = 1, relation: str = "") -> Row:
    """A metadata row with its prompt.

    `wanted` holds a (class, color) for each object in the order of the prompt; "" is any color. `count` is for
    counting; `relation` is for position: where the first object stands as seen from the second.
    """
    include: list[dict[str, Any]] = [{"class": name, "count": count} for name, _ in wanted]
    for clause, (_, color) in zip(include, wanted, strict=True):
        if color:
            clause["color"] = color
    row: Row = {"tag": tag, "include": include}
    nouns = [with_article(f"{color} {name}".strip()) for name, color in wanted]
    words = " and ".join(nouns)
    if tag == "counting":
        row["exclude"] = [{"class": wanted[0][0], "count": count + 1}]
        words = f"{NUMBERS[count]} {plural(wanted[0][0])}"
    elif tag == "position":
        include.reverse()  # the object that stays comes first, so that the clause of the other can point at it
        include[1]["position"] = [relation, 0]
        words = f" {relation} ".join(nouns)
    row["prompt"] = f"a photo of {words}"
    return row


def official_prompts() -> list[Row]:
    """The 553 official rows in their order: {"tag", "include", "exclude"?, "prompt"}.

    One numpy stream (seed 43) draws them task by task, 100 draws a task, and a repeated draw is dropped. The order of
    the draws within a prompt (classes, then number, color or relation) is part of the protocol.
    """
    rng = np.random.default_rng(OFFICIAL_SEED)
    total = len(CLASSES)

    def two_object() -> Row:
        first, second = rng.choice(total, size=2, replace=False)
        return make_row("two_object", (CLASSES[first], ""), (CLASSES[second], ""))

    def counting() -> Row:
        drawn = rng.choice(total)
        return make_row("counting", (CLASSES[drawn], ""), count=int(rng.integers(2, 4, endpoint=True)))

    def colors() -> Row:
        drawn = rng.choice(total - 1) + 1  # nobody is asked for a purple person, the first class
        return make_row("colors", (CLASSES[drawn], COLORS[rng.choice(len(COLORS))]))

    def position() -> Row:
        first, second = rng.choice(total, size=2, replace=False)
        relation = RELATIONS[rng.choice(len(RELATIONS))]
        return make_row("position", (CLASSES[first], ""), (CLASSES[second], ""), relation=relation)

    def color_attr() -> Row:
        first, second = rng.choice(total - 1, size=2, replace=False) + 1
        one, other = rng.choice(len(COLORS), size=2, replace=False)
        return make_row("color_attr", (CLASSES[first], COLORS[one]), (CLASSES[second], COLORS[other]))

    rows = [make_row("single_object", (CLASSES[i], "")) for i in rng.choice(total, size=total, replace=False)]
    for draw in (two_object, counting, colors, position, color_attr):
        unique: dict[str, Row] = {}  # the prompt holds all that was drawn, so equal prompts are equal draws
        for row in (draw() for _ in range(OFFICIAL_DRAWS)):
            unique.setdefault(row["prompt"], row)
        rows += unique.values()
    return rows


def official_metadata_jsonl() -> bytes:
    """The official evaluation_metadata.jsonl, byte for byte."""
    return "".join(json.dumps(row) + "\n" for row in official_prompts()).encode()


class Verdict(NamedTuple):
    """Whether an image shows what its row asks for; `reason` is empty when it does."""

    correct: bool
    reason: str


def keep(
    detections: Mapping[str, Sequence[Detection]], tag: str, threshold: float | None = None
) -> dict[str, list[int]]:
    """For each class the indices, in the caller's own list, of the detections that count, highest score first.

    Score above 0.3 (above 0.9 for counting) or above `threshold` where one is given; at most 16 a class; no
    suppression of overlaps. Of equal scores the later one comes first, as in the reference. Classes with nothing
    left are absent.
    """
    least = threshold if threshold is not None else COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    kept = {}
    for name, found in detections.items():
        order = sorted((i for i in range(len(found)) if found[i][4] > least), key=lambda i: (-found[i][4], -i))
        if order:
            kept[name] = order[:MOST_PER_CLASS]
    return kept


def relation(box_a: Detection, box_b: Detection) -> set[str]:
    """The relations in which box A stands to box B: none, one, or two for a diagonal.

    Each box starts with x1, y1, x2, y2, in any unit. An offset within a tenth of the two boxes' added sides is no
    offset along that axis.
    """
    a = np.asarray(box_a[:4], dtype=np.float64).reshape(2, 2)
    b = np.asarray(box_b[:4], dtype=np.float64).reshape(2, 2)
    offset = a.mean(0) - b.mean(0)
    slack = 0.1 * (np.abs(a[1] - a[0]) + np.abs(b[1] - b[0]))
    beyond = np.maximum(np.abs(offset) - slack, 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, true in holds.items() if true}


def verdict(
    row: Row,
    detections: Mapping[str, Sequence[Detection]],
    color_of: Callable[[str, int], str],
    *,
    threshold: float | None = None,
) -> Verdict:
    """The verdict on one image.

    `detections` are raw: {class: [(x1, y1, x2, y2, score), ...]}, in any order and with any scores; `keep` says which
    count. `color_of(class, index)` names the color of detection `index` of that list as the caller gave it; it is
    asked only for objects whose color matters. `threshold` replaces both score thresholds, for a detector whose
    scores mean something else.
    """
    kept = keep(detections, row["tag"], threshold)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []  # what stood in for each clause; None where the clause failed
    for clause in row.get("include", ()):
        name, count = clause["class"], clause["count"]
        chosen = kept.get(name, [])[:count]
        found = [detections[name][i] for i in chosen]
        wrong = ""
        if len(found) < count:
            wrong = f"{len(found)} of {count} {name} found"
        if not wrong and "color" in clause:
            colors = [color_of(name, i) for i in chosen]
            if colors.count(clause["color"]) < count:
                wrong = f"{name} should be {clause['color']}, is {', '.join(colors)}"
        if not wrong and "position" in clause:
            wrong = _misplaced(name, found, clause["position"], groups)
        if wrong:
            reasons.append(wrong)
        groups.append(None if wrong else found)
    for clause in row.get("exclude", ()):
        found_count = len(kept.get(clause["class"], []))
        if found_count >= clause["count"]:
            reasons.append(f"{found_count} {clause['class']} found, fewer than {clause['count']} wanted")
    return Verdict(not reasons, "; ".join(reasons))


def _misplaced(
    name: str, found: list[Detection], position: Sequence[Any], groups: Sequence[list[Detection] | None]
) -> str:
    """What is wrong with the place of `found`, or "": each must stand so to each object of the target clause."""
    wanted, index = position
    targets = groups[index]
    if targets is None:
        return f"nothing for {name} to be {wanted}"
    for one in found:
        for target in targets:
            holds = relation(one, target)
            if wanted not in holds:
                return f"{name} should be {wanted} its target, is {' and '.join(sorted(holds)) or 'beside none'}"
    return ""


class Summary(NamedTuple):
    """GenEval's numbers, as fractions: `overall` is the unweighted mean of the task accuracies over images."""

    tasks: dict[str, float]
    overall: float
    images: int
    images_correct: float
    prompts_any_correct: float


def official_plan(samples: int = OFFICIAL_SAMPLES) -> dict[tuple[str, int], int]:
    """What a complete official run holds: {(task, prompt index 0..552): images}."""
    return {(row["tag"], index): samples for index, row in enumerate(official_prompts())}


def summary(outcomes: Iterable[Mapping[str, Any]], plan: Mapping[tuple[str, int], int] | None = None) -> Summary:
    """The scores of a complete set of outcomes: rows with "task", "prompt_index", "sample" and "value" (0 or 1).

    `plan` says how many images each (task, prompt index) has; without one it is the official set with four images a
    prompt. Raises ValueError naming what is missing, twice there, unplanned or not 0 or 1: a score over part of the
    prompts is another score.
    """
    plan = official_plan() if plan is None else plan
    judged: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for row in outcomes:
        task, index, sample, value = (row[column] for column in ("task", "prompt_index", "sample", "value"))
        what = f"{task} prompt {index} sample {sample}"
        if (task, index) not in plan:
            raise ValueError(f"{what} is not one of the {len(plan)} planned prompts; score the set it belongs to")
        if sample in judged[task, index]:
            raise ValueError(f"{what} is there twice; give each image once")
        if value not in (0, 1):
            raise ValueError(f"{what} has the value {value!r}; a verdict is 0 or 1")
        judged[task, index][sample] = float(value)
    _refuse_incomplete(judged, plan)
    by_task: dict[str, list[float]] = {task: [] for task, _ in plan}
    for (task, _), values in judged.items():
        by_task[task] += values.values()
    accuracies = {task: float(np.mean(values)) for task, values in by_task.items()}
    everything = [value for values in by_task.values() for value in values]
    return Summary(
        tasks=accuracies,
        overall=float(np.mean(list(accuracies.values()))),
        images=len(everything),
        images_correct=float(np.mean(everything)),
        prompts_any_correct=float(np.mean([any(values.values()) for values in judged.values()])),
    )


def _refuse_incomplete(judged: Mapping[tuple[str, int], dict[int, float]], plan: Mapping[tuple[str, int], int]) -> None:
    """Raise ValueError when an outcome is missing (or one too many), naming the first few."""
    if not plan:
        raise ValueError("no prompts are planned; there is nothing to score")
    wrong = [
        f"{task} prompt {index} ({len(judged.get((task, index), ()))} of {images} images)"
        for (task, index), images in plan.items()
        if len(judged.get((task, index), ())) != images
    ]
    if wrong:
        rest = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"{len(wrong)} of {len(plan)} prompts lack images or have too many: {', '.join(wrong[:4])}{rest}; "
            "generate and judge what is missing, then score again"
        )
