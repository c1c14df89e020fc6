"""The prompt forms: which caption sets are worded alike is measured, and every part of the program knows every form."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from lensbench.captions.scene_writer import NUMBERS, PLURALS, write
from lensbench.data.scenes import BACKGROUNDS, COLORS, SHAPES, SIZES
from lensbench.data.shapes import scene
from lensbench.experiment import SHAPES_CAPTION_SETS, Evaluation
from lensbench.forms import FORMS, REGISTRY, Form, neutral, order_of, told, trained_on
from lensbench.scoring.shapes_prompts import prompt_set
from lensbench.streams import numpy_stream

NAMES = {
    **dict.fromkeys((*SHAPES, *PLURALS.values()), "SHAPE"),
    **dict.fromkeys(COLORS, "COLOR"),
    **dict.fromkeys(BACKGROUNDS, "BACKGROUND"),
    **dict.fromkeys(SIZES, "SIZE"),
    **dict.fromkeys(NUMBERS.values(), "NUMBER"),
    "an": "a",
}
# A set has a form's templates where it shares this much of the form's trigrams, with the names above left open.
MOST = 0.6
DOSES = (0.25, 0.5, 0.75)


def grams(text: str, n: int, *, signs: bool = True, names: bool = True) -> set[tuple[str, ...]]:
    """The n-grams of words and, with `signs`, of punctuation; `names` leaves shapes, colors, sizes and numbers open."""
    words = re.findall(r"[a-z]+|\d+|[^\sa-z\d]" if signs else r"[a-z]+|\d+", text.lower())
    words = [NAMES.get(word, word) for word in words] if names else words
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@cache
def of_captions(caption_set: str, n: int, *, signs: bool = True, names: bool = True) -> frozenset[tuple[str, ...]]:
    """The n-grams of a caption set, of a thousand scenes at each dose."""
    found: set[tuple[str, ...]] = set()
    for present in DOSES if caption_set == "dose" else (1.0,):
        for i in range(1000):
            rng = numpy_stream(0, f"forms/{caption_set}/{present}", i)
            found |= grams(write(scene(0, "train", i), caption_set, rng, present), n, signs=signs, names=names)
    return frozenset(found)


def shared(form: Form, caption_set: str) -> float:
    """The share of a form's trigrams, over all prompts, that captions have too."""
    prompts = prompt_set(Evaluation(forms=(form,), prompts_per_task=40, images_per_task=40))
    every = [grams(prompt.texts[form], 3) for prompt in prompts]
    there = of_captions(caption_set, 3)
    return sum(len(one & there) for one in every) / sum(map(len, every))


# The repeated form is the short one: its templates are those, and the seams between its copies are no caption's.
@pytest.mark.parametrize("form", ["short", "detailed", "relational", "held_out"])
@pytest.mark.parametrize("caption_set", SHAPES_CAPTION_SETS)
def test_the_registry_names_the_caption_sets_that_share_most_of_a_forms_trigrams(form: Form, caption_set: str) -> None:
    assert trained_on(form, caption_set) == (shared(form, caption_set) > MOST)


def test_a_mixture_is_trained_on_the_templates_of_each_of_its_sets() -> None:
    assert trained_on("detailed", "0.5*alt+0.5*detailed")
    assert not trained_on("detailed", "0.5*alt+0.5*brief")
    assert not trained_on("detailed", "somebody's")


def test_a_headline_may_rest_on_forms_that_no_arm_is_trained_on() -> None:
    assert neutral(FORMS, ["alt", "brief", "detailed"]) == ("held_out",)
    assert neutral(("held_out", "detailed", "short"), ["alt", "detailed"]) == ("short", "held_out")
    assert neutral(("short", "detailed"), ["alt", "0.5*brief+0.5*detailed"]) == ()


def test_every_form_is_told_in_one_line_and_has_a_place() -> None:
    assert get_args(Form) == FORMS == tuple(REGISTRY)
    assert [order_of(form) for form in (*FORMS, "of elsewhere")] == list(range(len(FORMS) + 1))
    for form in FORMS:
        assert told(form).startswith(f"{form}: ")
        assert "\n" not in told(form)
        assert not told(form).endswith(".")
    with pytest.raises(ValueError, match="prompt form 'longer': choose from short"):
        told("longer")


def test_the_docs_say_of_each_form_what_the_registry_says() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "ablation.md").read_text(encoding="utf-8")
    for form in REGISTRY.values():
        alike = ", ".join(f"`{name}`" for name in sorted(form.templates_of)) or "none"
        assert f"| `{form.name}` | {form.told} | {alike} |" in docs
