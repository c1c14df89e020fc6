"""Texts of others cannot steer the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lensbench.commands.plain import plain


@given(st.text())
def test_no_character_that_steers_a_terminal_is_left_and_nothing_else_changes(text: str) -> None:
    shown = plain(text)
    assert all(c.isprintable() or c in "\n\t\u200c\u200d" or ord(c) > 127 for c in shown)
    if all(c.isprintable() or c in "\n\t" for c in text):
        assert shown == text
    assert plain(shown) == shown


def test_what_is_escaped_can_be_read() -> None:
    assert plain("a\x1b[2J\0b\x9b\u202ec\u2028d\r") == r"a\x1b[2J\x00b\x9b\u202ec\u2028d\r"
    family = "caf\u00e9 \U0001f469\u200d\U0001f680\t\u0645\u0631\u062d\u0628\n"
    assert plain(family) == family
