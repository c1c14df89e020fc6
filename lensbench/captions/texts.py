"""The texts of images: those of a caption set, and those that a policy makes of one or several sets.

A caption depends on the corpus, the caption set and the image's key alone, and a policy's text on the training images
too; neither depends on the seed of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from lensbench.captions import given
from lensbench.captions.cutting import first_tokens, first_words, length_matched, token_offsets, word_counts
from lensbench.captions.scene_writer import write
from lensbench.data.corpus import Corpus, ShapesWorld
from lensbench.experiment import Captions, TextEncoder
from lensbench.streams import numpy_stream


def captions(corpus: Corpus, policy: Captions, keys: Sequence[str]) -> list[str]:
    """The text of each key in the policy's one caption set, in the keys' order: whole, and the key's own.

    Raises ValueError naming the caption sets that exist when the folder does not have the policy's.
    """
    assert len(policy.shares) == 1, "a mixture has several texts for each key"
    return _of_set(corpus, policy, policy.set, keys)


def training_texts(corpus: Corpus, policy: Captions, keys: Sequence[str], encoder: TextEncoder) -> dict[str, list[str]]:
    """What the policy gives to the images of `keys`: a text for each key in every set that it draws from.

    `encoder` is the one whose tokens `max_tokens` counts. Raises ValueError when a caption set or the tokenizer is not
    there, and for one image to shuffle.
    """
    found = {name: _of_set(corpus, policy, name, keys) for name in policy.shares}
    if (reference := policy.length_matched_to) is not None:
        lengths = word_counts(_of_set(corpus, policy, reference, keys))
        found = {name: texts if name == reference else length_matched(texts, lengths) for name, texts in found.items()}
    if (words := policy.max_words) is not None:
        found = {name: [first_words(text, words) for text in texts] for name, texts in found.items()}
    if policy.max_tokens is not None:
        offsets = token_offsets(encoder)
        found = {name: first_tokens(texts, policy.max_tokens, offsets) for name, texts in found.items()}
    if policy.shuffled:
        donors = other_images(corpus, len(keys))
        found = {name: [texts[donor] for donor in donors] for name, texts in found.items()}
    return found


def other_images(corpus: Corpus, images: int) -> np.ndarray:
    """For each of so many training images another one, each of them once: int64 (images,), drawn once for a corpus.

    It is a random cycle through all images, so none is its own partner; two may still have equal captions. Raises
    ValueError for one image.
    """
    if images < 2:
        raise ValueError("captions.shuffled needs at least two training images")
    if isinstance(corpus, ShapesWorld):  # its digest is another at every resolution, its captions are not
        seed, name = corpus.config.world_seed, "shuffled captions"
    else:
        seed, name = 0, f"shuffled captions/{corpus.digest}"
    cycle = numpy_stream(seed, name, images).permutation(images)
    partners = np.empty(images, dtype=np.int64)
    partners[cycle] = np.roll(cycle, -1)
    return partners


def _of_set(corpus: Corpus, policy: Captions, name: str, keys: Sequence[str]) -> list[str]:
    if (place := given.place_of(name)) is not None and policy.given is not None:
        return _given(policy, place, keys)
    if isinstance(corpus, ShapesWorld):
        return [_scene_caption(corpus, policy, name, key) for key in keys]
    texts = corpus.texts(name)
    return [texts[key] for key in keys]


def _given(policy: Captions, place: int, keys: Sequence[str]) -> list[str]:
    assert policy.given is not None, "validated"
    assert policy.given_digest is not None, "validated"
    found = given.checked(policy.given, policy.given_digest, policy.given_template, policy.given_limit)
    if absent := [key for key in keys if key not in found.texts]:
        raise ValueError(
            f"captions.given={policy.given}: no caption for {len(absent):,} of {len(keys):,} training images, as "
            f"{absent[0]}"
        )
    return [found.nth(key, place) for key in keys]


def _scene_caption(world: ShapesWorld, policy: Captions, name: str, key: str) -> str:
    return write(world.scene(key), name, caption_stream(world, name, key), policy.present, policy.wrong)


def caption_stream(world: ShapesWorld, name: str, key: str) -> np.random.Generator:
    """The random numbers of an image's caption in a set of the shapes world."""
    split, index = world.split_and_index(key)
    # The stream leaves the dose out, so that the doses of one image differ as little as their shares do.
    return numpy_stream(world.config.world_seed, f"caption/{name}/{split}", index)


def digest(keys: Sequence[str], texts: Sequence[str]) -> str:
    """sha256 over every key with its text, whatever their order, in hexadecimal."""
    assert len(keys) == len(texts), "one text for each key"
    found = hashlib.sha256()
    for key, text in sorted(zip(keys, texts, strict=True)):
        for part in (key.encode(), text.encode()):
            found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def arm_digest(keys: Sequence[str], texts: Mapping[str, Sequence[str]]) -> str:
    """`digest` of a policy's texts: that of its one set, or sha256 over the names and digests of a mixture's sets."""
    found = {name: digest(keys, of_set) for name, of_set in texts.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    return hashlib.sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)).encode()).hexdigest()
