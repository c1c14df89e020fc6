"""FLUX.2's autoencoder against diffusers' own network and batch normalization, on a tiny random one saved to disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lensbench.experiment import Autoencoder as AutoencoderConfig
from lensbench.model import flux2_autoencoder
from lensbench.model.autoencoder import open_autoencoder
from lensbench.model.flux2_autoencoder import Flux2Autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def autoencoder(flux2_folder: Path) -> Flux2Autoencoder:
    return Flux2Autoencoder(str(flux2_folder))


@pytest.fixture
def copy(flux2_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flux2_folder, tmp_path / "vae"))


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), seed=st.integers(0, 99))
def test_latents_are_diffusers_own_patched_and_normalized_by_its_own_batch_norm(
    autoencoder: Flux2Autoencoder, batch: int, rows: int, columns: int, seed: int
) -> None:
    images = pictures(batch, 3, 16 * rows, 16 * columns, seed=seed)
    latents, grid = autoencoder.encode(images)
    assert latents.shape == (batch, rows * columns, autoencoder.channels) == (batch, rows * columns, 128)
    assert grid == (rows, columns)
    assert autoencoder.stride == 16
    vae = autoencoder._vae
    with torch.no_grad():
        mode = vae.encode(images / 127.5 - 1).latent_dist.mode()
        # In evaluation a batch normalization without weights is (x - mean) / sqrt(var + eps).
        expected = vae.bn(torch.nn.functional.pixel_unshuffle(mode, 2)).flatten(2).transpose(1, 2)
        decoded = (vae.decode(mode).sample + 1) / 2
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)
    back = autoencoder.decode(latents, grid)
    assert back.shape == images.shape
    torch.testing.assert_close(back, decoded, atol=1e-5, rtol=1e-4)


def test_with_the_statistics_of_its_latents_they_have_mean_zero_and_unit_variance(
    autoencoder: Flux2Autoencoder, copy: Path
) -> None:
    images = pictures(24, 3, 32, 32)
    vae = autoencoder._vae
    with torch.no_grad():
        positions = torch.nn.functional.pixel_unshuffle(vae.encode(images / 127.5 - 1).latent_dist.mode(), 2)
    weights = load_file(copy / WEIGHTS)
    weights["bn.running_mean"] = positions.mean((0, 2, 3))
    weights["bn.running_var"] = positions.var((0, 2, 3), unbiased=False) - vae.bn.eps
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    latents, _ = Flux2Autoencoder(str(copy)).encode(images)
    torch.testing.assert_close(latents.mean((0, 1)), torch.zeros(128), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std((0, 1), unbiased=False), torch.ones(128), atol=1e-3, rtol=0)


def test_bytes_and_floats_agree_and_an_image_is_always_encoded_alike(autoencoder: Flux2Autoencoder) -> None:
    images = pictures(2, 3, 32, 16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    latents, _ = autoencoder.encode(images)
    assert torch.equal(torch.get_rng_state(), before), "the mode, not a sample"
    torch.testing.assert_close(autoencoder.encode(images / 255)[0], latents, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(latents[0], latents[1])


def test_how_many_go_through_at_a_time_does_not_show(
    autoencoder: Flux2Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(5, 3, 16, 16)
    latents, grid = autoencoder.encode(images)
    whole = autoencoder.decode(latents, grid)
    sizes: list[int] = []
    encode = autoencoder._vae.encode
    monkeypatch.setattr(autoencoder._vae, "encode", lambda x: (sizes.append(len(x)), encode(x))[1])
    monkeypatch.setattr(flux2_autoencoder, "PIXELS_AT_ONCE", 2 * 16 * 16)
    torch.testing.assert_close(autoencoder.encode(images)[0], latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(autoencoder.decode(latents, grid), whole, atol=1e-5, rtol=1e-4)
    assert sizes == [2, 2, 1]


def test_it_is_frozen(autoencoder: Flux2Autoencoder) -> None:
    assert not autoencoder._vae.training
    assert not any(parameter.requires_grad for parameter in autoencoder._vae.parameters())
    assert not autoencoder.encode(pictures(1, 3, 16, 16))[0].requires_grad


@pytest.mark.parametrize("shape", [(1, 3, 24, 16), (1, 3, 16, 40), (1, 4, 16, 16)])
def test_images_that_are_not_whole_strides_are_refused(autoencoder: Flux2Autoencoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: got shape .* H and W multiples of 16"):
        autoencoder.encode(torch.zeros(shape))


def test_latents_of_another_grid_are_refused(autoencoder: Flux2Autoencoder) -> None:
    with pytest.raises(ValueError, match=r"latents: got shape \(1, 4, 128\), expected \(B, 6, 128\)"):
        autoencoder.decode(torch.zeros(1, 4, 128), (2, 3))


def test_the_folder_of_a_pipeline_has_it_in_vae(flux2_folder: Path, copy: Path) -> None:
    config = AutoencoderConfig(kind="flux2", model=str(copy.parent))
    found = open_autoencoder(config, 2)
    # The digest is of what is in the folder, wherever that lies.
    assert found.digest == Flux2Autoencoder(str(flux2_folder)).digest
    with pytest.raises(ValueError, match=r"patch_size=4.*must be 2"):
        open_autoencoder(config, 4)


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def test_the_digest_is_of_the_weights_and_of_the_config_that_matters(copy: Path) -> None:
    def digest() -> str:
        return Flux2Autoencoder(str(copy)).digest

    first = digest()
    edit_config(copy, _name_or_path="/somewhere/else", _diffusers_version="0.1")
    assert digest() == first
    edit_config(copy, batch_norm_eps=1e-3)
    other_eps = digest()
    edit_weights(copy, lambda weights: weights["bn.running_mean"].add_(1))
    assert len({first, other_eps, digest()}) == 3
    Flux2Autoencoder(str(copy), digest())
    with pytest.raises(ValueError, match=f"autoencoder.digest={first}: the model in "):
        Flux2Autoencoder(str(copy), first)


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not the config of a diffusers model"),
        (lambda f: edit_config(f, _class_name="AutoencoderKL"), "got a AutoencoderKL, expected an AutoencoderKLFlux2"),
        (lambda f: edit_config(f, latent_channels=16), "latent_channels: got 16, expected 32"),
        (lambda f: edit_config(f, patch_size=[1, 1]), r"patch_size: got \[1, 1\], expected \[2, 2\]"),
        (lambda f: edit_config(f, block_out_channels=[4, 4]), "downsampling: got 2, expected 8"),
        (lambda f: edit_config(f, block_out_channels=[8, 8, 8, 8]), r"has shape \(.*, not \(.* and \d+ more"),
        (lambda f: (f / WEIGHTS).write_bytes(b"no tensors"), "cannot be read"),
        (lambda f: (f / WEIGHTS).unlink(), r"no diffusion_pytorch_model\*.safetensors"),
        (to_pickle, "diffusion_pytorch_model.bin is a pickle"),
        (lambda f: edit_weights(f, lambda w: w.pop("bn.running_var")), "bn.running_var is missing"),
        (lambda f: edit_weights(f, lambda w: w.update(more=torch.zeros(1))), "more is unknown"),
    ],
)
def test_a_folder_that_is_no_such_autoencoder_is_refused_in_one_line(
    copy: Path, break_it: Callable[[Path], object], words: str, request: pytest.FixtureRequest
) -> None:
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("diffusers").addHandler(listener)
    request.addfinalizer(lambda: logging.getLogger("diffusers").removeHandler(listener))
    break_it(copy)
    with pytest.raises(ValueError, match=words) as caught:
        Flux2Autoencoder(str(copy))
    assert "\n" not in str(caught.value)
    assert not said, "the one line is all"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere/at-all", "no such folder here, and not to be had from the hub"),
        ("/no/such/folder", "no such folder$"),  # no hub id, so the hub is not asked
    ],
)
def test_a_model_that_is_nowhere_is_said_in_one_line(
    model: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=words) as caught:
        Flux2Autoencoder(model)
    assert repr(model) in str(caught.value)
    assert "\n" not in str(caught.value)
