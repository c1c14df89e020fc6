"""An imported corpus to train from, or to read images of: see lensbench.data.shards for how it lies on disk.

The images stay on disk, memory-mapped. In memory are the keys and, for each, where its image lies.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.captions.store import STATES, CaptionSet, caption_sets
from lensbench.data.buckets import Size
from lensbench.data.pictures import quiet, read_picture, reason
from lensbench.data.shards import SET_ASIDE, Shard, mapped, read_manifest, streamed
from lensbench.experiment import FolderCorpus

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

OPEN_SHARDS = 128  # mapped at a time: each takes a file descriptor
KEYS_AT_A_TIME = 100_000  # whose texts are in memory while their digest is made
_KEY = "S64"


class ImageBytes:
    """The images of an imported corpus as they came: bytes by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        self._shards: list[Shard] = manifest["shards"]
        self._starts = np.cumsum([0, *(shard.images for shard in self._shards)])
        self._keys = _keys(folder, self._shards)
        self._order = np.argsort(self._keys)
        self._sorted = self._keys[self._order]
        self._open: OrderedDict[int, pa.Table] = OrderedDict()

    @property
    def keys(self) -> Sequence[str]:
        """Every key, in the order of the corpus."""
        return _Keys(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, key: str) -> bytes:
        """The bytes of an image. Raises KeyError for a key that the corpus does not have, ValueError for a shard that
        is missing or damaged."""
        (row,) = self.rows([key])
        return self.read_row(int(row))

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Where the images of keys lie in the order of the corpus: int64. Raises KeyError for an unknown key."""
        asked = np.array(keys, dtype=_KEY)
        places = np.minimum(np.searchsorted(self._sorted, asked), len(self._sorted) - 1)
        missing = self._sorted[places] != asked
        if missing.any():
            raise KeyError(f"{self.folder} has no image {keys[int(missing.argmax())]}")
        return np.asarray(self._order[places])

    def sizes(self, keys: Sequence[str]) -> np.ndarray:
        """Height and width of images, upright, in pixels: (N, 2)."""
        every = [
            np.stack([batch.column(name).to_numpy() for name in ("height", "width")], axis=1)
            for shard in self._shards
            for batch in streamed(self.folder, shard, ["height", "width"])
        ]
        found: np.ndarray = np.concatenate(every)[self.rows(keys)]
        return found

    def read_row(self, row: int) -> bytes:
        """The bytes of the image at a place in the order of the corpus."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        table = self._open.get(number)
        if table is None:
            table = self._open[number] = mapped(self.folder, self._shards[number])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        data = table.column("image")[int(row - self._starts[number])].as_py()
        assert isinstance(data, bytes)
        return data


def rows_here(images: ImageBytes, found: CaptionSet) -> tuple[dict[str, int], int]:
    """Rows of a caption set in each state that are of images of the corpus, and how many rows are of others."""
    import pyarrow as pa

    states, foreign = dict.fromkeys(map(str, STATES), 0), 0
    for batch in found.batches(["key", "state"]):
        here = np.isin(_as_keys(batch.column("key")), images._sorted)
        foreign += int((~here).sum())
        for item in batch.column("state").filter(pa.array(here)).value_counts().to_pylist():
            states[item["values"]] += item["counts"]
    return states, foreign


def open_images(folder: Path) -> ImageBytes:
    """The images of an imported corpus. Raises ValueError when it is none, or a shard is missing or damaged."""
    return ImageBytes(folder)


