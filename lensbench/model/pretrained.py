"""Published models on disk: where their files are, what identifies them, and their first blocks, frozen.

A model is named by a local folder or by its id on the Hugging Face hub. Only safetensors are read, never a pickle, and
no code of a model's folder runs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja"),
)
# What is fetched from the hub: a repository may hold the same weights a second time in another format.
WANTED = (CONFIG, INDEX, "model*.safetensors", *TOKENIZER_FILES)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine: the folder of its weights and that of its tokenizer, one and the same as a rule."""

    weights: Path
    tokenizer: Path


def locate(name: str) -> ModelFiles:
    """The files of a local folder or of a hub id, downloaded if need be.

    A pipeline's folder, with `text_encoder/` and `tokenizer/`, will do too. Raises ValueError, one line, when there is
    no such model.
    """
    # A repository may be a pipeline's, with more than its text encoder.
    subfolders = [f"{part}/{file}" for part in ("text_encoder", "tokenizer") for file in WANTED]
    folder = model_folder(name, "text_encoder.model", [*WANTED, *subfolders])
    if (folder / "text_encoder" / CONFIG).is_file() and (folder / "tokenizer").is_dir():
        return ModelFiles(folder / "text_encoder", folder / "tokenizer")
    return ModelFiles(folder, folder)


def model_folder(name: str, argument: str, wanted: Sequence[str]) -> Path:
    """A model's folder: `name` itself, or the hub's repository, whose files in `wanted` are downloaded if need be.

    Raises ValueError, one line, naming the `argument` that gave the name, where there is neither.
    """
    from huggingface_hub import snapshot_download

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(f"{argument}={name!r}: no such folder")
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as error:  # the library has no one class for a network or a repository that fails
        raise ValueError(
            f"{argument}={name!r}: no such folder here, and not to be had from the hub ({brief(error)}); "
            "download it where there is a network, or give the folder that it lies in"
        ) from None


def read_config(files: ModelFiles, config_class: Any) -> Any:
    """The config of a model. ValueError, one line, when there is none or it is another type of model's."""
    path = files.weights / CONFIG
    try:
        values: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{files.weights}: no {CONFIG}, so there is no model in this folder") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    found, due = values.get("model_type") if isinstance(values, dict) else None, config_class.model_type
    if found != due:
        raise ValueError(f"{path}: a model of type {found!r}, where text_encoder.kind asks for {due!r}")
    try:
        return config_class.from_dict(values)
    except Exception as error:  # the library has no one class for a value that does not fit
        raise ValueError(f"{path}: not a {config_class.__name__} ({brief(error)})") from None


def weight_files(files: ModelFiles) -> list[Path]:
    """The safetensors of a model: the one file or its index's shards. ValueError, one line, when any is missing."""
    folder = files.weights
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = [folder / name for name in shard_names(folder / INDEX)]
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise ValueError(f"{folder}: {missing[0]} is missing, though {INDEX} names it; download it again")
        return shards
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise ValueError(
            f"{folder}: {pickles[0]} is a pickle, which can run code when it is opened; convert it to {WEIGHTS}"
        )
    raise ValueError(f"{folder}: no {WEIGHTS} and no {INDEX}")


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names, sorted. ValueError, one line, when it is none or leads elsewhere."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        elsewhere = any(Path(name).name != name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: not an index of shards ({error})") from None
    if not names:
        raise ValueError(f"{index}: not an index of shards (it names none)")
    if elsewhere:
        raise ValueError(f"{index}: names a file outside its folder")
    return names


def digest(files: ModelFiles, *texts: str) -> str:
    """sha256 over the names and contents of config, weights and tokenizer, wherever they lie, and over `texts`."""
    tokenizer = [path for name in TOKENIZER_FILES if (path := files.tokenizer / name).is_file()]
    lines = [
        f"{path.name} {_file_digest(path, path.stat().st_size, path.stat().st_mtime_ns)}"
        for path in (files.weights / CONFIG, *weight_files(files), *tokenizer)
    ]
    return hashlib.sha256("\0".join((*lines, *texts)).encode()).hexdigest()


@functools.cache
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    # once a process for a file that is not touched: the weights are many gigabytes
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tokenizer(files: ModelFiles) -> Any:
    """The tokenizer.json of a model's folder, with its chat template. ValueError, one line, when it cannot be read."""
    from transformers import PreTrainedTokenizerFast

    if not (files.tokenizer / "tokenizer.json").is_file():  # the library would make an empty tokenizer
        raise ValueError(f"{files.tokenizer}: no tokenizer.json, so there is no tokenizer in this folder")
    with _quiet():
        try:
            # The class that reads the file as it is; the one named beside it may build parts of it anew.
            return PreTrainedTokenizerFast.from_pretrained(files.tokenizer, local_files_only=True)
        except Exception as error:  # the library has no one class for a tokenizer it cannot read
            raise ValueError(f"{files.tokenizer}: the tokenizer cannot be read ({brief(error)})") from None


def load_blocks(model_class: Any, folder: Path, config: Any, blocks: int, **options: Any) -> Any:
    """The first `blocks` blocks of a model, frozen, in evaluation mode, on the CPU, in the type they were saved in.

    `config` is changed to that many blocks. Raises ValueError, one line, when a tensor is missing or of another shape,
    or the weights cannot be read.
    """
    from safetensors import SafetensorError

    config.num_hidden_layers = blocks
    with _quiet():  # the weights of the blocks left out are no news
        try:
            model, found = model_class.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
                **options,
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"{folder}: the weights cannot be read as a {model_class.__name__} ({brief(error)})"
            ) from None
    wrong = [f"{name} has shape {tuple(got)}, not {tuple(due)}" for name, got, due in sorted(found["mismatched_keys"])]
    wrong += [f"{name} is missing" for name in sorted(found["missing_keys"])]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"{folder}: the weights do not fit {CONFIG}: {'; '.join(wrong[:4])}{more}")
    return model.eval().requires_grad_(False)


def outputs_of(blocks: Sequence[nn.Module], run: Callable[[], Any]) -> list[Tensor]:
    """What each of `blocks` puts out while `run` runs the model."""
    kept: dict[int, Tensor] = {}
    hooks = [block.register_forward_hook(functools.partial(_keep, kept, i)) for i, block in enumerate(blocks)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [kept[i] for i in range(len(blocks))]


def _keep(kept: dict[int, Tensor], place: int, module: Any, given: Any, output: Tensor) -> None:
    kept[place] = output


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def brief(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    first = str(error).strip().partition("\n")[0].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
