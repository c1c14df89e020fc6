"""How numbers are named as LaTeX macros, and levels that would share a name; a sweep is refused before it runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lensbench.report.table import MINUS

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
SIGNS = {MINUS: " Minus ", "%": " Percent ", "+": " Plus ", "*": " Times ", "$": " Dollars "}


def refuse_indistinct(every: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError, one line, where two levels of a factor would have one name as LaTeX macros, or one none.

    `every`: the levels of each cell. Seeds are never named.
    """
    for factor in dict.fromkeys(name for levels in every for name in levels if name != "seed"):
        values = dict.fromkeys(str(levels[factor]) for levels in every if factor in levels)
        named: dict[str, str] = {}
        for value in values:
            name = macro_name(value)
            if not name:
                raise ValueError(f"{factor}={value!r} has no letter or digit for the name of a LaTeX macro: rename it")
            if name in named:
                raise ValueError(
                    f"{factor}: {named[name]!r} and {value!r} would have one name in LaTeX ({name}), where names have "
                    "letters only: rename one of them"
                )
            named[name] = value


def macro_name(*words: str) -> str:
    """A TeX name of words: letters only, a capital where a word begins, but for the first.

    Letters that are not of ASCII stand as their base letter or, where they have none, as Unicode calls them.
    """
    text = "".join(_in_ascii(letter) for letter in " ".join(words))
    for sign, spelled in SIGNS.items():
        text = text.replace(sign, spelled)
    text = re.sub(r"(?<=\d)\.(?=\d)", " Point ", text)
    text = re.sub(r"\d", lambda found: f" {DIGITS[int(found.group())]} ", text)
    parts = re.findall(r"[A-Za-z]+", text)
    joined = "".join(part[0].upper() + part[1:] for part in parts)
    return joined[:1].lower() + joined[1:]


def _in_ascii(letter: str) -> str:
    if letter.isascii() or not letter.isalnum():
        return letter
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if base.isascii() else f" {unicodedata.name(letter, f'U+{ord(letter):X}').title()} "
