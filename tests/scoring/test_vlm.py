"""Vision-language judges: tiny random models of the real classes, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.scoring.vlm import TransformersVlm
from lensbench.streams import numpy_stream

QUESTIONS = ["Are there any cats in the image? Answer in one word.", "How many? Answer in one word."]
YES = ("Yes", "yes", " yes", " Yes")
IMAGE = numpy_stream(0, "picture").integers(0, 256, (64, 96, 3), dtype=np.uint8)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tokenizer(folder: Path, special: list[str], picture: str):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
    fast.chat_template = TEMPLATE.replace("IMAGE", picture)
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder = tmp_path_factory.mktemp("qwen3-vl")
    special = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    words = save_tokenizer(folder, special, "".join(special[:3]))
    ids = dict(zip(special, words.convert_tokens_to_ids(special), strict=True))
    text = {
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    }
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.3,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, temporal_patch_size=2, size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    folder = tmp_path_factory.mktemp("llava")
    words = save_tokenizer(folder, ["<image>"], "<image>")
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": 8,
    }
    text = {
        "model_type": "llama",
        "vocab_size": 272,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=words.chat_template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(params=["qwen", "llava"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_probabilities_are_of_the_next_token_whatever_is_asked_beside(folder: Path) -> None:
    vlm = TransformersVlm(str(folder))
    both = vlm.answer(IMAGE, QUESTIONS, [YES, ("four", "4")])
    for i, question in enumerate(QUESTIONS):
        ((word, alone),) = vlm.answer(IMAGE, [question], [[YES, ("four", "4")][i]])
        assert (word, pytest.approx(alone, abs=1e-5)) == both[i]
    # all first bytes together are a distribution over those tokens
    letters = [chr(code) for code in range(33, 127)]
    ((_, most),) = vlm.answer(IMAGE, QUESTIONS[:1], [letters])
    each = [vlm.answer(IMAGE, QUESTIONS[:1], [[letter]])[0][1] for letter in letters[:5]]
    assert 0 < sum(each) < most <= 1
    ((_, once),), ((_, twice),) = (vlm.answer(IMAGE, QUESTIONS[:1], [s]) for s in (["Yes"], ["Yes", "Yellow"]))
    assert once == twice, "a token counts once"


def test_the_picture_matters(folder: Path) -> None:
    vlm = TransformersVlm(str(folder))
    said = [vlm.answer(image, QUESTIONS[:1], [YES])[0][1] for image in (IMAGE, 255 - IMAGE)]
    assert said[0] != said[1]


def test_qwens_inputs_are_those_of_its_own_processor(qwen: Path) -> None:
    """Its processor cannot be made without torchvision: its rule for picture tokens is, one for each merged patch."""
    vlm = TransformersVlm(str(qwen))
    inputs = vlm._inputs(IMAGE, QUESTIONS)
    grid = inputs["image_grid_thw"]
    per_text = (inputs["mm_token_type_ids"] == 1).sum(1)
    assert per_text.tolist() == [int(one.prod()) // 4 for one in grid]
    assert len(inputs["pixel_values"]) == int(grid.prod(1).sum())
    assert (inputs["attention_mask"][:, -1] == 1).all(), "padding is on the left"


def test_other_weights_are_another_judge(qwen: Path, tmp_path: Path) -> None:
    import shutil

    other = Path(shutil.copytree(qwen, tmp_path / "other"))
    assert TransformersVlm(str(other)).digest == TransformersVlm(str(qwen)).digest
    (other / "preprocessor_config.json").write_text(
        (other / "preprocessor_config.json").read_text().replace("9216", "4096")
    )
    assert TransformersVlm(str(other)).digest != TransformersVlm(str(qwen)).digest


@pytest.mark.parametrize("made", ["nothing", "empty"])
def test_what_is_no_model_is_one_line(made: str, tmp_path: Path) -> None:
    if made == "empty":
        (tmp_path / made).mkdir()
    with pytest.raises(ValueError, match=made) as caught:
        TransformersVlm(str(tmp_path / made))
    assert "\n" not in str(caught.value)
