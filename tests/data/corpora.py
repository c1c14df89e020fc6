"""Small corpora as people have them, and what an import made of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lensbench.captions.store import caption_sets
from lensbench.data.imported import open_images


def image(seed: int, kind: str = "JPEG", **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


class Ran(NamedTuple):
    """What a command ended with: its exit code and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def captions(corpus: Path) -> dict[str, dict[bytes, str]]:
    """Caption set -> the bytes of an image -> its text."""
    images = open_images(corpus)
    return {
        found.name: {images.read(key): text for key, text in found.texts().items()} for found in caption_sets(corpus)
    }


def write_folder(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def write_tar(path: Path, files: Mapping[str, bytes | str]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            content = data if isinstance(data, bytes) else data.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_table(path: Path, images: list[bytes], **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path
