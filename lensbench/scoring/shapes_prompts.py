"""The evaluation prompts of the shapes world: GenEval's six tasks on its shapes and colors.

A prompt set depends on the evaluation's seed alone, so every cell of a sweep is asked the same. A smaller set is the
beginning of a larger one. Each prompt has one text per prompt form (lensbench.forms): "short" is GenEval's own wording,
and the others describe one scene that satisfies the row, the same in every form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

from lensbench.captions.scene_writer import Claim, claims, wording
from lensbench.captions.unseen_writer import unseen_wording
from lensbench.data.scenes import COLORS, PLACES, RELATIONS, SHAPES, Scene
from lensbench.data.shapes import scene_matching
from lensbench.scoring.geneval import TASKS, make_row
from lensbench.streams import numpy_stream

if TYPE_CHECKING:
    import numpy as np

    from lensbench.experiment import Evaluation, Form


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt.

    index: its number in the whole set; task: a GenEval tag; row: what `geneval.verdict` checks; texts: the wording in
    each prompt form; samples: images to draw for it, per form.
    """

    index: int
    task: str
    row: dict[str, Any]
    texts: dict[Form, str]
    samples: int


def prompt_set(evaluation: Evaluation, max_objects: int = len(PLACES)) -> list[Prompt]:
    """The GenEval prompts of an evaluation, task by task, on a world of at most `max_objects` objects a scene."""
    seed = evaluation.prompt_seed
    return spread(
        evaluation, lambda task: task_rows(task, seed, max_objects), lambda row, form, n: _text(row, form, seed, n)
    )


def spread(
    evaluation: Evaluation,
    rows_of: Callable[[str], list[dict[str, Any]]],
    text: Callable[[dict[str, Any], Form, int], str],
) -> list[Prompt]:
    """The first prompts of each task, with their wordings by `text(row, form, number within the task)`.

    A task has as many distinct prompts as there are, but no more than `prompts_per_task` nor than `images_per_task`;
    each gets the same number of samples, so that a task has about `images_per_task` images a form (within half the
    number of its prompts).
    """
    most = min(evaluation.prompts_per_task, evaluation.images_per_task)
    prompts: list[Prompt] = []
    for task in TASKS:
        rows = rows_of(task)[:most]
        samples = int(evaluation.images_per_task / len(rows) + 0.5)
        for number, row in enumerate(rows):
            texts = {form: text(row, form, number) for form in evaluation.forms}
            prompts.append(Prompt(len(prompts), task, row, texts, samples))
    return prompts


def task_rows(task: str, prompt_seed: int, max_objects: int = len(PLACES)) -> list[dict[str, Any]]:
    """Every distinct row of a task, shuffled, the counts (2 to `max_objects`) or the four relations taking turns.

    The official rules hold: two classes are always different, and so are the two colors of color_attr. No color is a
    background's.
    """
    pairs = list(permutations(SHAPES, 2))
    if task == "single_object":
        groups = [[make_row(task, (shape, "")) for shape in SHAPES]]
    elif task == "two_object":
        groups = [[make_row(task, (a, ""), (b, "")) for a, b in pairs]]
    elif task == "counting":
        groups = [[make_row(task, (shape, ""), count=n) for shape in SHAPES] for n in range(2, max_objects + 1)]
    elif task == "colors":
        groups = [[make_row(task, (shape, color)) for shape in SHAPES for color in COLORS]]
    elif task == "position":
        groups = [[make_row(task, (a, ""), (b, ""), relation=relation) for a, b in pairs] for relation in RELATIONS]
    elif task == "color_attr":
        groups = [[make_row(task, (a, c), (b, d)) for a, b in pairs for c, d in permutations(COLORS, 2)]]
    else:
        raise ValueError(f"unknown GenEval task {task!r}: choose from {', '.join(TASKS)}")
    rng = numpy_stream(prompt_seed, f"prompts/{task}")
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in groups]
    return [row for turn in zip(*shuffled, strict=True) for row in turn]


