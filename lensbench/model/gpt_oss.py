"""GPT-OSS-20B, the text encoder of the published Lens (arXiv 2605.21573 and its inference code).

A text becomes the user's turn of a chat that the model's own template writes: a fixed instruction before it, a fixed
thought of the assistant after it, cut where the answer would end. The window counts the whole chat; the tokens before
the text, the same for every text, are computed and dropped; those after it stay.

Two differences from the published code. There the template writes the day's date before the instruction; here the date
is fixed, so that features do not change overnight. And a control token that a text happens to spell is text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.causal_encoder import CausalEncoder, Tokenize
from lensbench.model.pretrained import ModelFiles, digest, load_tokenizer, locate, read_config

SYSTEM = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background."
)
THINKING = "Need to generate one image according to the description."
END = "<|return|>"
DATE = "2026-05-20"
# A macro of the template's own name for the clock takes its place.
FIXED_CLOCK = f"{{%- macro strftime_now(format) -%}}{DATE}{{%- endmacro -%}}"


def open_gpt_oss(config: TextEncoderConfig) -> CausalEncoder:
    """The encoder in `config.model`. Raises ValueError, one line, when there is no GPT-OSS or it lacks what is asked.

    The template must write exactly `config.prefix_tokens` tokens before the text, and end the answer with <|return|>.
    """
    from transformers import GptOssConfig, GptOssModel
    from transformers.utils.quantization_config import Mxfp4Config

    files = locate(config.model)
    model_config = read_config(files, GptOssConfig)
    identity = digest(files, SYSTEM, THINKING, DATE)
    tokenize = chat_tokenizer(files)
    first, second = tokenize(["a", "7"])  # they share no token, so what the chats share is what precedes the text
    prefix = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    if prefix != config.prefix_tokens:
        raise ValueError(
            f"{files.tokenizer}: the chat template writes {prefix} tokens before the text, not "
            f"text_encoder.prefix_tokens={config.prefix_tokens}; take the tokenizer of openai/gpt-oss-20b"
        )
    options: dict[str, Any] = {}
    if getattr(model_config, "quantization_config", None):
        # The published experts are kept in MXFP4, and computed with in the type of the other weights on any machine.
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    return CausalEncoder(config, files, GptOssModel, model_config, tokenize, identity, alone=True, **options)


def chat_tokenizer(files: ModelFiles) -> Tokenize:
    """Texts to the tokens of their chats, up to <|return|>. ValueError, one line, when the tokenizer is another's."""
    from jinja2 import TemplateError

    tokenizer = load_tokenizer(files)
    end = tokenizer.get_vocab().get(END)
    if not tokenizer.chat_template or end is None:
        what = "a chat template" if end is not None else f"the token {END}"
        raise ValueError(f"{files.tokenizer}: no GPT-OSS tokenizer, it lacks {what}")
    template = FIXED_CLOCK + tokenizer.chat_template

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        chats = tokenizer.apply_chat_template(
            [_chat(text) for text in texts], chat_template=template, sanitize_control_tokens=True
        )["input_ids"]
        return [ids[: ids.index(end)] for ids in chats]

    try:
        tokenize([""])
    except (TemplateError, ValueError, TypeError) as error:
        raise ValueError(
            f"{files.tokenizer}: the chat template is not GPT-OSS's, it writes no {END} after the answer "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from None
    return tokenize


def _chat(text: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": text},
        {"role": "assistant", "thinking": THINKING, "content": ""},
    ]
