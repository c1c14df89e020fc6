"""What training and scoring a cell both need: its corpus, frozen models and instruments, and what is encoded of it.

Corpora and models serve many cells of one process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lensbench.captions.texts import training_texts
from lensbench.data.buckets import Size
from lensbench.data.corpus import Corpus, at_scale, open_corpus, open_photographs
from lensbench.data.features import TextFeatures, TextRows, encode_texts, text_rows
from lensbench.data.latents import ImageRows, Latents, encode_images, image_rows, online_images
from lensbench.data.rowstore import Cost, shown
from lensbench.experiment import Autoencoder as AutoencoderConfig
from lensbench.experiment import Experiment, FolderCorpus, ShapesCorpus
from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.autoencoder import Autoencoder, open_autoencoder
from lensbench.model.text_encoder import TextEncoder, open_text_encoder
from lensbench.scoring.evaluation_plan import Plan, plan
from lensbench.scoring.instruments import Instruments, open_instruments
from lensbench.sweep.progress import Progress, Stage

Report = Callable[[Progress], None]

WORTH_TELLING = 10**9  # bytes that a cell writes for its features

_photographs = functools.lru_cache(maxsize=4)(open_photographs)
_opened: dict[tuple[str, tuple[object, ...]], Instruments] = {}  # of the last evaluation


@functools.lru_cache(maxsize=4)
def corpus_of(config: ShapesCorpus | FolderCorpus, images: int, seed: int | None = None) -> Corpus:
    """As `open_corpus`; photographs are read once for all data scales and seeds."""
    if isinstance(config, FolderCorpus):
        return at_scale(_photographs(config), images, seed)
    return open_corpus(config, images, seed)


def device() -> torch.device:
    """Where models compute: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.lru_cache(maxsize=2)
def encoder_of(config: TextEncoderConfig) -> TextEncoder:
    """The text encoder of a cell. Raises ValueError for other weights than the published ones that are not pinned."""
    encoder = open_text_encoder(config)
    _refuse_unpinned("text_encoder", config, encoder.digest)
    return encoder


@functools.lru_cache(maxsize=2)
def autoencoder_of(config: AutoencoderConfig, patch_size: int) -> Autoencoder:
    """The autoencoder of a cell. Raises ValueError for other weights than the published ones that are not pinned."""
    autoencoder = open_autoencoder(config, patch_size)
    _refuse_unpinned("autoencoder", config, autoencoder.digest)
    return autoencoder


def _refuse_unpinned(part: str, config: TextEncoderConfig | AutoencoderConfig, digest: str) -> None:
    if not config.published and config.digest is None:
        raise ValueError(
            f"{part}.model={config.model} may be any model: give {part}.digest={digest!r}, so that the experiment says "
            "which weights it is about"
        )


def instruments_of(what: Plan) -> Instruments:
    """Who measures an evaluation, opened and tried. Raises ValueError as `open_instruments`."""
    evaluation = what.experiment.evaluation
    real = (what.corpus.digest, what.experiment.corpus.size_px, *what.keys)
    key = (evaluation.model_dump_json(), real)
    if evaluation.detector == "own":  # a file that may change between two cells
        _opened.clear()
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_instruments(what, str(device()))
    return _opened[key]


@dataclass(frozen=True)
class Parts:
    """An opened cell: everything that does not depend on which of its evaluations is made."""

    experiment: Experiment
    corpus: Corpus
    autoencoder: Autoencoder
    encoder: TextEncoder
    texts: dict[str, list[str]]  # the training texts of each caption set
    cache: Path
    report: Report

    @property
    def online(self) -> bool:
        """Whether nothing is written: what is scored on stays in memory."""
        return self.experiment.training.features == "online"

    def plan(self, experiment: Experiment) -> Plan:
        """The plan of one of the cell's evaluations."""
        return plan(experiment, self.corpus)

    def features(self, of: Sequence[str], note: str) -> TextFeatures:
        """The features of texts, encoded once for all cells."""
        if self.online:
            return encode_texts(of, self.encoder, None, report=self._telling("captions", note))
        rows = text_rows(of, self.encoder, self.cache)
        self._mended("captions", rows)
        rows.fill(self._telling("captions", note, rows.cost()))
        return rows.features()

    def latents(self, keys: Sequence[str], note: str, size: Size | None = None) -> Latents:
        """The latents of images, encoded once for all cells; the pixels themselves where those are the latents."""
        rows = None
        if not self.online:
            rows = image_rows(self.corpus, keys, self.autoencoder, self.cache, device=device(), size=size)
        if rows is None:
            where = self._telling("latents", note)
            return encode_images(self.corpus, keys, self.autoencoder, None, device=device(), size=size, report=where)
        self._mended("latents", rows)
        rows.fill(self._telling("latents", note, rows.cost()))
        return rows.latents()

    def training_latents(self, keys: Sequence[str], size: Size | None) -> Latents:
        """The latents of training images, of the corpus's own size or of `size`."""
        if self.online:
            return online_images(self.corpus, keys, self.autoencoder, device=device(), size=size)
        return self.latents(
            keys, "training images" if size is None else f"images of {size.height} x {size.width}", size
        )

    def _mended(self, stage: Stage, rows: TextRows | ImageRows) -> None:
        for path in rows.mend():
            self.report(Progress(stage, 0, 1, f"{path} was damaged: what it held is computed again", lasting=True))

    def _telling(self, stage: Stage, note: str, cost: Cost | None = None) -> Callable[[int, int], None]:
        if cost is not None and cost.bytes > WORTH_TELLING:
            note += f", {shown(cost.bytes)} to write"
        return lambda done, total: self.report(Progress(stage, done, total, note))


def opened(experiment: Experiment, cache: Path, report: Report) -> Parts:
    """The parts of a cell. Raises ValueError, one line, for what the user can mend."""
    corpus = corpus_of(experiment.corpus, experiment.images, experiment.images_seed)
    autoencoder = autoencoder_of(experiment.autoencoder, experiment.model.patch_size)
    encoder = encoder_of(experiment.text_encoder)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    return Parts(experiment, corpus, autoencoder, encoder, texts, cache, report)
