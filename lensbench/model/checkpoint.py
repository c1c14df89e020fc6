"""A denoiser on disk: a folder as diffusers lays it out, `config.json` and safetensors, split into shards or not.

`load` also opens a pipeline's folder (by its `transformer/`) and a single safetensors file, whose tensors may all carry
one of the prefixes under which other programs keep a denoiser. Pickles are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensbench.model.pretrained import PICKLES, shard_names
from lensbench.model.transformer import LensConfig, LensTransformer

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD = re.compile(r"diffusion_pytorch_model-\d{5}-of-\d{5}\.safetensors")
SHARD_BYTES = 10 * 10**9  # diffusers' own limit of a file
PREFIXES = ("net.", "model.diffusion_model.")
DTYPES = ("F64", "F32", "F16", "BF16")  # that a denoiser runs in


class Stored(NamedTuple):
    """A tensor that lies in a file, unread."""

    file: Path
    key: str  # its name there, with any prefix
    shape: tuple[int, ...]


def save(model: LensTransformer, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config and weights to `directory`; weights of more than `shard_bytes` as shards with an index.

    Files are complete and on disk before any is renamed into place, and shards of two saves never stand under an index
    together: a save that is cut short leaves the older checkpoint, the new one, or one that `load` refuses.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    split = split_state_dict_into_shards_factory(
        state,
        max_shard_size=shard_bytes,
        filename_pattern=WEIGHTS.replace(".", "{suffix}.", 1),
        get_storage_size=lambda tensor: tensor.nbytes,
    )
    names = [CONFIG, *split.filename_to_tensors, *([INDEX] if split.is_sharded else [])]
    partial = {name: directory / f"{name}.partial-{os.getpid()}" for name in names}
    directory.mkdir(parents=True, exist_ok=True)
    try:
        values = {"_class_name": "LensTransformer2DModel", **dataclasses.asdict(model.config)}
        partial[CONFIG].write_text(json.dumps(values, indent=2) + "\n")
        for file, members in split.filename_to_tensors.items():
            # A published reader looks for the format among the metadata.
            save_file({name: state[name].contiguous() for name in members}, partial[file], {"format": "pt"})
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            partial[INDEX].write_text(json.dumps(index, indent=2) + "\n")
        for path in partial.values():
            with path.open("rb") as written:
                os.fsync(written.fileno())
        if split.is_sharded:
            (directory / INDEX).unlink(missing_ok=True)
        for name, path in partial.items():  # the index last
            os.replace(path, directory / name)
        # In reverse alphabetic order, so that an old index goes before its shards.
        for path in sorted(directory.iterdir(), reverse=True):
            if path.name not in partial and (path.name in (WEIGHTS, INDEX) or SHARD.fullmatch(path.name)):
                path.unlink()
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def load(path: Path, config: LensConfig | None = None, dtype: torch.dtype | None = None) -> LensTransformer:
    """The denoiser in `path`, on the CPU, in `dtype` or, bit for bit, in the types it was saved in.

    `path` is a folder of `config.json` and weights, a pipeline's folder that holds one as `transformer/`, or a single
    safetensors file. `config` is needed where no config.json lies beside the weights, except for a single file of the
    published family, whose config is read off the tensors' shapes; where there is one, the two must agree.

    Tensors are read one by one: the peak of memory is little more than the weights. Raises ValueError, one line, when a
    file is missing or broken (a pickle is refused), when the config is no Lens or not `config`, or when a tensor is
    missing, unknown, of another shape or no floating-point number.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_dir():
        if not (path / CONFIG).exists() and (path / "transformer").is_dir():
            path = path / "transformer"
        if config is None and not (path / CONFIG).exists():
            raise ValueError(f"{path}: no {CONFIG}, so this is no checkpoint of a denoiser")
        beside, files = path / CONFIG, None
    else:
        _refuse_pickles([path])
        beside, files = path.parent / CONFIG, [path]
    found = _read_config(beside) if beside.exists() else None
    if config and found and config != found:
        raise ValueError(f"{beside}: another model: {_differences(vars(found), vars(config))}")
    stored = _stored_tensors(path, files or _weight_files(path))
    config = config or found or _config_from_shapes(path, stored)
    with torch.device("meta"):  # no memory and no random numbers for weights about to be replaced
        model = LensTransformer(config)
    _check(path, stored, model)
    model.load_state_dict(_read_tensors(stored, dtype), strict=True, assign=True)
    return model.requires_grad_()


