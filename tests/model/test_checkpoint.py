"""Checkpoints: bit for bit, whole or not at all, readable elsewhere, and clear about what does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lensbench.model import checkpoint
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensConfig, LensTransformer

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SMALL = lens(2, in_channels=12, out_channels=3, patch_size=2, enc_hidden_dim=10, selected_layer_index=(0, 1))


def random_model(config: LensConfig = SMALL, seed: int = 0) -> LensTransformer:
    generator = torch.Generator().manual_seed(seed)
    made = LensTransformer(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=generator)
    return made


@pytest.fixture
def model() -> LensTransformer:
    return random_model()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Names, order, types and bits."""
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(model, tmp_path, dtype):
    model.to(dtype)
    checkpoint.save(model, tmp_path / "new" / "folder")
    loaded = checkpoint.load(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert same(loaded, model)
    assert all(p.requires_grad and p.dtype == dtype and p.device.type == "cpu" for p in loaded.parameters())
    assert files(tmp_path / "new" / "folder") == ["config.json", WEIGHTS]


@settings(max_examples=12, deadline=None)
@given(shard_bytes=st.integers(20_000, 3_000_000), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_any_shard_size_round_trips(shard_bytes, dtype):
    model = random_model().to(dtype)
    total = sum(tensor.nbytes for tensor in model.state_dict().values())
    largest = max(tensor.nbytes for tensor in model.state_dict().values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.save(model, folder, shard_bytes)
        assert same(checkpoint.load(folder), model)
        assert (folder / WEIGHTS).exists() == (total <= shard_bytes)
        assert (folder / INDEX).exists() == (total > shard_bytes)
        if total > shard_bytes:
            index = json.loads((folder / INDEX).read_text())
            assert index["metadata"]["total_size"] == total
            shards = sorted(set(index["weight_map"].values()))
            assert files(folder) == sorted(["config.json", INDEX, *shards])
            for n, shard in enumerate(shards, start=1):
                assert shard == f"diffusion_pytorch_model-{n:05d}-of-{len(shards):05d}.safetensors"
                tensors = load_file(folder / shard)
                assert sum(t.nbytes for t in tensors.values()) <= max(shard_bytes, largest)
                assert all(index["weight_map"][tensor] == shard for tensor in tensors)


@pytest.fixture(scope="module")
def reader():
    """A class as diffusers would have it: its own reading and writing, with the modules of this denoiser."""
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config

    class LensTransformer2DModel(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(
            self,
            patch_size: int,
            in_channels: int,
            out_channels: int,
            num_layers: int,
            attention_head_dim: int,
            num_attention_heads: int,
            inner_dim: int,
            enc_hidden_dim: int,
            axes_dims_rope: tuple[int, ...],
            gate_mlp: bool,
            rms_norm: bool,
            multi_layer_encoder_feature: bool,
            selected_layer_index: tuple[int, ...],
        ) -> None:
            super().__init__()
            fields = {field.name for field in dataclasses.fields(LensConfig)}
            values = {name: value for name, value in locals().items() if name in fields}
            for name, module in LensTransformer(LensConfig(**values)).named_children():
                self.add_module(name, module)

    return LensTransformer2DModel


@pytest.mark.parametrize("shard_bytes", [10**9, 300_000])
def test_diffusers_opens_what_is_saved_and_the_other_way_round(model, reader, tmp_path, shard_bytes):
    model.to(torch.bfloat16)
    checkpoint.save(model, tmp_path / "ours", shard_bytes)
    opened, report = reader.from_pretrained(
        tmp_path / "ours", dtype=torch.bfloat16, output_loading_info=True, local_files_only=True
    )
    assert not any(report.values())
    assert same(opened, model)
    opened.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
    assert files(tmp_path / "theirs") == files(tmp_path / "ours")
    loaded = checkpoint.load(tmp_path / "theirs")
    assert same(loaded, model)
    assert loaded.config == model.config


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


def test_loaded_weights_are_aligned_and_their_own(model, tmp_path):
    # Tensors begin in the file wherever the header ends, and metadata is part of it.
    checkpoint.save(model, tmp_path)
    save_file(load_file(tmp_path / WEIGHTS), tmp_path / WEIGHTS, {"format": "pt", "note": "x" * 13})
    loaded = checkpoint.load(tmp_path)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in loaded.parameters())
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    assert same(checkpoint.load(tmp_path), model)


def test_loading_draws_no_random_numbers(model, tmp_path):
    checkpoint.save(model, tmp_path)
    before = torch.get_rng_state()
    checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_converted_on_request(model, tmp_path):
    checkpoint.save(model, tmp_path)
    assert same(checkpoint.load(tmp_path, dtype=torch.bfloat16), model.to(torch.bfloat16))


def test_loading_needs_the_memory_of_the_file_and_little_more(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    with torch.device("meta"):
        large = LensTransformer(lens(12))
    checkpoint.save(large.to(torch.bfloat16).to_empty(device="cpu"), tmp_path)
    checkpoint.save(random_model(), tmp_path / "small")
    measure = """
import sys
from pathlib import Path
from lensbench.model import checkpoint
def kib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])
checkpoint.load(Path(sys.argv[1]) / "small")  # imports what loading needs
before = kib("VmRSS")
model = checkpoint.load(Path(sys.argv[1]))
print(1024 * (kib("VmHWM") - before))
"""
    done = subprocess.run([sys.executable, "-c", measure, str(tmp_path)], capture_output=True, text=True, check=True)
    size = (tmp_path / WEIGHTS).stat().st_size
    assert 1.0 < int(done.stdout) / size < 1.2


@pytest.mark.parametrize("before", [10**9, 300_000, 400_000])
@pytest.mark.parametrize("after", [10**9, 300_000])
def test_saving_over_an_older_checkpoint(model, tmp_path, before, after):
    checkpoint.save(random_model(seed=1), tmp_path, before)
    checkpoint.save(model, tmp_path, after)
    assert same(checkpoint.load(tmp_path), model)
    checkpoint.save(model, tmp_path / "fresh", after)
    assert [name for name in files(tmp_path) if name != "fresh"] == files(tmp_path / "fresh")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", [10**9, 300_000])
@pytest.mark.parametrize("after", [10**9, 300_000])
def test_a_save_cut_short_never_leaves_a_mixture(model, tmp_path, monkeypatch, before, after):
    older = random_model(seed=1)
    replace, unlink = os.replace, os.unlink
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    def counted_replace(source, target):
        step()
        replace(source, target)

    def counted_unlink(path, *rest, **more):
        if ".partial-" not in str(path):
            step()
        unlink(path, *rest, **more)

    found = []
    for steps in range(100):
        folder = tmp_path / str(steps)
        checkpoint.save(older, folder, before)
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", counted_replace)
            patched.setattr(os, "unlink", counted_unlink)
            left = steps
            try:
                checkpoint.save(model, folder, after)
                finished = True
            except Killed:
                finished = False
        assert not any(".partial-" in name for name in files(folder))
        if (folder / INDEX).exists():  # diffusers reads what an index names, whatever else is there
            assert set(json.loads((folder / INDEX).read_text())["weight_map"].values()) <= set(files(folder))
        try:
            loaded = checkpoint.load(folder)
        except ValueError:
            found.append("refused")
        else:
            found.append("older" if same(loaded, older) else "newer" if same(loaded, model) else "mixture")
        if finished:
            break
    assert finished
    assert found[0] == "older"
    assert found[-1] == "newer"
    assert "mixture" not in found


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
    assert files(tmp_path) == ["config.json", WEIGHTS]


def test_shards_of_any_name_load(model, tmp_path):
    checkpoint.save(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, chosen in parts.items():
        save_file({n: tensors[n] for n in chosen}, tmp_path / file)
    weight_map = {n: file for file, chosen in parts.items() for n in chosen}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert same(checkpoint.load(tmp_path), model)
    save_file({n: tensors[n] for n in names[8:]}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=rf"{names[8]} is in two files, a\.safetensors and b\.safetensors"):
        checkpoint.load(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b\.safetensors: missing, though the index of shards names it"):
        checkpoint.load(tmp_path)
    weight_map["x"] = "../c.safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match="outside its folder"):
        checkpoint.load(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(ValueError, match="not an index of shards"):
        checkpoint.load(tmp_path)


def test_a_pipeline_is_opened_by_its_transformer(model, tmp_path):
    checkpoint.save(model, tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    assert same(checkpoint.load(tmp_path), model)


@pytest.mark.parametrize("prefix", ["", "net.", "model.diffusion_model."])
@pytest.mark.parametrize("beside", [True, False])
def test_a_single_file_loads_with_or_without_a_prefix(model, tmp_path, prefix, beside):
    checkpoint.save(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "lens.safetensors")
    if not beside:
        (tmp_path / "config.json").unlink()
    loaded = checkpoint.load(tmp_path / "lens.safetensors", None if beside else model.config)
    assert same(loaded, model)
    assert loaded.config == model.config


def test_a_prefix_must_be_on_every_tensor(model, tmp_path):
    tensors = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["proj_out.bias"] = tensors.pop("net.proj_out.bias")
    save_file(tensors, tmp_path / "lens.safetensors")
    with pytest.raises(ValueError, match=r"some tensors begin with 'net\.' and some, as proj_out\.bias, do not"):
        checkpoint.load(tmp_path / "lens.safetensors", model.config)


def test_the_published_family_is_recognized_by_its_shapes(tmp_path):
    config = LensConfig(num_layers=3, num_attention_heads=1)
    model = random_model(config)
    save_file(dict(model.state_dict()), tmp_path / "lens.safetensors")
    loaded = checkpoint.load(tmp_path / "lens.safetensors")
    assert loaded.config == config
    assert same(loaded, model)


def test_shapes_that_leave_the_config_open_are_refused(model, tmp_path):
    file = tmp_path / "lens.safetensors"
    save_file(dict(model.state_dict()), file)
    with pytest.raises(ValueError, match="give the config") as caught:
        checkpoint.load(file)
    message = str(caught.value)
    assert "in_channels is 12, expected 128" in message
    assert "attention_head_dim is 32, expected 64" in message
    assert "enc_hidden_dim is 10, expected 2880" in message
    assert "text layers is 2, expected 4" in message
    assert "selected_layer_index" in message
    save_file({"decoder.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(ValueError, match="no denoiser of the Lens kind: no tensor tells inner_dim, in_channels"):
        checkpoint.load(file)
    odd = random_model(LensConfig(num_layers=1, num_attention_heads=1)).state_dict()
    odd["img_in.weight"] = torch.zeros(65, 128)
    save_file(dict(odd), file)
    with pytest.raises(ValueError, match=r"lens\.safetensors: the tensors' shapes are no Lens: inner_dim=65"):
        checkpoint.load(file)


def test_another_config_than_the_one_asked_for_is_refused(model, tmp_path):
    checkpoint.save(model, tmp_path)
    assert same(checkpoint.load(tmp_path, model.config), model)
    other = dataclasses.replace(model.config, num_layers=3, selected_layer_index=(1, 2))
    with pytest.raises(
        ValueError, match=r"num_layers is 2, expected 3, selected_layer_index is \(0, 1\), expected \(1, 2\)"
    ):
        checkpoint.load(tmp_path, other)
    (tmp_path / "config.json").unlink()
    assert same(checkpoint.load(tmp_path, model.config), model)
    with pytest.raises(ValueError, match=r"its sizes: num_layers is 2, expected 3"):
        checkpoint.load(tmp_path, other)


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
    assert "proj_out.weight has shape (12, 65), expected (12, 64)" in message
    assert "\n" not in message


def test_tensors_that_are_no_floating_point_numbers_are_named(model, tmp_path):
    checkpoint.save(model, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["proj_out.weight"] = tensors["proj_out.weight"].to(torch.int8)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"proj_out\.weight is stored as I8, expected F64, F32, F16, BF16"):
        checkpoint.load(tmp_path)


def test_pickles_are_refused_unopened(model, tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    checkpoint.save(model, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    for name in ("diffusion_pytorch_model.bin", "lens.ckpt", "lens.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.bin is a pickle, which can run code when"):
        checkpoint.load(tmp_path)
    for name in ("lens.ckpt", "lens.pt"):
        with pytest.raises(ValueError, match=rf"{name} is a pickle, which can run code when"):
            checkpoint.load(tmp_path / name)
    (tmp_path / "lens.pt").rename(tmp_path / "lens.safetensors")
    with pytest.raises(ValueError, match=r"lens\.safetensors: not a readable safetensors file"):
        checkpoint.load(tmp_path / "lens.safetensors")


def test_broken_folders_are_explained(model, tmp_path):
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        checkpoint.load(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no config\.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        checkpoint.load(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"no {WEIGHTS}; to load other\.safetensors, give its own path"):
        checkpoint.load(tmp_path)
    (tmp_path / "other.safetensors").unlink()
    with pytest.raises(ValueError, match=f"no {WEIGHTS}$"):
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
