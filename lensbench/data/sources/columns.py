"""Tables with a column of pictures: which columns are meant, and a row as a sample's content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.data.sources.notes import Note
from lensbench.data.sources.source import Content, SetAsideError, Texts, asked_columns, captions_from, named_columns

if TYPE_CHECKING:
    import pyarrow as pa

# In the order in which they are taken, where several columns could hold the pictures.
IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo", "image_bytes", "bytes")


def image_column(schema: pa.Schema, asked: str | None, where: str) -> str:
    """The column of pictures: the one asked for, or the one that can be meant.

    It holds bytes, or structs of bytes and path as Hugging Face writes them. Raises ValueError, which names the
    columns, when there is none or it is not clear which.
    """
    able = [field.name for field in schema if _holds_pictures(field.type)]
    if asked is not None:
        if asked not in able:
            what = f"is {schema.field(asked).type}, not bytes" if asked in schema.names else "does not exist"
            raise ValueError(f"{where}: --image-column {asked} {what}; columns: {', '.join(schema.names)}")
        return asked
    named = [name for name in IMAGE_NAMES if name in able]
    if named or len(able) == 1:
        return (named or able)[0]
    if able:
        raise ValueError(f"{where}: several columns hold bytes ({', '.join(able)}): say which with --image-column")
    raise ValueError(f"{where}: no column holds pictures (bytes); columns: {', '.join(schema.names)}")


def caption_columns(schema: pa.Schema, asked: tuple[str, ...], where: str) -> dict[str, str]:
    """Caption set -> column, of those asked for, or of those that hold captions by their names.

    Raises ValueError, which names the text columns, for one that is no text.
    """
    texts = text_columns(schema)
    if not asked:
        return named_columns(texts)
    found = asked_columns(asked)
    for column in found.values():
        if column not in texts:
            raise ValueError(f"{where}: no text column {column!r}; text columns: {', '.join(texts) or 'none'}")
    return found


def text_columns(schema: pa.Schema) -> list[str]:
    """The names of the columns that hold texts, or lists of texts."""
    return [field.name for field in schema if _is_text(field.type)]


def unused_columns(schema: pa.Schema, used: Mapping[str, str]) -> list[Note]:
    """The text columns that are no caption set, where nobody said which are."""
    left = [name for name in text_columns(schema) if name not in used.values()]
    hint = f"--caption {left[0]} reads {left[0]}" if left else ""
    return [Note(f"text columns not used: {', '.join(left)}: {hint}")] if left else []


def content(picture: bytes | Mapping[str, Any] | None, texts: Texts, folder: Path, lines: bool = False) -> Content:
    """A row as a sample's content. A path without bytes is read, from `folder` if it is relative.

    Raises SetAsideError when there is no picture.
    """
    path = picture.get("path") if isinstance(picture, Mapping) else None
    data = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if data is None and path:
        try:
            data = _read(path, folder)
        except FileNotFoundError:
            raise SetAsideError(f"no bytes, and its file is not there: {path}") from None
    if data is None:
        raise SetAsideError("no bytes: the cell is empty")
    return Content(data, *captions_from(texts, lines))


def _read(path: str, folder: Path) -> bytes:
    if "://" not in path:
        return (folder / path).read_bytes()
    from datasets.utils.file_utils import xopen  # a file of a dataset that is streamed from the hub

    try:
        with xopen(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise
    except Exception as error:  # the network's own kinds
        raise ConnectionError(f"reading {path}: {type(error).__name__}: {error}") from error
    assert isinstance(data, bytes)
    return data


def _holds_pictures(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
