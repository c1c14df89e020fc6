"""Tiny random models in the files of the published ones, and folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensbench.streams import numpy_stream


class _Layers(torch.nn.Module):
    """299 x 299 pixels, standardized, to 2,048 random features of their 16 x 16 patches' means."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(3 * 256, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, [16, 16])
        return torch.relu(self.mix(pooled.flatten(1)))[:, :, None, None]


class _Inception(torch.nn.Module):
    """The interface of the real TorchScript: pictures (N, 3, H, W) in [0, 255] of any size, resized inside."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        x = torch.nn.functional.interpolate(img.float(), [299, 299], mode="bilinear", align_corners=True)
        return self.layers((x - 128) / 128).flatten(1)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of 2,048 features in a TorchScript file with the interface of the real Inception's."""
    path = tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.script(_Inception()).save(str(path))
    return path


def clip_tokenizer(folder: Path, *, end_of_text: bool = True) -> None:
    """A byte tokenizer with CLIP's way of putting both ends around a text; vocabulary 258."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ends = ("<|startoftext|>", "<|endoftext|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ends])
    single = f"{ends[0]} $A {ends[1]}" if end_of_text else f"{ends[0]} $A"
    tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[(end, 256 + i) for i, end in enumerate(ends)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=ends[0], eos_token=ends[1], pad_token=ends[1])
    fast.save_pretrained(folder)


def clip_model(folder: Path, *, positions: int = 77, eos: int = 257) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {"vocab_size": 258, "max_position_embeddings": positions, "eos_token_id": eos, "bos_token_id": 256}
    config = CLIPConfig(
        text_config=text | {"projection_dim": 12, "initializer_range": 0.5},
        vision_config=tower | {"image_size": 32, "patch_size": 8, "projection_dim": 12, "initializer_range": 0.5},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    clip_tokenizer(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 77 positions; its config says eos_token_id 2, as OpenAI's do."""
    folder = tmp_path_factory.mktemp("clip")
    clip_model(folder, eos=2)
    return folder


@pytest.fixture(scope="session")
def long_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 248 positions."""
    folder = tmp_path_factory.mktemp("long-clip")
    clip_model(folder, positions=248)
    return folder


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of width 24, saved as the published ones are, with position embeddings for 28 px."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return folder


def save_pictures(folder: Path, count: int, *, seed: int, side: int = 24, ending: str = "png", red: int = 0) -> Path:
    """Random smooth pictures, the reds raised by `red`."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = numpy_stream(seed, "pictures").integers(0, 200, (count, 4, 4, 3), dtype=np.uint8)
    coarse[..., 0] += red
    for i, picture in enumerate(coarse):
        Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.{ending}")
    return folder


@pytest.fixture
def clean_fid(monkeypatch: pytest.MonkeyPatch):
    """clean-fid's own module of distances. It imports torchvision, which it does not need for them."""
    import importlib
    import sys
    import types

    before = set(sys.modules)
    networks = types.ModuleType("cleanfid.inception_pytorch")
    networks.InceptionV3 = None
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "cleanfid.inception_pytorch", networks)
    yield importlib.import_module("cleanfid.fid")
    for name in set(sys.modules) - before:
        if name.startswith("cleanfid"):
            del sys.modules[name]
