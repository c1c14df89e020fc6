"""A test that needs a server, a browser or LaTeX skips with its reason; under LENSBENCH_NO_SKIP such a skip fails."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# An example that takes long on a busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Begun in the background by a shell, as `make test &` is, the tests would hand Ctrl-C on as ignored to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and os.environ.get("LENSBENCH_NO_SKIP") and not item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason}: skipped, though this machine was set up so that nothing need be"
    return report


def pytest_terminal_summary(terminalreporter):
    """Name every test that failed and then passed (pytest-rerunfailures, which CI asks for slow tests alone)."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.write_line(f"FLAKY {report.nodeid}")


@pytest.fixture(scope="session")
def flux2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a tiny random AutoencoderKLFlux2 of the published shape: 32 channels at an eighth."""
    import torch
    from diffusers import AutoencoderKLFlux2

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLFlux2(block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    folder = tmp_path_factory.mktemp("flux2") / "vae"
    vae.save_pretrained(folder)
    return folder


# Tiny random models of the published text encoders' classes, saved as those are, with tokenizers of one token a byte.
CONTROL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
CHAT_TEMPLATE = """
{%- macro build_system_message() -%}
    {{- "You are a model.\\nCurrent date: " + strftime_now("%Y-%m-%d") + "\\n" }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}
{{- build_system_message() }}
{{- "<|end|><|start|>developer<|message|># Instructions\\n\\n" + messages[0].content + "<|end|>" }}
{%- for message in messages[1:] -%}
    {%- if message.role == "user" -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- elif loop.last and not add_generation_prompt -%}
        {%- if "thinking" in message -%}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
        {%- endif -%}
        {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
    {%- endif -%}
{%- endfor -%}
"""


def byte_tokenizer(control: tuple[str, ...], **options: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=control[-1], **options)


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of 8 blocks and width 24."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("qwen3")
    config = Qwen3Config(
        vocab_size=260,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = byte_tokenizer(("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    end = [("<|endoftext|>", tokenizer.eos_token_id)]  # what it would add to a text unless told not to
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=end)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt_oss_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-OSS of 6 blocks and width 32, in two shards, with a chat template like the published one."""
    import torch
    from transformers import GptOssConfig, GptOssForCausalLM

    folder = tmp_path_factory.mktemp("gpt-oss")
    config = GptOssConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=16,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GptOssForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="200KB")
    byte_tokenizer(CONTROL, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return folder
