"""An imported corpus on disk: images as they came, in Arrow files, and `corpus.json`, which is written last.

    corpus.json          format, counts, digest, the shards, what was imported
    images/00000.arrow   Arrow IPC files of about 256 MB: a row an image, memory-mapped when read
    captions/<set>/      a caption set each
    set_aside.parquet    what is not used, and why

The key of an image is the sha256 of its file's bytes, in lowercase hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lensbench.data.pictures import Facts
from lensbench.publishing import publish, publish_text

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
MANIFEST = "corpus.json"
SET_ASIDE = "set_aside.parquet"
JOURNAL = "import.sqlite"  # there until the import is finished
SHARD_BYTES = 256_000_000  # of images, in a shard
BATCH_BYTES = 16_000_000  # of images, in a record batch: what is held in memory while a shard is written


class Image(NamedTuple):
    """An image as it is stored."""

    key: str
    data: bytes
    facts: Facts
    source: str


class Shard(NamedTuple):
    """A shard as `corpus.json` knows it."""

    file: str  # relative to the corpus
    images: int
    bytes: int  # of its images


def shard_schema() -> pa.Schema:
    """The columns of a shard; `rules` are names of `pictures.RULES`, sides are in pixels, upright."""
    import pyarrow as pa

    return pa.schema(
        {
            "key": pa.string(),
            "image": pa.large_binary(),
            "format": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "rules": pa.list_(pa.string()),
            "source": pa.string(),
        }
    )


class ShardWriter:
    """Writes one shard, which appears under its name, whole, when it is published."""

    def __init__(self, corpus: Path, number: int) -> None:
        import pyarrow as pa

        self.name = f"images/{number:05d}.arrow"
        self._path = corpus / self.name
        self._path.parent.mkdir(exist_ok=True)
        self._partial = self._path.with_suffix(".partial")
        self._file = pa.OSFile(str(self._partial), "w")
        self._writer = pa.ipc.new_file(self._file, shard_schema())
        self._rows: list[Image] = []
        self._waiting = self.bytes = self.images = 0

    def add(self, image: Image) -> None:
        """Add an image; it is on its way to the disk."""
        self._rows.append(image)
        self.images += 1
        self.bytes += len(image.data)
        self._waiting += len(image.data)
        if self._waiting >= BATCH_BYTES:
            self._flush()

    def publish(self) -> Shard:
        """Finish the shard and put it in its place."""
        self._flush()
        self._writer.close()
        self._file.close()
        publish(self._partial, self._path)
        return Shard(self.name, self.images, self.bytes)

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        keys, data, facts, sources = zip(*self._rows, strict=True)
        schema = shard_schema()
        columns = (keys, data, *zip(*facts, strict=True), sources)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=schema))
        self._rows, self._waiting = [], 0


def write_manifest(corpus: Path, manifest: dict[str, Any]) -> None:
    """Write `corpus.json`, in one step."""
    publish_text(corpus / MANIFEST, json.dumps({"format": FORMAT, **manifest}, indent=1))


def is_imported(folder: Path) -> bool:
    """Whether a folder is an imported corpus, finished."""
    return (folder / MANIFEST).is_file()


def is_begun(folder: Path) -> bool:
    """Whether an import into a folder has begun and is not finished."""
    return (folder / JOURNAL).is_file() and not is_imported(folder)


def read_manifest(corpus: Path) -> dict[str, Any]:
    """What `corpus.json` says, without its format. Raises ValueError when there is none that can be read."""
    path = corpus / MANIFEST
    try:
        found = json.loads(path.read_text())
        version = found.pop("format")
        found["shards"] = [Shard(**shard) for shard in found["shards"]]
    except FileNotFoundError:
        begun = "its import is not finished: the same `lensbench corpus import` goes on" if is_begun(corpus) else ""
        raise ValueError(f"{corpus} is no imported corpus: {begun or f'it has no {MANIFEST}'}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if version != FORMAT:
        raise ValueError(f"{path} is of format {version}; this version reads format {FORMAT}")
    assert isinstance(found, dict)
    return found


def mapped(corpus: Path, shard: Shard) -> pa.Table:
    """A shard, memory-mapped. Raises ValueError when it is missing, damaged, or another than the corpus's."""
    import pyarrow as pa

    path = corpus / shard.file
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        raise ValueError(f"shard {path} is missing: {shard.images:,} images") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"shard {path} is damaged: {error}; lensbench corpus check --verify tells more") from None
    if table.num_rows != shard.images or table.schema != shard_schema():
        raise ValueError(f"shard {path} is damaged: it has {table.num_rows:,} rows, not {shard.images:,}")
    return table


def streamed(corpus: Path, shard: Shard, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A shard, a record batch in memory at a time. Raises as `mapped` does."""
    import pyarrow as pa

    path = corpus / shard.file
    wanted = None if columns is None else [shard_schema().get_field_index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=wanted)
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)
    except FileNotFoundError:
        raise ValueError(f"shard {path} is missing: {shard.images:,} images") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"shard {path} is damaged: {error}") from None
