"""Other people's models: a tiny random Stable Diffusion from disk, through the same prompts, seeds and folders."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lensbench.drawing.draw import DrawingStoppedError, Wishes
from lensbench.drawing.others import OtherDrawer, OtherModel, draw_other, open_other
from lensbench.drawing.prompts import find_prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("other") / "tiny-sd"
    words = tmp_path_factory.mktemp("words")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text("#version: 0.2\n")
    assert Tokenizer(models.BPE(vocab=vocabulary, merges=[])).get_vocab_size() == len(vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                eos_token_id=len(vocabulary) - 1,
                bos_token_id=len(vocabulary) - 2,
                pad_token_id=len(vocabulary) - 1,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
        )
        pipe = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77),
            unet=unet,
            scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> OtherModel:
    return open_other(str(folder))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("prompts") / "three.txt"
    path.write_text("a photo of a cat\na photo of two red dogs beside a tree\na boat\n")
    return find_prompts(str(path), None, None, 2)


WISHES = Wishes(steps=2, guidance=3.0, seed=5)


def drawn(model: OtherModel, prompts: Any, out: Path, **more: Any) -> str:
    said = io.StringIO()
    draw_other(model, prompts, Wishes(**{"steps": 2, "guidance": 3.0, "seed": 5} | more), out, Console(file=said))
    return said.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_pictures_go_where_geneval_looks_with_what_they_cost(model: OtherModel, prompts: Any, tmp_path: Path) -> None:
    said = drawn(model, prompts, tmp_path / "out")
    assert "6 pictures" in said
    assert len(files(tmp_path / "out")) == 6
    with Image.open(tmp_path / "out" / "00001" / "samples" / "0001.png") as picture:
        assert picture.size == (16, 16)  # eight positions, two pixels each: the pipeline's own
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    (session,) = record["sessions"]
    assert session["pipeline"] == "StableDiffusionPipeline"
    unet = sum(parameter.numel() for parameter in model.pipe.unet.parameters())
    assert session["parameters"]["unet"] == unet
    assert set(session["parameters"]) == {"unet", "vae", "text_encoder"}
    assert session["seconds_an_image"] > 0
    assert session["peak_bytes"]
    assert record["settings"]["checkpoint"] == model.digest
    assert record["settings"]["steps"] == 2


def test_a_picture_depends_on_its_prompt_and_sample_alone(model: OtherModel, prompts: Any) -> None:
    drawer = OtherDrawer(model, model.settle(WISHES))
    texts, keys = [prompts.rows[i]["prompt"] for i, _ in prompts.pictures()], prompts.pictures()
    together = drawer.draw(texts, keys)
    assert len({image.tobytes() for image in together}) == len(keys)
    for text, key, image in zip(texts, keys, together, strict=True):
        assert np.abs(drawer.draw([text], [key])[0].astype(int) - image).max() <= 1


def test_a_stopped_folder_ends_as_one_drawn_at_a_stretch(
    model: OtherModel, prompts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(model, prompts, tmp_path / "whole", batch=2)
    real, calls = OtherDrawer.draw, []

    def stopping(self: OtherDrawer, *given: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(OtherDrawer, "draw", stopping)
        with pytest.raises(DrawingStoppedError, match="2 of 6"):
            drawn(model, prompts, tmp_path / "parts", batch=2)
    drawn(model, prompts, tmp_path / "parts", batch=2)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    with pytest.raises(ValueError, match="was begun with steps=2"):
        drawn(model, prompts, tmp_path / "parts", steps=3)


def test_another_seed_or_guidance_draws_otherwise(model: OtherModel, prompts: Any, tmp_path: Path) -> None:
    found = []
    for name, more in {"a": {}, "b": {"seed": 6}, "c": {"guidance": 8.0}, "d": {"height": 32, "width": 16}}.items():
        drawn(model, prompts, tmp_path / name, **more)
        found.append(files(tmp_path / name))
    assert len({tuple(sorted(one.values())) for one in found}) == 4


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(ratio="1:1"), "--ratio is for Lens"),
        (Wishes(guidance_interval=(0.1, 0.9)), "--guidance-interval is for Lens"),
        (Wishes(steps=0), "each must be at least 1"),
    ],
)
def test_what_it_does_not_take_is_refused(model: OtherModel, wishes: Wishes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model.settle(wishes)


def test_what_is_no_pipeline_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        open_other(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        open_other(str(tmp_path))
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be opened") as raised:
        open_other(str(broken))
    assert "\n" not in str(raised.value)


def test_other_weights_are_another_model(folder: Path, model: OtherModel, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "scheduler" / "scheduler_config.json").write_text(
        (other / "scheduler" / "scheduler_config.json").read_text().replace('"leading"', '"trailing"')
    )
    assert open_other(str(other)).digest != model.digest


def test_the_command_draws_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n")
    command = [str(Path(sys.executable).with_name("lensbench")), "generate", f"diffusers:{folder}", str(tmp_path / "o")]
    command += ["--prompts", str(tmp_path / "p.txt"), "--samples", "1", "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 pictures" in done.stdout or "1 picture" in done.stdout
    assert done.stderr == ""
    wrong = subprocess.run([*command, "--step", "3"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "brings its own parts" in wrong.stderr
