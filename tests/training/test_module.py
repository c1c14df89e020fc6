"""A training step: the same whatever it is computed in, left out where it is no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.experiment import Start
from lensbench.model.checkpoint import load, weights_digest
from lensbench.model.sizes import denoiser_config
from lensbench.training import files, module
from lensbench.training.datamodule import Step, TrainingBatches
from lensbench.training.module import LensModule, quartile_losses


def weights(short: Any, directory: Path) -> torch.Tensor:
    state = load(files.checkpoint(directory, short.steps)).state_dict()
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.mark.parametrize("change", [{"training.accumulate": 2}, {"training.accumulate": 3}])
def test_a_batch_in_parts_gives_the_losses_of_the_whole(
    change: dict[str, int], undisturbed: Path, short: Any, tmp_path: Path
) -> None:
    short.train(tmp_path / "run", short.experiment.replace(change))
    parts = short.losses(tmp_path / "run")
    expected = short.losses(undisturbed)
    # Rounding grows with the steps, most of all through Muon, which works in bfloat16.
    assert parts["loss"][:5].to_list() == pytest.approx(expected["loss"][:5].to_list(), rel=1e-5)
    assert parts["loss"].to_list() == pytest.approx(expected["loss"].to_list(), rel=1e-3)
    assert parts["gradient_norm"][:5].to_list() == pytest.approx(expected["gradient_norm"][:5].to_list(), rel=1e-4)
    assert short.experiment.replace(change).hash() == short.experiment.hash()


def test_activation_checkpointing_changes_no_bit(undisturbed: Path, short: Any, tmp_path: Path) -> None:
    changed = short.experiment.replace({"training.activation_checkpointing": True})
    short.train(tmp_path / "run", changed)
    assert list(short.losses(tmp_path / "run")["loss"]) == list(short.losses(undisturbed)["loss"])
    assert torch.equal(weights(short, tmp_path / "run"), weights(short, undisturbed))
    assert changed.hash() == short.experiment.hash()


def test_activation_checkpointing_keeps_less(short: Any) -> None:
    def kept(checkpointing: bool) -> int:
        experiment = short.experiment.replace({"model.depth": 6, "training.activation_checkpointing": checkpointing})
        lens = LensModule(experiment, denoiser_config(experiment, 384))
        (batch,) = short.batches(experiment)[0].parts
        tensors: dict[int, int] = {}

        def count(x: torch.Tensor) -> torch.Tensor:
            tensors[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        own = {p.untyped_storage().data_ptr() for p in lens.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            lens.denoiser(batch.latents, batch.timesteps, batch.text_features, batch.text_mask, batch.grid)
        return sum(size for pointer, size in tensors.items() if pointer not in own)

    assert kept(True) < 0.4 * kept(False)


def test_a_step_that_runs_out_of_memory_is_computed_in_more_parts(
    undisturbed: Path, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = module.flow_loss, []

    def small(model: object, latents: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, latents, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "flow_loss", small)
    short.train(tmp_path / "run")
    table = short.losses(tmp_path / "run")
    assert sizes[:7] == [4, 2, 1, 1, 1, 1, 1]  # halved twice, then every step in four parts
    assert set(sizes[2:]) == {1}
    assert table["loss"].to_list() == pytest.approx(short.losses(undisturbed)["loss"].to_list(), rel=1e-3)


def test_what_does_not_fit_one_image_at_a_time_is_an_error(
    short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "flow_loss", full)
    with pytest.raises(torch.OutOfMemoryError):
        short.train(tmp_path / "run")


def test_a_step_that_is_no_number_is_left_out_and_counted(
    short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingBatches.__getitem__

    def broken(self: TrainingBatches, number: int) -> Step:
        step = real(self, number)
        if number in (5, 6):
            step.parts[0].latents[0, 0, 0] = math.inf
        return step

    monkeypatch.setattr(TrainingBatches, "__getitem__", broken)
    short.train(tmp_path / "run")
    table = short.losses(tmp_path / "run")
    assert list(table["step"][table["skipped"] == 1]) == [6, 7]
    assert table["loss"][table["skipped"] == 0].notna().all()
    assert weights(short, tmp_path / "run").isfinite().all()
    assert len(table) == short.steps


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 10)), min_size=1, max_size=20))
def test_losses_by_timestep_are_means_of_quarters(pairs: list[tuple[float, float]]) -> None:
    timesteps, losses = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
    found = quartile_losses(losses, timesteps)
    for n, value in enumerate(found.tolist()):
        inside = [loss for t, loss in pairs if n / 4 <= t < (n + 1) / 4]
        assert math.isnan(value) if not inside else value == pytest.approx(sum(inside) / len(inside), abs=1e-5)


def test_a_second_stage_starts_from_the_first_ones_weights_and_from_no_others(
    undisturbed: Path, short: Any, tmp_path: Path
) -> None:
    first = files.checkpoint(undisturbed, short.steps)
    start = Start(path=first, weights=weights_digest(load(first)))
    second = short.experiment.replace({"training.start": start})
    assert second.hash() != short.experiment.hash()
    elsewhere = second.replace({"training.start": start.model_copy(update={"path": tmp_path})})
    assert elsewhere.hash() == second.hash()
    lens = LensModule(second, denoiser_config(second, 384))
    for model in (lens.denoiser, lens.averaged):
        assert weights_digest(model) == start.weights
    short.train(tmp_path / "run", second)
    assert weights_digest(load(files.checkpoint(tmp_path / "run", short.steps))) != start.weights
    other = second.replace({"training.start": Start(path=first, weights="0" * 64)})
    with pytest.raises(ValueError, match=f"training.start.weights is 0+, but those in .* are {start.weights}"):
        LensModule(other, denoiser_config(other, 384))
    deeper = second.replace({"model.depth": 2})
    with pytest.raises(ValueError, match="num_layers"):
        LensModule(deeper, denoiser_config(deeper, 384))