@dataclass(frozen=True)
class ImportedCorpus:
    """The usable images of an imported corpus at one resolution; as `folder.PhotoFolder`, but on disk.

    `config` carries the digests. `set_aside` maps a source to why its image is not used; `merged` counts samples with
    the bytes of another; `dropped` counts images that lack a caption of `config.caption_sets`.
    """

    config: FolderCorpus
    train_keys: list[str]
    validation_keys: list[str]
    set_aside: dict[str, str]
    dropped: int
    merged: int
    sets_found: tuple[str, ...]
    _bytes: ImageBytes

    @property
    def digest(self) -> str:
        """sha256 over the sorted keys of the usable images."""
        return self.config.digest

    def images(self, keys: Sequence[str], size: Size | None = None) -> torch.Tensor:
        """The images of `keys`, decoded now: uint8 (N, 3, H, W), of the corpus's own size or of `size`."""
        import torch

        height, width = size or (self.config.size_px, self.config.size_px)
        pixels = np.empty((len(keys), 3, height, width), dtype=np.uint8)
        self.decode(keys, pixels)
        return torch.from_numpy(pixels)

    def native_sizes(self, keys: Sequence[str]) -> np.ndarray:
        """The height and width, in pixels, that the images of `keys` have themselves: (N, 2)."""
        return self._bytes.sizes(keys)

    def decode(self, keys: Sequence[str], out: np.ndarray) -> None:
        """The images of `keys` into `out`, uint8 (N, 3, H, W), at its size."""
        rows, size = self._bytes.rows(keys), Size(*out.shape[2:])

        def one(i: int) -> None:
            data = self._bytes.read_row(int(rows[i]))
            try:
                out[i] = read_picture(data, size).transpose(2, 0, 1)
            except Exception as error:  # it could be read when it was imported
                raise ValueError(
                    f"image {keys[i][:12]} of {self.config.path} is damaged: {reason(error)}; "
                    "lensbench corpus check --verify says which shard"
                ) from None

        with quiet(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for _ in pool.map(one, np.argsort(rows)):  # shard by shard
                pass

    def texts(self, caption_set: str, keys: Collection[str] | None = None) -> dict[str, str]:
        """Key -> text in one caption set, of `keys` alone if given, else of every image to train on or held out.

        Raises ValueError naming the sets that exist when the corpus does not have this one.
        """
        from lensbench.data.folder import not_a_set

        if caption_set not in self.config.caption_sets:
            raise not_a_set(self.config, caption_set, self.sets_found)
        wanted = {*self.train_keys, *self.validation_keys} if keys is None else keys
        return CaptionSet(self.config.path / "captions" / caption_set).texts(wanted)


def open_imported(config: FolderCorpus) -> ImportedCorpus:
    """Open an imported corpus; what is used is what a folder's rules say.

    Raises ValueError, one line, when it cannot be used: see `folder.open_folder`.
    """
    from lensbench.data.folder import digested, refuse_few, split_by_key

    data = ImageBytes(config.path)
    manifest = read_manifest(config.path)
    there = {found.name: found for found in caption_sets(config.path)}
    names = sorted(set(config.caption_sets))
    every = data._sorted
    captioned = {name: np.isin(every, _captioned(there.get(name))) for name in names}
    complete = np.logical_and.reduce(list(captioned.values()))
    usable = [key.decode() for key in every[complete]]
    lacking = {name: int((~captioned[name]).sum()) for name in config.caption_sets}
    set_aside = _set_aside(config.path)
    refuse_few(config.path, len(usable), len(every), lacking, len(set_aside), tuple(there))
    config = digested(config, usable, _texts(every[complete], [there[name] for name in names if usable]))
    train, held_out = split_by_key(usable, config.validation_share)
    return ImportedCorpus(
        config=config,
        train_keys=train,
        validation_keys=held_out,
        set_aside=set_aside,
        dropped=len(every) - len(usable),
        merged=manifest["merged"],
        sets_found=tuple(there),
        _bytes=data,
    )


class _Keys(Sequence[str]):
    """Keys as texts, made when they are asked for: a list of a million takes twice the memory."""

    def __init__(self, keys: np.ndarray) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        found = self._keys[place]
        return _Keys(found) if isinstance(place, slice) else found.decode()

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._keys)


def _keys(folder: Path, every: Iterable[Shard]) -> np.ndarray:
    found = [np.empty(0, dtype=_KEY)]
    for shard in every:
        count = 0
        for batch in streamed(folder, shard, ["key"]):
            found.append(_as_keys(batch.column("key")))
            count += len(batch)
        if count != shard.images:
            raise ValueError(f"shard {folder / shard.file} is damaged: it has {count:,} images, not {shard.images:,}")
    return np.concatenate(found)


def _captioned(found: CaptionSet | None) -> np.ndarray:
    """The keys of the captions that are done."""
    batches = () if found is None else _done(found, ["key"])
    return np.concatenate([np.empty(0, dtype=_KEY), *(_as_keys(batch.column("key")) for batch in batches)])


def _done(found: CaptionSet, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.compute as pc

    for batch in found.batches([*columns, "state"]):
        yield batch.filter(pc.equal(batch.column("state"), "done")).select(columns)


def _texts(keys: np.ndarray, sets: Sequence[CaptionSet]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each of the sorted keys with its text in every set; the sets are read once for every `KEYS_AT_A_TIME`."""
    for start in range(0, len(keys), KEYS_AT_A_TIME):
        some = keys[start : start + KEYS_AT_A_TIME]
        texts = {found.name: _texts_of(some, found) for found in sets}
        for first in range(0, len(some), 1024):
            said = {name: column.slice(first, 1024).to_pylist() for name, column in texts.items()}
            for i, key in enumerate(some[first : first + 1024]):
                yield key.decode(), {name: column[i] for name, column in said.items()}


def _texts_of(keys: np.ndarray, found: CaptionSet) -> pa.Array:
    """The texts of sorted keys, all of which the set has, in their order."""
    import pyarrow as pa

    rows, texts = [], []
    for batch in _done(found, ["key", "text"]):
        theirs = _as_keys(batch.column("key"))
        places = np.minimum(np.searchsorted(keys, theirs), len(keys) - 1)
        among = keys[places] == theirs
        rows.append(places[among])
        texts.append(batch.column("text").cast(pa.large_string()).filter(pa.array(among)))
    return pa.concat_arrays(texts).take(pa.array(np.argsort(np.concatenate(rows))))


def _as_keys(column: pa.Array) -> np.ndarray:
    import pyarrow as pa

    if not len(column):
        return np.empty(0, dtype=_KEY)
    import pyarrow.compute as pc

    # A key of another length is no key of an image here: no sha256 is all zeros.
    own = pc.if_else(pc.equal(pc.binary_length(column), 64), column, pa.scalar("0" * 64, column.type))
    fixed = own.cast(pa.binary(64))
    return np.frombuffer(fixed.buffers()[1], dtype=_KEY, count=len(fixed), offset=64 * fixed.offset)


def _set_aside(folder: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / SET_ASIDE, columns=["what", "reason", "source"]).to_pylist()
    return {row["source"]: row["reason"] for row in rows if row["what"] == "image"}
