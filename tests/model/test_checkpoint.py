"""Checkpoints: bit for bit, whole or not at all, and clear about what does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensbench.model import checkpoint
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensTransformer

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = lens(2, in_channels=12, out_channels=3, patch_size=2, enc_hidden_dim=10, selected_layer_index=(0, 1))
    made = LensTransformer(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(model, tmp_path, dtype):
    model.to(dtype)
    checkpoint.save(model, tmp_path / "new" / "folder")
    loaded = checkpoint.load(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", WEIGHTS]


def test_a_loaded_model_runs_and_trains(model, tmp_path):
    checkpoint.save(model, tmp_path)
    given = (
        torch.randn(1, 4, 12),
        torch.rand(1),
        [torch.randn(1, 2, 10)] * 2,
        torch.ones(1, 2, dtype=torch.bool),
        (2, 2),
    )
    loaded = checkpoint.load(tmp_path)
    assert torch.equal(loaded(*given), model(*given))
    loaded(*given).sum().backward()
    assert loaded.img_in.weight.grad is not None


def test_loading_draws_no_random_numbers(model, tmp_path):
    checkpoint.save(model, tmp_path)
    before = torch.get_rng_state()
    checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_over_an_older_checkpoint(model, tmp_path):
    checkpoint.save(model, tmp_path)
    with torch.no_grad():
        model.proj_out.weight.add_(1)
    checkpoint.save(model, tmp_path)
    assert torch.equal(checkpoint.load(tmp_path).proj_out.weight, model.proj_out.weight)


def test_a_failed_save_leaves_the_older_one(model, tmp_path, monkeypatch):
    checkpoint.save(model, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with torch.no_grad():
        model.proj_out.weight.add_(1)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(model, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", WEIGHTS]


def test_shards_load(model, tmp_path):
    checkpoint.save(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, chosen in parts.items():
        save_file({n: tensors[n] for n in chosen}, tmp_path / file)
    weight_map = {n: file for file, chosen in parts.items() for n in chosen}
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert torch.equal(checkpoint.load(tmp_path).img_in.weight, model.img_in.weight)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b\.safetensors: missing"):
        checkpoint.load(tmp_path)
    weight_map["x"] = "../c.safetensors"
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="outside its folder"):
        checkpoint.load(tmp_path)


def test_misfitting_tensors_are_named(model, tmp_path):
    checkpoint.save(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors["img_in.bias"]
    tensors["pos_embed.table"] = torch.zeros(3)
    tensors["proj_out.weight"] = torch.zeros(12, 65)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="do not fit") as caught:
        checkpoint.load(tmp_path)
    message = str(caught.value)
    assert "img_in.bias is missing" in message
    assert "pos_embed.table is unknown" in message
    assert "proj_out.weight has shape (12, 65), not (12, 64)" in message
    assert "\n" not in message


def test_pickles_are_refused(model, tmp_path):
    checkpoint.save(model, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    torch.save(model.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin is a pickle"):
        checkpoint.load(tmp_path)


def test_broken_folders_are_explained(model, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        checkpoint.load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"no {WEIGHTS}"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text('{"num_layers": 0}')
    with pytest.raises(ValueError, match=r"config\.json: num_layers=0"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        checkpoint.load(tmp_path)
