"""Opening a text encoder: the right files, known by their content, and every mistake one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.text_encoder import open_text_encoder


def config(folder: Path | str, **changes: Any) -> TextEncoderConfig:
    values = {"kind": "qwen3", "model": str(folder), "layers": (1, 3), "max_tokens": 32, "width": 24}
    return TextEncoderConfig(**values | changes)


@pytest.fixture
def copy(qwen3_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(qwen3_folder, folder)
    return folder


def refusal(opened: TextEncoderConfig) -> str:
    """The one line that opening, or the first text, ends in."""
    with pytest.raises(ValueError, match=r".") as caught:
        open_text_encoder(opened).encode(["red"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_minilm_needs_no_folder() -> None:
    encoder = open_text_encoder(TextEncoderConfig(layers=(0,), max_tokens=16))
    assert encoder.layers == (0,)
    assert encoder.max_tokens == 16
    assert encoder.width == TextEncoderConfig().width


def test_a_digest_is_the_content_wherever_it_lies(qwen3_folder: Path, copy: Path) -> None:
    digest = open_text_encoder(config(qwen3_folder)).digest
    assert open_text_encoder(config(copy)).digest == digest
    pipeline = copy.parent / "pipeline"  # as a diffusers pipeline keeps its parts
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(copy, pipeline / part)
    assert open_text_encoder(config(pipeline)).digest == digest


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_digest_changes_with_any_file_that_features_depend_on(copy: Path, name: str) -> None:
    before = open_text_encoder(config(copy)).digest
    path = copy / name
    data = bytearray(path.read_bytes())
    if name == "model.safetensors":
        data[-1] ^= 1
    else:
        data += b" "
    path.write_bytes(data)
    assert open_text_encoder(config(copy)).digest != before


def test_a_pinned_digest_is_kept(qwen3_folder: Path) -> None:
    digest = open_text_encoder(config(qwen3_folder)).digest
    assert open_text_encoder(config(qwen3_folder, digest=digest)).digest == digest
    line = refusal(config(qwen3_folder, digest="0" * 64))
    assert digest in line
    assert "text_encoder.digest=0000" in line


def test_a_sharded_model_is_read(qwen3_folder: Path, copy: Path) -> None:
    from transformers import Qwen3ForCausalLM

    (copy / "model.safetensors").unlink()
    Qwen3ForCausalLM.from_pretrained(qwen3_folder).save_pretrained(copy, max_shard_size="30KB")
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    expected, _ = open_text_encoder(config(qwen3_folder)).encode(["red"])
    got, _ = open_text_encoder(config(copy)).encode(["red"])
    assert all((a == b).all() for a, b in zip(got, expected, strict=True))


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "no such folder" in refusal(config(tmp_path / "absent"))
    assert "'../absent': no such folder" in refusal(config("../absent"))
    line = refusal(config("nobody/absent-model"))
    assert "nobody/absent-model" in line
    assert "not to be had from the hub" in line
    assert "give the folder" in line


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "not to be had from the hub" in refusal(config("nobody/absent-model"))


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def misshape_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.2.mlp.up_proj.weight"][:5].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folder: Path, text: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)


def stray_shard(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change_config(model_type="bert"), "a model of type 'bert', where text_encoder.kind asks for 'qwen3'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a model of type None"),
        (change_config(hidden_size="wide"), "config.json: not a Qwen3Config"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nonsense"), "the weights cannot be read"),
        (only_a_pickle, "pytorch_model.bin is a pickle"),
        (lost_shard, "model-00001-of-00001.safetensors is missing"),
        (stray_shard, "names a file outside its folder"),
        (lambda folder: broken_index(folder, "[]"), "not an index of shards"),
        (lambda folder: broken_index(folder, '{"weight_map": {}}'), "not an index of shards"),
        (no_tokenizer, "no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer cannot be read"),
        (drop_tensor, "layers.2.mlp.up_proj.weight is missing"),
        (misshape_tensor, "layers.2.mlp.up_proj.weight has shape (5, 24), not (48, 24)"),
    ],
)
def test_a_spoiled_folder_is_one_line(copy: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(copy)
    line = refusal(config(copy))
    assert words in line
    assert str(copy) in line


def test_a_tensor_of_a_block_that_is_not_built_is_not_missed(copy: Path) -> None:
    drop_tensor(copy)
    open_text_encoder(config(copy, layers=(0, 1))).encode(["red"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": (1, 8)}, "has layers 0 to 7"),
        ({"layers": (-1,)}, "has layers 0 to 7"),
        ({"layers": (3, 1)}, "must rise"),
        ({"layers": (1, 1)}, "must rise"),
        ({"width": 1024}, "text_encoder.width=1024: the model has 24"),
    ],
)
def test_what_the_model_lacks_is_refused_before_its_weights_are_read(
    qwen3_folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_text_encoder(config(qwen3_folder, **changes))
    assert "\n" not in str(caught.value)


def test_a_gpt_oss_is_no_qwen3(gpt_oss_folder: Path) -> None:
    assert "'gpt_oss', where text_encoder.kind asks for 'qwen3'" in refusal(config(gpt_oss_folder))
