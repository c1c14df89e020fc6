"""What a sweep is asked: one primary question, which is one number; secondary ones; and those asked post hoc."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lensbench.experiment import Evaluation, Experiment
from lensbench.sweep.collecting import asked
from lensbench.sweep.design import scored_cells
from lensbench.sweep.questions import Question, comparisons
from lensbench.sweep.sweep import Sweep, cells

DETAILED = {"captions.set": "detailed"}


def sweep(
    primary: Question | None = None, *questions: Question, forms: tuple[str, ...] = ("short", "held_out")
) -> Sweep:
    base = Experiment(evaluation=Evaluation(forms=forms))  # type: ignore[arg-type]
    factors: dict[str, Any] = {"captions.set": ("alt", "brief", "detailed"), "model.depth": (2, 3), "seed": (0,)}
    reference = {"captions.set": "alt"}
    return Sweep(name="s", base=base, factors=factors, reference=reference, primary=primary, questions=questions)


def test_each_question_is_told_with_its_role() -> None:
    primary = Question(arm=DETAILED, at={"model.depth": 3}, form="held_out")
    made = sweep(primary, Question(arm={"captions.set": "brief"}), Question(arm=DETAILED, post_hoc=True))
    assert [asked(made, question)["role"] for question in made.asked()] == ["primary", "secondary", "post hoc"]
    places = scored_cells(cells(made))
    assert [comparisons([question], places, made.reference_arm()) for question in made.asked()] == [1, 4, 4]


@pytest.mark.parametrize(
    ("question", "forms", "said"),
    [
        ({"form": "held_out"}, None, "name one level of model.depth"),
        ({"at": {"model.depth": 3}}, None, "name one of short, held_out"),
        ({"at": {"model.depth": 3}, "form": "held_out", "post_hoc": True}, None, "post hoc confirms nothing"),
        (
            {"at": {"model.depth": 3}, "form": "detailed"},
            ("detailed",),
            "'detailed' is worded as the captions of",
        ),
    ],
)
def test_a_primary_question_is_one_number_that_no_arm_is_favoured_in(
    question: dict[str, Any], forms: tuple[str, ...] | None, said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        sweep(Question(arm=DETAILED, **question), **({"forms": forms} if forms else {}))