def digest(prompts: Iterable[Prompt], held_out: Mapping[str, Sequence[str]] | None = None) -> str:
    """sha256, in hexadecimal, over every field of every prompt in order, and over held-out texts by form if given."""
    values: list[Any] = [asdict(prompt) for prompt in prompts]
    if held_out is not None:
        values.append({form: list(texts) for form, texts in held_out.items()})
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def described(
    row: dict[str, Any], prompt_seed: int, number: int
) -> tuple[Scene, tuple[Claim, ...], np.random.Generator]:
    """The scene that a row's longer prompts describe, what a detailed caption claims of it, and the generator of its
    wording. `number` is the row's place in its task."""
    rng = numpy_stream(prompt_seed, f"prompts/detailed/{row['tag']}", number)
    scene = scene_matching(row, rng)
    return scene, claims(scene, rng), rng


def detailed_text(row: dict[str, Any], prompt_seed: int, number: int) -> str:
    """The detailed wording of a row, of which `number` is its place in its task."""
    _, said, rng = described(row, prompt_seed, number)
    return wording(said, rng)


def relational_text(row: dict[str, Any], prompt_seed: int, number: int) -> str:
    """The detailed wording of a row without its places. A relation that the row asks is the one that is named: the
    detailed wording of a diagonal pair may name the other one and leave this one to the places."""
    _, said, rng = described(row, prompt_seed, number)
    return wording(without_places(as_asked(row, said)), rng)


def held_out_text(row: dict[str, Any], prompt_seed: int, number: int) -> str:
    """What the detailed prompt says, in words that no caption uses; where the row asks a relation, that relation in
    place of the places, which would answer it."""
    _, said, _ = described(row, prompt_seed, number)
    asked = as_asked(row, said)
    rng = numpy_stream(prompt_seed, f"prompts/held_out/{row['tag']}", number)
    return unseen_wording(said if asked is said else without_places(asked), rng)


def as_asked(row: dict[str, Any], said: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims with the relations that a row asks in place of their own; the same claims where it asks none."""
    asked = [(i, *item["position"]) for i, item in enumerate(row["include"]) if item.get("position")]
    if not asked:
        return said
    relations = (Claim("relation", relation, i, other) for i, relation, other in asked)
    return (*(claim for claim in said if claim.kind != "relation"), *relations)


def without_places(said: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims that name no place."""
    return tuple(claim for claim in said if claim.kind != "place")


def reworded(texts: Sequence[str], prompt_seed: int) -> list[str]:
    """The detailed wording of short prompts of this world, in any order that keeps each task's prompts in theirs.

    Of the texts of a `prompt_set` with that seed it gives the very wording that the set has. Raises ValueError for a
    text that is no prompt of this world.
    """
    rows = {row["prompt"]: row for task in TASKS for row in task_rows(task, prompt_seed)}
    numbers: dict[str, int] = {}
    found = []
    for text in texts:
        if (row := rows.get(text)) is None:
            raise ValueError(f"the shapes world has no prompt {text!r}: its rules cannot reword it, a model can")
        number = numbers.get(row["tag"], 0)
        found.append(detailed_text(row, prompt_seed, number))
        numbers[row["tag"]] = number + 1
    return found


def repeated(short: str, detailed: str) -> str:
    """The short wording as often as brings it nearest to the length of the detailed one, in words: length without
    content, to tell what a longer prompt does from what it says."""
    times = max(1, round(len(detailed.split()) / max(1, len(short.split()))))
    return ", ".join([short] * times)


def _text(row: dict[str, Any], form: Form, prompt_seed: int, number: int) -> str:
    short = str(row["prompt"])
    if form == "short":
        return short
    if form == "repeated":
        return repeated(short, detailed_text(row, prompt_seed, number))
    written = {"detailed": detailed_text, "relational": relational_text, "held_out": held_out_text}
    return written[form](row, prompt_seed, number)
