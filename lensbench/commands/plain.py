"""Texts of others on a terminal: captions, names of files, words of a server."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # emoji and several scripts are written with them


def plain(text: str) -> str:
    """The text with every character that could steer a terminal, or hide, as Python writes it: ESC is \\x1b.

    Line breaks and tabs stay.
    """
    return "".join(_escaped(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    if character.isprintable() or character in "\n\t" or character in _JOINERS:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