def weights_digest(model: LensTransformer) -> str:
    """sha256, in hexadecimal, over the config and every weight, in whatever files they were."""
    found = hashlib.sha256(json.dumps(dataclasses.asdict(model.config), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read_config(path: Path) -> LensConfig:
    try:
        values: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a JSON object")
    try:
        return LensConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _differences(got: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """`num_layers is 2, expected 48, ...`: the values of `got` that differ."""
    return ", ".join(f"{name} is {got[name]}, expected {expected[name]}" for name in got if got[name] != expected[name])


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors of a folder: the one file, or the shards its index names."""
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if index.exists():
        names = shard_names(index)
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise ValueError(f"{directory / missing[0]}: missing, though the index of shards names it")
        return [directory / name for name in names]
    others = sorted(directory.iterdir())
    safe = [path.name for path in others if path.suffix == ".safetensors"]
    if not safe:
        _refuse_pickles(others)
    raise ValueError(f"{directory}: no {WEIGHTS}" + (f"; to load {safe[0]}, give its own path" if safe else ""))


def _refuse_pickles(paths: list[Path]) -> None:
    for path in paths:
        if path.suffix in PICKLES:
            raise ValueError(f"{path} is a pickle, which can run code when it is opened; convert it to safetensors")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, its tensors unread. Read, not mapped: pages of a map would count as the process's memory."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", backend="pread") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a readable safetensors file ({error})") from None


def _stored_tensors(path: Path, files: list[Path]) -> dict[str, Stored]:
    """The tensors of `files` by name, without the prefix that all have, from the files' headers alone."""
    stored: dict[str, Stored] = {}
    for file in files:
        with _opened(file) as opened:
            for key in opened.offset_keys():  # as they lie in the file, to read it from front to back
                about = opened.get_slice(key)
                if key in stored:
                    raise ValueError(f"{path}: {key} is in two files, {stored[key].file.name} and {file.name}")
                if about.get_dtype() not in DTYPES:
                    raise ValueError(f"{file}: {key} is stored as {about.get_dtype()}, expected {', '.join(DTYPES)}")
                stored[key] = Stored(file, key, tuple(about.get_shape()))
    for prefix in PREFIXES:
        without = [key for key in stored if not key.startswith(prefix)]
        if not without:
            return {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
        if len(without) < len(stored):
            raise ValueError(f"{path}: some tensors begin with {prefix!r} and some, as {without[0]}, do not")
    return stored


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What the shapes of a denoiser's tensors say about its config, as far as they are there."""
    sizes = {}
    for size, name, axis in (
        ("inner_dim", "img_in.weight", 0),
        ("in_channels", "img_in.weight", 1),
        ("attention_head_dim", "transformer_blocks.0.attn.norm_q.weight", 0),
        ("enc_hidden_dim", "txt_norm.0.weight", 0),
    ):
        if len(shapes.get(name, ())) > axis:
            sizes[size] = shapes[name][axis]
    for size, pattern in (("num_layers", r"transformer_blocks\.(\d+)\."), ("text layers", r"txt_norm\.(\d+)\.")):
        sizes[size] = len({found[1] for found in map(re.compile(pattern).match, shapes) if found})
    return sizes


def _config_from_shapes(path: Path, stored: Mapping[str, Stored]) -> LensConfig:
    """The config of a file that comes without one.

    Sizes are read off the shapes. What no shape tells is the published model's, and only where the size that goes with
    it is the published one: patch size with 128 channels a token, rotary axes with heads of 64 channels, the text
    encoder's layers with four of 2880 channels.
    """
    sizes = _sizes({name: tensor.shape for name, tensor in stored.items()})
    published = LensConfig()
    known = {field: getattr(published, field) for field in ("in_channels", "attention_head_dim", "enc_hidden_dim")}
    known["text layers"] = len(published.selected_layer_index)
    absent = [size for size in ("inner_dim", *known) if not sizes.get(size)]
    if absent:
        raise ValueError(f"{path}: no denoiser of the Lens kind: no tensor tells {', '.join(absent)}")
    unclear = {size: sizes[size] for size in known if sizes[size] != known[size]}
    if unclear:
        raise ValueError(
            f"{path}: no {CONFIG} beside it, and outside the published family ({_differences(unclear, known)}) shapes "
            "do not tell patch_size, axes_dims_rope and selected_layer_index: give the config"
        )
    del sizes["text layers"]
    try:
        return LensConfig.from_dict({**sizes, "num_attention_heads": sizes["inner_dim"] // sizes["attention_head_dim"]})
    except ValueError as error:
        raise ValueError(f"{path}: the tensors' shapes are no Lens: {error}") from None


def _check(path: Path, stored: Mapping[str, Stored], model: LensTransformer) -> None:
    """Raise ValueError, naming tensors and sizes, unless `stored` has the names and shapes of the model's state."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    wrong = [
        f"{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    wrong += [f"{name} is missing" for name in expected if name not in shapes]
    wrong += [f"{name} is unknown" for name in shapes if name not in expected]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        sizes = _differences(_sizes(shapes), _sizes(expected))
        raise ValueError(
            f"{path}: the weights do not fit the config: {'; '.join(wrong[:4])}{more}"
            + (f"; its sizes: {sizes}" if sizes else "")
        )


def _read_tensors(stored: Mapping[str, Stored], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """One tensor after the other, so that no more than one is held twice."""
    tensors = {}
    for file in dict.fromkeys(tensor.file for tensor in stored.values()):
        with _opened(file) as opened:
            for name, tensor in stored.items():
                if tensor.file == file:
                    # A copy, because a tensor as it is read is aligned as the file has it, and matrix products of
                    # unaligned weights differ in their last bits: a loaded model must draw what the saved one drew.
                    tensors[name] = opened.get_tensor(tensor.key).to(dtype=dtype, copy=True)
    return tensors
