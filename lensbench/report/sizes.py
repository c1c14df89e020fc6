"""The Lens family by size: parameters, training FLOPs, memory, what fits a GPU, and what longer captions cost."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.captions.lengths import CaptionLength, measured_lengths, published_lengths
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Experiment, TextEncoder
from lensbench.model.memory import HEADROOM, Setting, training_memory
from lensbench.model.sizes import denoiser_config, lens, parameter_count, train_flops_per_image
from lensbench.model.transformer import LensConfig
from lensbench.report.table import DASH, Cell, Column, Row, Table

if TYPE_CHECKING:
    pass

GIB = 2**30
DEPTHS = (4, 6, 8, 12, 16, 24, 32, 48)
SIZES_PX = (256, 512, 1024)
UNITS = (("TFLOPs", 1e12), ("GFLOPs", 1e9), ("MFLOPs", 1e6))


@dataclass(frozen=True)
class Family:
    """The models that are compared: one for each depth, with an image token every `stride` pixels."""

    of_depth: Callable[[int], LensConfig]
    stride: int
    latents: str  # in words


@dataclass(frozen=True)
class Question:
    """What the tables are about: the models, their images and their captions, shortest first."""

    family: Family
    depths: tuple[int, ...]
    sizes_px: tuple[int, ...]
    lengths: tuple[CaptionLength, ...]
    setting: Setting


@dataclass(frozen=True)
class Cost:
    """One line of the CSV: a model trained on square images of one size, with captions of one length."""

    depth: int
    width: int
    heads: int
    parameters: int
    size_px: int
    image_tokens: int
    captions: str
    text_tokens: float  # the mean
    train_flops_per_image: float
    fixed_bytes: int
    batch: int
    batch_bytes: int
    batch_bytes_checkpointed: int
    gpu_bytes: int
    largest_batch: int
    largest_batch_checkpointed: int


def of_lens(encoder: TextEncoder, tokens_per_word: float) -> Question:
    """The published family on photographs: FLUX.2's latents, features of `encoder`, captions of published lengths."""

    def of_depth(depth: int) -> LensConfig:
        return lens(depth, enc_hidden_dim=encoder.width, selected_layer_index=encoder.layers)

    family = Family(of_depth, stride=16, latents="FLUX.2's latents in patches of 2")
    return Question(family, DEPTHS, SIZES_PX, published_lengths(tokens_per_word), Setting())


def of_experiments(experiments: Sequence[Experiment], tokens_per_word: float) -> Question:
    """The depths, image sizes and captions of a sweep's experiments; all else is as in the first."""
    first = experiments[0]

    def of_depth(depth: int) -> LensConfig:
        return denoiser_config(first.replace({"model.depth": depth}), first.text_encoder.width)

    patch, kind = first.model.patch_size, first.autoencoder.kind
    latents = f"{'pixels' if kind == 'pixels' else kind + ' latents'} in patches of {patch}"
    policies = {e.captions.model_copy(update={"dropout": 0.0}): None for e in experiments}
    return Question(
        Family(of_depth, first.autoencoder.stride(patch), latents),
        tuple(dict.fromkeys(e.model.depth for e in experiments)),
        tuple(dict.fromkeys(e.corpus.size_px for e in experiments)),
        measured_lengths(open_corpus(first.corpus, first.images), list(policies), first.text_encoder, tokens_per_word),
        Setting(first.training.optimizer, first.training.precision),
    )


