"""The experiment as a value: its hash is the science, nothing but the science, and mistakes are named."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lensbench.experiment import Autoencoder, Captions, Experiment, FolderCorpus, TextEncoder, one_line
from lensbench.mixture import canonical
from lensbench.sweep.sweep import Sweep

# For one dotted field each: values that fit whatever the others are.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "images": st.integers(2, 10**6),
    "captions.set": st.sampled_from(["alt", "brief", "detailed"]),
    "captions.dropout": st.floats(0, 0.99),
    "captions.max_words": st.none() | st.integers(1, 100),
    "captions.max_tokens": st.none() | st.integers(1, 100),
    "captions.shuffled": st.booleans(),
    "text_encoder.layers": st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
    "model.depth": st.integers(1, 8),
    "model.patch_size": st.sampled_from([2, 4, 8]),
    "training.steps": st.integers(1, 10**6),
    "training.learning_rate": st.floats(1e-6, 1),
    "training.betas": st.tuples(st.floats(0, 1), st.floats(0, 1)),
    "evaluation.guidance": st.floats(1, 20),
    "seed": st.integers(0, 2**31),
}
changes = st.lists(st.sampled_from(sorted(FIELDS)), unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


def field(experiment: Experiment, dotted: str) -> Any:
    value: Any = experiment
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


@given(changes)
def test_replace_changes_what_it_names_and_nothing_else(changed: dict[str, Any]) -> None:
    before, after = Experiment(), Experiment().replace(changed)
    for dotted in FIELDS:
        assert field(after, dotted) == changed.get(dotted, field(before, dotted))
    back = after.replace({dotted: field(before, dotted) for dotted in changed})
    assert back == before
    assert back.hash() == before.hash()


@given(changes)
def test_two_experiments_share_their_hashes_exactly_when_they_are_equal(changed: dict[str, Any]) -> None:
    before, after = Experiment(), Experiment().replace(changed)
    assert (before.hash_with_evaluation() == after.hash_with_evaluation()) == (before == after)
    assert (before.evaluation_hash() == after.evaluation_hash()) == (before.evaluation == after.evaluation)
    trained = after.model_copy(update={"evaluation": before.evaluation})
    assert trained.hash() == after.hash(), "what is measured is no part of the training"
    assert (before.hash() == after.hash()) == (before == trained)


@given(changes)
def test_the_hash_survives_json_and_the_order_of_its_fields(changed: dict[str, Any]) -> None:
    experiment = Experiment().replace(changed)
    read = Experiment.model_validate_json(experiment.model_dump_json())
    assert read == experiment
    assert read.hash() == experiment.hash()

    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(item)) for key, item in value.items()]
        random.Random(0).shuffle(items)
        return dict(items)

    assert Experiment.model_validate(shuffled(json.loads(experiment.model_dump_json()))).hash() == experiment.hash()
    assert Experiment().replace(dict(reversed(changed.items()))).hash() == experiment.hash()


@given(st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_where_the_work_is_done_is_no_part_of_the_hash(name: str, folder: str) -> None:
    here = Experiment(corpus=FolderCorpus(path=Path("/here"), digest="d"))
    there = Experiment(name=name, corpus=FolderCorpus(path=Path(folder), digest="d"))
    assert here.hash() == there.hash()
    assert here.hash() != Experiment(corpus=FolderCorpus(path=Path("/here"), digest="e")).hash()


def test_an_autoencoder_is_science_and_where_it_lies_is_not() -> None:
    latents = {"autoencoder.kind": "flux2", "model.patch_size": 2, "corpus.size_px": 32}
    here, there = (Experiment().replace({**latents, "autoencoder.model": folder}) for folder in ("/here", "org/there"))
    pinned = here.replace({"autoencoder.digest": "a" * 64})
    pixels = here.replace({"autoencoder.kind": "pixels"})
    assert here.hash() == there.hash()
    assert len({here.hash(), pinned.hash(), pixels.hash()}) == 3
    assert pixels.hash() == Experiment().replace({"model.patch_size": 2, "corpus.size_px": 32}).hash()
    assert (here.image_tokens, pixels.image_tokens) == (4, 256)


def test_a_part_that_came_later_leaves_the_hash_of_earlier_runs_as_it_was() -> None:
    said = json.loads(Experiment().canonical_json())
    assert "autoencoder" not in said
    assert json.loads(Experiment(autoencoder=Autoencoder(model="/any")).canonical_json()) == said


def test_what_a_run_stored_before_seeds_drew_images_is_what_it_was() -> None:
    new = Experiment(seed=3)
    old = new.replace({"which_images": "first"})
    assert (new.images_seed, old.images_seed) == (3, None)
    # The hash of earlier runs has no such field, and that of new ones differs by it alone.
    assert new.science() == old.science() | {"which_images": "by_seed"}
    told = json.loads(old.model_dump_json())
    del told["which_images"], told["by_hand"]
    assert Experiment.stored(json.dumps(told)) == old
    for experiment in (new, old):
        assert Experiment.stored(experiment.model_dump_json()) == experiment
    for damaged in ("", "[]", '{"which_images": "mine"}'):
        with pytest.raises(ValidationError):
            Experiment.stored(damaged)


def test_who_chose_the_recipe_is_no_part_of_the_hash() -> None:
    assert Experiment(by_hand="steps, on the detailed arm").hash() == Experiment().hash()


def test_where_a_text_encoder_lies_is_no_part_of_the_hash_and_which_it_is_is() -> None:
    digest = "ab" * 32
    here, there = (TextEncoder(kind="qwen3", model=model, digest=digest) for model in ("/here", "Qwen/Qwen3-0.6B"))
    assert Experiment(text_encoder=here).hash() == Experiment(text_encoder=there).hash()
    others: list[dict[str, Any]] = [{"digest": "cd" * 32}, {"layers": (1,)}, {"max_tokens": 64}, {"kind": "gpt_oss"}]
    hashes = {Experiment(text_encoder=TextEncoder(**here.model_dump() | other)).hash() for other in others}
    assert len(hashes - {Experiment(text_encoder=here).hash()}) == len(others)


def test_a_field_that_says_nothing_is_no_part_of_the_hash() -> None:
    # An experiment on MiniLM is the same science as before other encoders were known.
    assert TextEncoder().science() == {"kind": "minilm", "layers": [1, 3, 5], "max_tokens": 128}


@pytest.mark.parametrize("kind", ["minilm", "qwen3", "gpt_oss"])
def test_a_new_kind_of_text_encoder_brings_its_own_layers_and_window(kind: str) -> None:
    for base in (Experiment(), Experiment(text_encoder=TextEncoder(kind="gpt_oss", digest="ab" * 32))):
        own = TextEncoder.model_validate({"kind": kind})
        changed = base.replace({"text_encoder.kind": kind}).text_encoder
        assert changed == (base.text_encoder if base.text_encoder.kind == kind else own)
        both = base.replace({"text_encoder.layers": (0, 2), "text_encoder.kind": kind}).text_encoder
        assert both == changed.model_copy(update={"layers": (0, 2)})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text_encoder.kind": "bert"}, "'minilm', 'qwen3' or 'gpt_oss'"),
        ({"text_encoder.kind": ["qwen3"]}, "'minilm', 'qwen3' or 'gpt_oss'"),
        ({"text_encoder.model": "/a"}, "model and digest are for kind='qwen3' or 'gpt_oss'"),
        ({"text_encoder.kind": "qwen3", "text_encoder.model": ""}, "model is empty: give a folder, or Qwen/Qwen3-0.6B"),
        ({"text_encoder.kind": "qwen3", "text_encoder.prefix_tokens": 3}, "prefix_tokens=3 is for kind='gpt_oss'"),
        ({"text_encoder.kind": "gpt_oss", "text_encoder.max_tokens": 97}, "max_tokens=97 leaves no room"),
        ({"text_encoder.kind": "qwen3", "text_encoder.digest": "abc"}, "text_encoder.digest: String should match"),
        ({"text_encoder.layers": ()}, "text_encoder.layers"),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_one_line(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="text_encoder") as caught:
        Experiment().replace(changed)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from lensbench.experiment import Experiment; print(Experiment(seed=3).hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == Experiment(seed=3).hash()
    assert Experiment(seed=3).hash().startswith(Experiment(seed=3).cell_id())
    assert len(Experiment().cell_id()) == 12


@pytest.mark.parametrize("dotted", ["modle.depth", "model.dept", "model.depth.more", "corpus.path", "", "."])
def test_an_unknown_field_is_refused_by_name(dotted: str) -> None:
    with pytest.raises(ValueError, match="unknown field") as caught:
        Experiment().replace({dotted: 1})
    assert repr(dotted) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model.depth": 0}, ["model.depth", "given 0"]),
        ({"model.depth": "deep"}, ["model.depth", "'deep'"]),
        ({"training.learning_rate": float("nan")}, ["training.learning_rate"]),
        ({"evaluation.at": (0.5,)}, ["evaluation", "at must rise"]),
        ({"evaluation.at": (0.8, 0.2, 1.0)}, ["evaluation", "at must rise"]),
        ({"evaluation.forms": ("loud",)}, ["evaluation.forms", "'loud'"]),
        ({"captions.wrong": 0.5}, ["captions", "set='dose'"]),
        ({"captions.set": "poetic"}, ["captions.set='poetic'", "alt, brief, detailed, dose"]),
        ({"captions.set": "0.5*alt+0.5*poetic"}, ["captions.set='poetic'", "alt, brief, detailed, dose"]),
        ({"captions.set": "0.5*alt+0.4*brief"}, ["captions.set", "sum to 0.9, not to 1"]),
        ({"captions.set": "0.5*alt+0.5*alt"}, ["captions.set", "alt is there twice"]),
        ({"captions.set": "alt*0.5+brief*0.5"}, ["captions.set", "0.8*detailed+0.2*alt; 'alt*0.5' is not"]),
        ({"captions.set": "0.5*alt+0.5*brief", "captions.present": 0.5}, ["captions", "set='dose'"]),
        ({"captions.length_matched_to": "poetic"}, ["captions.length_matched_to='poetic'"]),
        ({"captions.max_words": 0}, ["captions.max_words", "given 0"]),
        ({"captions.max_tokens": 128}, ["captions.max_tokens=128", "text_encoder.max_tokens=128"]),
        ({"captions.shuffled": True, "images": 1}, ["captions.shuffled", "two images"]),
        ({"model.patch_size": 7}, ["model.patch_size=7", "corpus.size_px=24"]),
        ({"autoencoder.kind": "flux2"}, ["model.patch_size=4", "autoencoder.kind='flux2'", "must be 2"]),
        (
            {"autoencoder.kind": "flux2", "model.patch_size": 2},
            ["corpus.size_px=24", "autoencoder.kind='flux2'", "multiple of 16"],
        ),
        ({"autoencoder.digest": "a" * 64}, ["autoencoder", "digest is for kind='flux2'"]),
        ({"autoencoder.digest": "abc"}, ["autoencoder.digest", "'abc'"]),
        ({"model.depth": 0, "images": -1}, ["model.depth", "images"]),
    ],
)
def test_a_value_that_does_not_fit_is_one_line_that_names_it(changed: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0].replace(".", r"\.")) as caught:
        Experiment().replace(changed)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_keys_are_refused_at_every_depth() -> None:
    for extra in ({"modle": {}}, {"model": {"dept": 2}}, {"corpus": {"kind": "shapes", "colour": 1}}):
        with pytest.raises(ValidationError) as caught:
            Experiment.model_validate(extra)
        assert "\n" not in one_line(caught.value)
        assert "Extra inputs are not permitted" in one_line(caught.value)


def test_an_experiment_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        Experiment().seed = 3  # type: ignore[misc]


def test_a_long_wrong_value_is_cut_and_a_missing_one_shows_nothing() -> None:
    with pytest.raises(ValidationError) as caught:
        Experiment.model_validate({"images": "x" * 5000})
    assert len(one_line(caught.value)) < 250
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate({"name": "q", "base": Experiment(), "factors": {"captions.set": ("alt", "brief")}})
    assert one_line(caught.value) == "reference: Field required"


def test_new_parts_of_the_policy_leave_the_hash_of_earlier_runs_as_it_was() -> None:
    assert Experiment().science()["captions"] == {"set": "detailed", "present": 1.0, "wrong": 0.0, "dropout": 0.1}
    parts: list[dict[str, Any]] = [{"captions.max_words": 9}, {"captions.max_tokens": 9}, {"captions.shuffled": True}]
    parts += [{"captions.length_matched_to": "alt"}, {"captions.set": "0.5*alt+0.5*detailed"}]
    assert len({Experiment().hash(), *(Experiment().replace(part).hash() for part in parts)}) == 6


SHARES = st.lists(st.integers(0, 1000), min_size=1, max_size=4).filter(any)


@given(SHARES, st.randoms(), st.sampled_from(["{:g}*{}", " {:f} * {} "]))
def test_equal_mixtures_are_one_experiment(parts: list[int], order: random.Random, form: str) -> None:
    # whole thousandths that sum to one, in any order, with zeros and spaces
    cuts = [0, *sorted(order.randint(0, 1000) for _ in parts[1:]), 1000]
    shares = {name: (b - a) / 1000 for name, a, b in zip("wxyz", cuts, cuts[1:], strict=False)}
    said = [form.replace(" * ", "*").format(share, name) for name, share in shares.items()]
    first = "+".join(said)
    order.shuffle(said)
    spelled = [canonical(text) for text in (first, "+".join(said))]
    assert spelled[0] == spelled[1] == canonical(spelled[0])
    kept = {name: share for name, share in shares.items() if share}
    assert Captions(set=first).shares == pytest.approx(kept)
    assert Captions(set=first) == Captions(set=spelled[0])


def test_a_mixture_names_every_set_that_it_reads() -> None:
    policy = Captions(set="0.25*alt+0.75*detailed", length_matched_to="brief")
    assert policy.set == "0.75*detailed+0.25*alt"
    assert policy.sets == ("detailed", "alt", "brief")
    assert Captions(set="1*alt+0*detailed") == Captions(set="alt")
    assert Captions(set="0.5*b+0.5*a") == Captions(set="0.5*a+0.5*b")
    assert Captions(set="a+b").shares == {"a+b": 1.0}


def test_a_set_matched_to_itself_is_the_set() -> None:
    assert Captions(set="alt", length_matched_to="alt") == Captions(set="alt")
