"""Which kind of source a path, a pattern or a name is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from lensbench.data.sources.hub import is_saved
from lensbench.data.sources.sidecars import walk
from lensbench.data.sources.source import Source
from lensbench.data.sources.tables import holds_images
from lensbench.data.sources.tars import SUFFIXES, tar_files

Format = Literal["folder", "webdataset", "parquet", "datasets"]


def guess(source: str) -> Format:
    """The format of a source, by what lies there or how it is written. Raises ValueError when it can be none."""
    path = Path(source)
    if path.is_dir():
        if (path / "corpus.json").exists():
            raise ValueError(f"{source} is an imported corpus already")
        if is_saved(path):
            return "datasets"
        if any(child.name.endswith(SUFFIXES) for child in path.iterdir()):
            return "webdataset"  # before Parquet: img2dataset writes a table without pictures beside each tar
        images = any(found.kind == "picture" for found in walk(path))
        if holds_images(path):
            if images:
                raise ValueError(
                    f"{source}: holds image files, and Parquet files with images: say which to read with --format "
                    "folder or --format parquet"
                )
            return "parquet"
        if images:
            return "folder"
        if any(path.rglob("*.parquet")):
            return "parquet"
        if tar_files(source):
            return "webdataset"
        raise ValueError(f"{source}: no pictures, tar or Parquet files in it; say what it is with --format")
    if source.endswith(SUFFIXES):
        return "webdataset"
    if source.endswith(".parquet"):
        return "parquet"
    if path.exists():
        raise ValueError(f"{source} is a file, and no tar or Parquet file; say what it is with --format")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith(".") and not path.parent.exists():
        return "datasets"
    raise ValueError(f"there is no {source}; a dataset of the hub is given as owner/name")


def open_source(
    source: str,
    format_: Format,
    listing: Path,
    *,
    image_column: str | None = None,
    captions: tuple[str, ...] = (),
    split: str | None = None,
    lines: bool = False,
) -> Source:
    """The source, ready to be read; a folder keeps the list of its files in `listing`.

    Raises ValueError when it cannot be read, or an option is not for its format.
    """
    if format_ == "folder":
        from lensbench.data.sources.folders import FolderSource

        if image_column is not None:
            raise ValueError("--image-column is for tables and tar files: the pictures of a folder are its files")
        return FolderSource(Path(source), listing, captions, split=split, lines=lines)
    if format_ == "webdataset":
        from lensbench.data.sources.tars import TarSource

        return TarSource(source, image_column, captions, split=split, lines=lines)
    if format_ == "parquet":
        from lensbench.data.sources.tables import ParquetSource

        return ParquetSource(source, image_column, captions, split=split, lines=lines)
    from lensbench.data.sources.hub import DatasetSource

    return DatasetSource(source, image_column, captions, split=split, lines=lines)