def costs(asked: Question, batch: int, gpu_bytes: int) -> list[Cost]:
    """Every depth at every size with every length of captions, for a batch and a GPU.

    Raises ValueError for a depth that the family lacks and a size that is not whole tokens.
    """
    found, stride = [], asked.family.stride
    for depth in asked.depths:
        config = asked.family.of_depth(depth)
        for size in asked.sizes_px:
            if size < 1 or size % stride:
                raise ValueError(f"size={size}: must be a multiple of {stride} px, the side of an image token")
            tokens = (size // stride) ** 2
            found += [_cost(config, size, tokens, length, asked.setting, batch, gpu_bytes) for length in asked.lengths]
    return found


def _cost(
    config: LensConfig,
    size: int,
    image_tokens: int,
    length: CaptionLength,
    setting: Setting,
    batch: int,
    gpu_bytes: int,
) -> Cost:
    plain, checkpointed = (
        training_memory(
            config,
            image_tokens,
            math.ceil(length.mean),
            dataclasses.replace(setting, checkpointing=checkpointing),
        )
        for checkpointing in (False, True)
    )
    flops = [train_flops_per_image(config, image_tokens, tokens) for tokens in length.tokens]
    return Cost(
        depth=config.num_layers,
        width=config.inner_dim,
        heads=config.num_attention_heads,
        parameters=parameter_count(config),
        size_px=size,
        image_tokens=image_tokens,
        captions=length.captions,
        text_tokens=length.mean,
        train_flops_per_image=length.average(flops),
        fixed_bytes=plain.fixed,
        batch=batch,
        batch_bytes=plain.total(batch),
        batch_bytes_checkpointed=checkpointed.total(batch),
        gpu_bytes=gpu_bytes,
        largest_batch=plain.largest_batch(gpu_bytes),
        largest_batch_checkpointed=checkpointed.largest_batch(gpu_bytes),
    )


def write_csv(found: Sequence[Cost], path: Path) -> None:
    """One line a depth, size and length of captions; bytes, FLOPs and tokens as whole numbers."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Cost)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(cost) for cost in found)


def tables(found: Sequence[Cost], asked: Question) -> list[Table]:
    """The family; what longer captions cost, where there are several lengths; memory; what fits."""
    longest = asked.lengths[-1]
    with_longest = [cost for cost in found if cost.captions == longest.captions]
    built = [_family_table(with_longest, longest, asked.family)]
    if len(asked.lengths) > 1:
        built.append(_captions_table(found, asked.lengths))
    return [*built, _memory_table(with_longest, longest, asked.setting), _fits_table(with_longest)]


def _family_table(found: Sequence[Cost], length: CaptionLength, family: Family) -> Table:
    unit, scale = _unit(found)
    columns = [_depth(), *(_column(name, "model") for name in ("width", "heads", "parameters"))]
    columns += [_column(_size(cost.size_px), f"{unit} an image trained") for cost in _first(found)]
    rows = []
    for of_depth in _by_depth(found):
        cost = of_depth[0]
        cells = [str(cost.depth), f"{cost.width:,}", str(cost.heads), amount(cost.parameters)]
        rows.append(_row(cells + [figures(c.train_flops_per_image / scale) for c in of_depth]))
    tokens = ", ".join(f"{cost.image_tokens:,} at {_size(cost.size_px)}" for cost in _first(found))
    notes = (
        f"Image tokens: {tokens}, one for every {family.stride}x{family.stride} pixels ({family.latents}).",
        f"{unit}: the matrix products of a forward and a backward pass, with {_told(length)}, none of them dropped.",
    )
    return Table("family", "The Lens family", tuple(columns), tuple(rows), notes)


def _captions_table(found: Sequence[Cost], lengths: Sequence[CaptionLength]) -> Table:
    unit, scale = _unit(found)
    columns, rows = [_depth()], []
    shortest, *longer = lengths
    for cost in _first([cost for cost in found if cost.captions == shortest.captions]):
        columns.append(_column(shortest.captions, _size(cost.size_px)))
        columns += [_column(length.captions, _size(cost.size_px)) for length in longer]
    for of_depth in _by_depth(found):
        cells = [str(of_depth[0].depth)]
        for size in dict.fromkeys(cost.size_px for cost in of_depth):
            flops = {cost.captions: cost.train_flops_per_image for cost in of_depth if cost.size_px == size}
            base = flops[shortest.captions]
            cells.append(figures(base / scale))
            cells += [more(flops[length.captions] / base - 1) for length in longer]
        rows.append(_row(cells))
    notes = tuple(f"{length.captions}: {length.shown()} tokens, {length.source}." for length in (shortest, *longer))
    title = f"What longer captions cost: {unit} an image with {shortest.captions}, and how much more"
    return Table("captions", title, tuple(columns), tuple(rows), notes)


def _memory_table(found: Sequence[Cost], length: CaptionLength, setting: Setting) -> Table:
    columns = [_depth(), _column("fixed", "any size")]
    columns += [_column(name, _size(cost.size_px)) for cost in _first(found) for name in ("plain", "checkpt.")]
    rows = []
    for of_depth in _by_depth(found):
        cells = [str(of_depth[0].depth), gib(of_depth[0].fixed_bytes)]
        for cost in of_depth:
            cells += [gib(cost.batch_bytes), gib(cost.batch_bytes_checkpointed)]
        rows.append(_row(cells))
    precision = {"fp32": "All in float32", "bf16": "In float32, with bf16 copies for the products"}
    moments = {"adamw": "AdamW's moments", "muon": "Muon's and AdamW's moments"}[setting.optimizer]
    notes = (
        f"fixed: weights, gradients, {moments} and averaged weights. {precision[setting.precision]}.",
        f"By size: with activations and data of the batch, with {_told(length)}.",
        "checkpt.: each block keeps its inputs alone and is computed twice, for about a third more FLOPs.",
        "An estimate: not counted are buffers of single operations, fragmentation and CUDA's own memory.",
    )
    return Table(
        "memory", f"Memory for training with batch {found[0].batch}, in GiB", tuple(columns), tuple(rows), notes
    )


def _fits_table(found: Sequence[Cost]) -> Table:
    columns = [_depth()]
    columns += [_column(name, _size(cost.size_px)) for cost in _first(found) for name in ("plain", "checkpt.")]
    rows = []
    for of_depth in _by_depth(found):
        batches = [batch for cost in of_depth for batch in (cost.largest_batch, cost.largest_batch_checkpointed)]
        rows.append(_row([str(of_depth[0].depth), *(f"{batch:,}" if batch else DASH for batch in batches)]))
    memory = f"{found[0].gpu_bytes / GIB:g} GiB"
    notes = (f"{100 * HEADROOM:.0f} % of the memory is left free for what is not counted. {DASH}: not one image fits.",)
    return Table("fits", f"Largest batch on one GPU of {memory}", tuple(columns), tuple(rows), notes)


def amount(n: int) -> str:
    """2.4 M or 1.21 B."""
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.1f} M"


def figures(x: float) -> str:
    """Three significant figures or all before the point: 0.00512, 1.34, 51.2, 1,234."""
    return f"{x:,.{max(0, 2 - math.floor(math.log10(x)))}f}" if x else "0"


def gib(n: int) -> str:
    """<0.01, 0.08 or 1,234.5."""
    return "<0.01" if n < 0.005 * GIB else f"{n / GIB:,.{1 if n >= GIB else 2}f}"


def more(share: float) -> str:
    """+5.3 % or +41 %."""
    return f"+{100 * share:.{0 if share >= 0.1 else 1}f} %"


def memory_bytes(text: str) -> int:
    """Bytes of "80GB", "80 GiB" or "80": all are 2**30 bytes, as makers of GPUs count. Raises ValueError."""
    number = text.strip().lower().removesuffix("b").removesuffix("i").removesuffix("g").strip()
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"--memory={text}: give a GPU's memory as in --memory=80GB")
    return int(found * GIB)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of "4,8,16", in order and each once. Raises ValueError naming the option."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{option}={text}: give whole numbers with commas between, as in {option}=4,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _unit(found: Sequence[Cost]) -> tuple[str, float]:
    most = max(cost.train_flops_per_image for cost in found)
    return next((unit, scale) for unit, scale in UNITS if most >= scale or unit == UNITS[-1][0])


def _told(length: CaptionLength) -> str:
    return f"{length.captions} captions ({length.shown()} tokens)"


def _size(size_px: int) -> str:
    return f"{size_px} px"


def _depth() -> Column:
    return Column("depth", "depth", "depth", label=True)


def _column(name: str, group: str = "") -> Column:
    return Column(name, name, name, group)


def _row(texts: Sequence[str]) -> Row:
    return Row(tuple(Cell(text) for text in texts))


def _by_depth(found: Sequence[Cost]) -> list[list[Cost]]:
    return [[cost for cost in found if cost.depth == depth] for depth in dict.fromkeys(cost.depth for cost in found)]


def _first(found: Sequence[Cost]) -> list[Cost]:
    """One cost a size."""
    return _by_depth(found)[0]
