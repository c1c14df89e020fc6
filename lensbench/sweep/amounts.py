"""How much a cell computes and reads, before it is run: tokens of its captions, FLOPs of its training.

Captions are counted, by the tokenizer of the text encoder: of a corpus of more than `COUNTED` training images those of
the first. Where each seed draws its own images, they are those of the corpus's first all the same, so that every seed
is given the same steps. Nothing is encoded and no weights are read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lensbench.experiment import Autoencoder, Captions, Experiment, FolderCorpus, Model, ShapesCorpus, TextEncoder
from lensbench.model.sizes import denoiser_config, train_flops_per_image

if TYPE_CHECKING:
    from lensbench.data.corpus import Corpus
    from lensbench.data.folder import PhotoFolder
    from lensbench.data.imported import ImportedCorpus
    from lensbench.model.transformer import LensConfig

COUNTED = 16_384  # training images whose captions are counted, at most


def flops_per_image(
    config: LensConfig, policy: Captions, token_counts: Mapping[str, np.ndarray], image_tokens: int
) -> float:
    """Mean over image visits of the useful training FLOPs, the sets of a mixture by their shares.

    Padding is not counted, dropped captions have no text. `token_counts` is (images,) for each caption set.
    """
    with_text = 0.0
    for name, share in policy.shares.items():
        lengths, visits = np.unique(token_counts[name], return_counts=True)
        of_length = [train_flops_per_image(config, image_tokens, int(length)) for length in lengths]
        with_text += share * float(np.average(of_length, weights=visits))
    without_text = train_flops_per_image(config, image_tokens, 0)
    return policy.dropout * without_text + (1 - policy.dropout) * with_text


def caption_tokens(experiment: Experiment) -> Mapping[str, np.ndarray]:
    """Tokens of each training caption, (images,) for each caption set of the arm, as the text encoder will count them.

    Raises ValueError, one line, when the corpus, a caption set or the tokenizer is not there.
    """
    return {name: counts for name, (counts, _, _) in _of(experiment).items()}


def distinct_texts(experiment: Experiment) -> tuple[float, float]:
    """The arm's distinct captions and the tokens in them: what is encoded, once."""
    scale = max(1.0, experiment.images / COUNTED)
    found = _of(experiment).values()
    return scale * sum(texts for _, texts, _ in found), scale * sum(tokens for _, _, tokens in found)


def mean_tokens(experiment: Experiment) -> float:
    """Mean tokens of the texts that the arm is given, those that are dropped counted as none."""
    policy, counts = experiment.captions, caption_tokens(experiment)
    return (1 - policy.dropout) * sum(share * float(counts[name].mean()) for name, share in policy.shares.items())


def train_flops(experiment: Experiment) -> float:
    """FLOPs of a whole training; with buckets those of as many images of corpus.size_px."""
    recipe = experiment.training
    return recipe.steps * experiment.images_a_step * image_flops(experiment)


def image_flops(experiment: Experiment) -> float:
    """FLOPs of training on one image of corpus.size_px, the mean over the arm's captions."""
    return _image_flops(
        experiment.model,
        experiment.autoencoder,
        experiment.text_encoder,
        experiment.corpus,
        min(experiment.images, COUNTED),
        experiment.captions,
    )


def training_images(experiment: Experiment) -> int:
    """Unique training images that the run has: those asked for, or fewer where the corpus holds fewer."""
    return len(_corpus(experiment.corpus, experiment.images).train_keys)


def _of(experiment: Experiment) -> Mapping[str, tuple[np.ndarray, int, int]]:
    whole = experiment.captions.model_copy(update={"dropout": 0.0})
    return _counted(experiment.corpus, min(experiment.images, COUNTED), whole, experiment.text_encoder)


@functools.lru_cache(maxsize=64)
def _corpus(config: ShapesCorpus | FolderCorpus, images: int) -> Corpus:
    from lensbench.data.corpus import at_scale, open_corpus

    if isinstance(config, FolderCorpus):
        return at_scale(_photographs(config), images, None)
    return open_corpus(config, images)


@functools.lru_cache(maxsize=4)
def _photographs(config: FolderCorpus) -> PhotoFolder | ImportedCorpus:
    from lensbench.data.corpus import open_photographs

    return open_photographs(config)


def _counted(
    config: ShapesCorpus | FolderCorpus, images: int, policy: Captions, encoder: TextEncoder
) -> Mapping[str, tuple[np.ndarray, int, int]]:
    """By caption set: tokens of each caption (images,), and how many distinct texts and tokens in them there are."""
    upto = images
    if config.kind == "shapes" and policy.length_matched_to is None and not policy.shuffled:
        # A caption then depends on its image alone: scales share what is counted.
        upto = min(COUNTED, 2 ** max(10, (images - 1).bit_length()))
    out = {}
    for name in policy.shares:
        # Without another set that it is cut to the lengths of, a set of a mixture is as it is alone.
        alone = policy.model_copy(update={"set": name}) if policy.length_matched_to is None else policy
        lengths, texts = (counts[:images] for counts in _tokens(config, upto, alone, encoder)[name])
        _, first = np.unique(texts, return_index=True)
        out[name] = (lengths, len(first), int(lengths[first].sum()))
    return out


@functools.lru_cache(maxsize=256)
def _tokens(
    config: ShapesCorpus | FolderCorpus, images: int, policy: Captions, encoder: TextEncoder
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """By caption set: tokens of each caption and a number for each distinct text, both (images,)."""
    from lensbench.captions.cutting import MINILM_ADDS, text_window, token_offsets
    from lensbench.captions.texts import training_texts

    corpus = _corpus(config, images)
    offsets, window = token_offsets(encoder), text_window(encoder)
    added = MINILM_ADDS if encoder.kind == "minilm" else 0
    out = {}
    for name, texts in training_texts(corpus, policy, corpus.train_keys, encoder).items():
        numbers = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        found = zip(numbers, offsets(list(numbers)), strict=True)
        lengths = np.array([min(len(spans), window) + added if text else 0 for text, spans in found])
        of_image = np.array([numbers[text] for text in texts])
        out[name] = (lengths[of_image], of_image)
    return out


@functools.lru_cache(maxsize=4096)
def _image_flops(
    model: Model,
    autoencoder: Autoencoder,
    encoder: TextEncoder,
    corpus: ShapesCorpus | FolderCorpus,
    images: int,
    policy: Captions,
) -> float:
    experiment = Experiment(
        model=model, autoencoder=autoencoder, text_encoder=encoder, corpus=corpus, images=images, captions=policy
    )
    counts = caption_tokens(experiment)
    return flops_per_image(denoiser_config(experiment, encoder.width), policy, counts, experiment.image_tokens)
