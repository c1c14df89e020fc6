"""Whose values a cell is trained with, and which tunings are refused: nothing is trained here."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lensbench.experiment import Experiment, one_line
from lensbench.sweep.constraints import resolved
from lensbench.sweep.sweep import Range, Sweep, Tuning, cells, drafts
from lensbench.sweep.tuned import own_values, units, values_elsewhere

RATE = {"training.learning_rate": Range(low=1e-3, high=0.1, log=True)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {}}, ["search"]),
        ({"search": {"training.steps": Range(low=1, high=9)}}, ["training.steps cannot be tuned"]),
        ({"search": {"model.depth": Range(low=1, high=9)}}, ["model.depth cannot be tuned"]),
        ({"search": {"training.rate": Range(low=1, high=9)}}, ["training.rate"]),
        ({"search": {"training.clip": Range(low=-1, high=9)}}, ["training.clip", "greater than 0"]),
        ({"search": {"training.clip": (0.3,)}}, ["at least two values"]),
        ({"search": {"training.clip": {"low": 2, "high": 1}}}, ["not below"]),
        ({"search": {"training.clip": {"low": 0, "high": 1, "log": True}}}, ["above zero"]),
        ({"search": {"training.warmup_steps": (1, 2)}}, ["training.warmup_steps is a factor"]),
        ({"seeds": (0,)}, ["seed 0 is reported"]),
        ({"seeds": (5, 5)}, ["name each once"]),
        ({"prompt_seed": 1}, ["prompt_seed=1 is reported"]),
        ({"pruner": "asha", "objective": "geneval"}, ["asha", "validation_loss"]),
        ({"pruner": "wilcoxon"}, ["at least 3"]),
        ({"trials": 0}, ["trials"]),
        ({"at": {"captions.set": "alt"}}, ["at: captions.set", "every arm is tuned"]),
        ({"at": {"images": 16}}, ["at: images is no scale factor"]),
        ({"at": {"training.warmup_steps": 50}}, ["at: training.warmup_steps=50 is not one of its levels"]),
    ],
)
def test_a_tuning_that_makes_no_sense_or_sees_what_is_reported_is_refused(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        Sweep(
            name="s",
            base=Experiment(),
            factors={"captions.set": ("alt",), "training.warmup_steps": (30, 40), "seed": (0, 1)},
            reference={"captions.set": "alt"},
            tuning=Tuning(**({"search": RATE, "trials": 2} | changes)),
        )
    line = one_line(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_what_is_tuned_at_one_scale_is_used_at_the_others_by_each_arm_its_own() -> None:
    sweep = Sweep(
        name="s",
        base=Experiment(),
        factors={"captions.set": ("alt", "brief"), "images": (16, 32), "model.depth": (1, 2), "seed": (0, 1)},
        reference={"captions.set": "alt"},
        tuning=Tuning(search=RATE, trials=2, at={"images": 32}),
    )
    found = units(sweep)
    assert len(found) == 4
    assert {cell.experiment.images for cell in found.values()} == {32}
    rates = {name: {"training.learning_rate": 1e-3 * (i + 1)} for i, name in enumerate(found)}
    told = {"units": [{"unit": name, "values": values} for name, values in rates.items()], "digest": "0" * 64}
    of_arm: dict[tuple[str, int], set[float]] = {}
    for cell in cells(resolved(sweep, told, own_values(sweep, told))):
        arm = (cell.levels["captions.set"], cell.levels["model.depth"])
        of_arm.setdefault(arm, set()).add(cell.experiment.training.learning_rate)
    assert len(of_arm) == 4
    assert sorted(rate for rates in of_arm.values() for rate in rates) == [1e-3, 2e-3, 3e-3, 4e-3]


def test_an_arm_that_is_not_where_tuning_is_has_nothing_to_be_trained_with() -> None:
    with pytest.raises(ValidationError, match=r"at: no cell \[captions.set=brief images=32\] to tune for"):
        Sweep(
            name="s",
            base=Experiment(),
            factors={"captions.set": ("alt", "brief"), "images": (16, 32)},
            exclude=({"captions.set": "brief", "images": 32},),
            reference={"captions.set": "alt"},
            tuning=Tuning(search=RATE, trials=2, at={"images": 32}),
        )


def borrowing(factors: dict[str, Any] | None = None, **evaluation: Any) -> Sweep:
    """A sweep that takes the values of `TUNED`."""
    base = SMALL.replace({f"evaluation.{name}": value for name, value in evaluation.items()})
    given = {"captions.set": ("alt", "detailed"), "captions.max_words": (None, 5)} | (factors or {})
    reference = {name: levels[0] for name, levels in given.items() if name.startswith("captions.")}
    return Sweep(name="borrowing", base=base, factors=given, reference=reference, tuned_by="tuned")


SMALL = Experiment().replace({"images": 32, "training.steps": 4})
TUNED = Sweep(
    name="tuned",
    base=SMALL,
    factors={"captions.set": ("alt", "detailed"), "captions.max_words": (None, 5), "images": (16, 32)},
    reference={"captions.set": "alt", "captions.max_words": None},
    tuning=Tuning(search={"training.clip": Range(low=0.1, high=1.0)}, trials=1, at={"images": 16}),
)
CLIPS = {"units": [{"unit": name, "values": {"training.clip": 0.1 + 0.1 * n}} for n, name in enumerate(units(TUNED))]}


def test_an_arm_is_the_same_where_all_of_its_policy_is() -> None:
    sweep = borrowing()
    found = values_elsewhere(sweep, TUNED, CLIPS)
    of_policy = {cell.experiment.captions: CLIPS["units"][n]["values"] for n, cell in enumerate(units(TUNED).values())}
    assert len(of_policy) == 4
    for cell in drafts(sweep):
        assert found[cell.id] == of_policy[cell.experiment.captions]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        (borrowing({"captions.shuffled": (False, True)}), "shuffled=True.* were not tuned there"),
        (borrowing({"captions.dropout": (0.1, 0.2)}), "dropout=0.2.* were not tuned there"),
        (borrowing({"training.clip": (0.3,)}), "training.clip was tuned there and is a factor here"),
        (borrowing({"seed": (0, 1000)}), "seed 1000 is reported here and was tuned on there"),
        (borrowing(prompt_seed=1000), "prompt_seed=1000 is reported here"),
        (borrowing(validation_images=300), "more held-out images are scored here than the 256"),
    ],
)
def test_values_that_were_found_for_others_or_on_what_is_reported_are_refused(sweep: Sweep, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        values_elsewhere(sweep, TUNED, CLIPS)
    assert "\n" not in str(caught.value)


def test_an_arm_tuned_at_several_scales_has_no_one_value() -> None:
    several = TUNED.model_copy(update={"tuning": Tuning(search={"training.clip": Range(low=0.1, high=1.0)}, trials=1)})
    told = {"units": [{"unit": name, "values": {"training.clip": 0.3}} for name in units(several)]}
    with pytest.raises(ValueError, match=r"were tuned at 2 scales, where tuning\.at must leave one"):
        values_elsewhere(borrowing(), several, told)
