"""What a sweep keeps equal: budgets that steps are derived from, seeds, blocks, exclusions, and what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lensbench.experiment import Experiment, one_line
from lensbench.model.text_encoder import open_text_encoder
from lensbench.sweep.amounts import caption_tokens, image_flops, mean_tokens, train_flops
from lensbench.sweep.collecting import collect
from lensbench.sweep.constraints import resolved
from lensbench.sweep.sweep import Question, Sweep, cells

BASE = Experiment().replace({"images": 24, "training.steps": 500, "corpus.size_px": 16, "text_encoder.layers": (0,)})
SETS = ("alt", "brief", "detailed")


def sweep_of(factors: dict[str, tuple[Any, ...]] | None = None, **changes: Any) -> Sweep:
    given: dict[str, Any] = {"captions.set": SETS, "model.depth": (1, 2), "seed": (0, 1)}
    fields = {"name": "s", "base": BASE, "factors": factors or given, "reference": {"captions.set": "alt"}}
    return Sweep(**(fields | changes))


SPENT = {
    "flops": image_flops,
    "samples": lambda experiment: 1.0,
    "caption_tokens": mean_tokens,
}


@settings(max_examples=8, deadline=None)
@given(
    match=st.sampled_from(sorted(SPENT)),
    match_to=st.sampled_from(["reference", "base"]),
    batches=st.sampled_from([(32,), (8, 32)]),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_every_cell_spends_the_budget_to_half_a_step(
    match: Any, match_to: Any, batches: tuple[int, ...], dropout: float
) -> None:
    factors: dict[str, tuple[Any, ...]] = {
        "captions.set": SETS, "model.depth": (1, 2), "training.batch": batches, "seed": (0, 1)
    }  # fmt: skip
    base = BASE.replace({"captions.dropout": dropout})
    sweep = resolved(sweep_of(factors, base=base, match=match, match_to=match_to))
    every = cells(sweep)

    def spent(experiment: Experiment, steps: int) -> float:
        return steps * experiment.training.batch * SPENT[match](experiment)

    for cell in every:
        anchor = base
        if match_to == "reference":
            anchor = cell.experiment.replace({"captions.set": "alt"})
        budget = spent(anchor, base.training.steps)
        off = abs(spent(cell.experiment, cell.experiment.training.steps) - budget)
        assert off <= 0.5 * spent(cell.experiment, 1) * (1 + 1e-9)
        assert cell.id == cell.experiment.cell_id()
    # What workers are given gives the same cells, without counting anew.
    again = Sweep.model_validate(sweep.model_dump(mode="json"))
    assert [cell.id for cell in cells(again)] == [cell.id for cell in every]


def test_longer_captions_train_fewer_steps_at_equal_flops_and_larger_models_fewer_still() -> None:
    steps = {
        (cell.levels["captions.set"], cell.levels["model.depth"]): cell.experiment.training.steps
        for cell in cells(resolved(sweep_of(match="flops", match_to="base")))
    }
    assert steps["detailed", 1] < steps["brief", 1]
    assert steps["detailed", 2] < steps["detailed", 1]
    flops = [train_flops(cell.experiment) for cell in cells(resolved(sweep_of(match="flops", match_to="base")))]
    assert max(flops) / min(flops) < 1.02


CUTS = [{}, {"captions.max_words": 4}, {"captions.length_matched_to": "alt"}, {"text_encoder.max_tokens": 8}]


@pytest.mark.parametrize("changes", [*CUTS, {"captions.set": "0.5*alt+0.5*detailed"}])
def test_tokens_are_counted_as_the_text_encoder_will(changes: dict[str, Any]) -> None:
    from lensbench.captions.texts import training_texts
    from lensbench.data.corpus import open_corpus

    experiment = BASE.replace(changes)
    corpus = open_corpus(experiment.corpus, experiment.images)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    encoder = open_text_encoder(experiment.text_encoder)
    found = caption_tokens(experiment)
    assert {name: list(counts) for name, counts in found.items()} == {
        name: list(encoder.token_counts(of_set)) for name, of_set in texts.items()
    }


def test_a_sweep_that_was_not_opened_has_no_cells_yet() -> None:
    with pytest.raises(ValueError, match="not been opened"):
        cells(sweep_of(match="flops"))


def test_derived_steps_are_told_where_the_numbers_are(tmp_path: Path) -> None:
    (note,) = collect(resolved(sweep_of(match="flops")), tmp_path).notes
    assert "FLOPs of the reference arm" in note
    assert "500" in note


def test_blocks_vary_one_thing_at_a_time() -> None:
    sweep = sweep_of(
        {"captions.set": ("alt", "detailed"), "seed": (0, 1)},
        base=BASE.replace({"model.depth": 2}),
        blocks=({"model.depth": (1, 2, 3)}, {"images": (24, 48)}),
    )
    every = cells(sweep)
    seen = [(cell.levels["model.depth"], cell.levels["images"]) for cell in every if cell.levels["seed"] == 0]
    assert set(seen) == {(1, 24), (2, 24), (3, 24), (2, 48)}
    assert len(every) == 2 * 2 * 4 == len({cell.id for cell in every})
    assert all(set(cell.levels) == {"captions.set", "seed", "model.depth", "images"} for cell in every)
    assert [cell.levels["seed"] for cell in every] == sorted(cell.levels["seed"] for cell in every)


def test_excluded_cells_are_those_that_have_all_the_levels() -> None:
    whole = cells(sweep_of())
    left = cells(sweep_of(exclude=({"captions.set": "brief", "model.depth": 2}, {"seed": 1, "model.depth": 1})))
    gone = [cell for cell in whole if cell.id not in {other.id for other in left}]
    assert len(gone) == 2 + 3
    for cell in gone:
        levels = cell.levels
        assert (levels["captions.set"], levels["model.depth"]) == ("brief", 2) or (
            (levels["seed"], levels["model.depth"]) == (1, 1)
        )


def test_factors_that_are_not_paired_have_seeds_of_their_own_and_arms_share_them() -> None:
    every = cells(sweep_of(paired=("captions.set",)))
    of_scale: dict[tuple[int, int], set[int]] = {}
    for cell in every:
        of_scale.setdefault((cell.levels["model.depth"], cell.levels["seed"]), set()).add(cell.experiment.seed)
    assert all(len(seeds) == 1 for seeds in of_scale.values())
    assert len(set.union(*of_scale.values())) == 4
    assert {cell.levels["seed"] for cell in every} == {0, 1}
    assert [cell.id for cell in cells(sweep_of(paired=("captions.set", "model.depth")))] == [
        cell.id for cell in cells(sweep_of())
    ]


def test_questions_are_told_in_the_words_of_the_tables(tmp_path: Path) -> None:
    asked = Question(arm={"captions.set": "detailed"}, at={"model.depth": 2}, form="detailed")
    (told,) = collect(sweep_of(questions=(asked,)), tmp_path).questions
    assert told == {
        "arm": {"captions.set": "detailed"}, "other": {"captions.set": "alt"}, "scale": {"model.depth": 2},
        "metric": "geneval", "form": "detailed", "role": "secondary",
    }  # fmt: skip
    reference = {"captions.set": "alt", "captions.shuffled": False}
    assert asked.label(reference) == "geneval: set=detailed against set=alt at depth=2, detailed prompts"
    further = Question(arm=reference | {"captions.shuffled": True}, metric="validation_loss")
    assert further.label(reference) == "validation_loss: shuffled=True against shuffled=False with set=alt"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exclude": ({"captions.set": "alt"},)}, ["reference", "no cell is the reference arm"]),
        ({"exclude": ({"model.depth": 1}, {"model.depth": 2})}, ["exclude drops every cell"]),
        ({"exclude": ({"model.depth": 4},)}, ["exclude", "model.depth=4 is not one of its levels (1, 2)"]),
        ({"exclude": ({"images": 4},)}, ["exclude", "images is not a factor"]),
        ({"exclude": ({},)}, ["exclude", "names no level"]),
        ({"blocks": ({"model.depth": (3,)},)}, ["blocks", "model.depth is one of the factors already"]),
        ({"blocks": ({"seed": (3,)},)}, ["seed"]),
        ({"blocks": ({},)}, ["a block is empty"]),
        ({"blocks": ({"images": ()},)}, ["images has no levels"]),
        ({"paired": ("model.depth",)}, ["paired", "captions.set must be among them"]),
        ({"paired": ("captions.set", "images")}, ["images is not a factor"]),
        ({"match": "time"}, ["match", "flops"]),
        ({"questions": ({"arm": {"captions.set": "alt"}},)}, ["questions", "compared with itself"]),
        ({"questions": ({"arm": {"model.depth": 2}},)}, ["model.depth is no factor of the arms"]),
        ({"questions": ({"arm": {"captions.set": "dose"}},)}, ["no cell is captions.set=dose"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "at": {"model.depth": 9}},)}, ["no cell is"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "at": {"images": 9}},)}, ["images is no scale factor"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "metric": "beauty"},)}, ["'beauty' is no score"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "metric": "geneval.colour"},)}, ["no such task", "colors"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "metric": "fid"},)}, ["fid", "no cell of this sweep"]),
        ({"questions": ({"arm": {"captions.set": "brief"}, "form": "repeated"},)}, ["'repeated'", "not measured"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        sweep_of(**changes)
    line = one_line(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_what_cannot_be_matched_is_refused_in_one_line() -> None:
    short = BASE.replace({"training.steps": 1})
    with pytest.raises(ValueError, match="less than half a step"):
        resolved(sweep_of({"captions.set": SETS, "model.depth": (1, 4)}, base=short, match="flops", match_to="base"))
    excluded = sweep_of(match="flops", exclude=({"captions.set": "alt", "model.depth": 2},))
    with pytest.raises(ValueError, match=r"no reference arm at \[depth=2 seed=0\]"):
        resolved(excluded)
    with pytest.raises(ValidationError, match="buckets"):
        sweep_of(match="flops", base=BASE.replace({"training.buckets": {"sides": (16,)}}))
