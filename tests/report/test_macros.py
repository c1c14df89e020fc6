"""Names of LaTeX macros: each level of a factor has one of its own, or the sweep is refused before it trains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.report.macro_names import macro_name, refuse_indistinct


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("v10", "vOneZero"),
        ("café", "cafe"),
        ("подписи", "cyrillicSmallLetterPeCyrillicSmallLetterOCyrillicSmallLetterDeCyrillicSmallLetterPe"
                    "CyrillicSmallLetterICyrillicSmallLetterEsCyrillicSmallLetterI"),
        ("猫", "cjkUnifiedIdeographSevenThreeTwoB"),
        ("0.5", "zeroPointFive"),
    ],
)  # fmt: skip
def test_a_name_is_spelled_in_letters(text: str, name: str) -> None:
    assert macro_name(text) == name


@given(st.text(min_size=1))
def test_a_name_of_any_text_is_one_that_latex_takes(text: str) -> None:
    assert macro_name("x", text).isascii()
    assert macro_name("x", text).isalpha()


def test_levels_that_latex_cannot_tell_apart_are_refused() -> None:
    levels = [{"captions.set": name, "model.depth": depth, "seed": 0} for name in ("v10", "v1-0") for depth in (3, 4)]
    with pytest.raises(ValueError, match=r"captions.set: 'v10' and 'v1-0' would have one name in LaTeX \(vOneZero\)"):
        refuse_indistinct(levels)
    with pytest.raises(ValueError, match=r"captions.set='--' has no letter or digit"):
        refuse_indistinct([{"captions.set": "--", "seed": 0}])
    refuse_indistinct([{"captions.set": name, "seed": seed} for name in ("猫", "犬", "été", "v1") for seed in (0, -0)])
