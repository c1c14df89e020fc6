"""The sizes Lens is trained at, and the sizes that can be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.data.buckets import RATIOS, SIDES, Size, bucket, buckets, checked_size, layout

STRIDES = st.sampled_from([1, 4, 8, 16, 32])


def test_there_are_27_buckets_three_of_them_square() -> None:
    sizes = buckets()
    assert len(set(sizes)) == len(sizes) == 27
    assert [size for size in sizes if size.height == size.width] == [(512, 512), (768, 768), (1024, 1024)]


@pytest.mark.parametrize(
    ("side", "ratio", "size"),
    [(512, "1:2", (720, 368)), (512, "16:9", (384, 688)), (768, "2:3", (944, 624)), (1024, "2:1", (720, 1456))],
)
def test_a_bucket_by_hand(side: int, ratio: str, size: tuple[int, int]) -> None:
    # 512 * sqrt(2) = 724.1 and 362.0; 384 and 682.7; 940.6 and 627.1; 724.1 and 1448.2: nearest multiples of 16.
    assert bucket(side, ratio) == size


@given(st.sampled_from(SIDES), st.sampled_from(RATIOS), STRIDES)
def test_a_bucket_is_whole_tokens_nearest_to_its_area_and_ratio(side: int, ratio: str, stride: int) -> None:
    size = bucket(side, ratio, stride)
    wide, tall = map(int, ratio.split(":"))
    assert size.height % stride == size.width % stride == 0
    assert abs(size.height - side * math.sqrt(tall / wide)) <= stride / 2
    assert abs(size.width - side * math.sqrt(wide / tall)) <= stride / 2
    turned = bucket(side, f"{tall}:{wide}", stride)
    assert turned == (size.width, size.height)


@given(st.integers(1, 100), st.integers(1, 100), STRIDES)
def test_any_size_of_whole_tokens_is_a_size(tall: int, wide: int, stride: int) -> None:
    assert checked_size(tall * stride, wide * stride, stride) == Size(tall * stride, wide * stride)


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (500, 512, "height=500: must be a multiple of 16 pixels, which is one token; try 496 or 512"),
        (512, 15, "width=15: must be a multiple of 16 pixels, which is one token; try 16"),
        (0, 512, "height=0"),
        (-16, 512, "height=-16"),
    ],
)
def test_part_of_a_token_is_refused(height: int, width: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked_size(height, width, 16)


def test_a_bucket_that_lens_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="size=500: must be a multiple of 16"):
        bucket(500)
    with pytest.raises(ValueError, match="ratio='5:4': must be one of 1:2, 9:16"):
        bucket(512, "5:4")


SIZES = st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=30)


@given(SIZES, st.lists(st.sampled_from([64, 128, 256, 512]), min_size=1, max_size=3, unique=True))
def test_an_image_keeps_its_ratio_and_is_seen_no_larger_than_it_is(
    native: list[tuple[int, int]], sides: list[int]
) -> None:
    found = layout(np.array(native), sides, RATIOS, 16)
    assert len(set(found.sizes)) == len(found.sizes)
    assert {int(place) for place in found.choices.flat} - {-1} == set(range(len(found.sizes)))
    for (height, width), row in zip(native, found.choices, strict=True):
        for place, choice in enumerate(row):
            ratios = [wide / tall for wide, tall in (map(int, ratio.split(":")) for ratio in RATIOS)]
            distances = [abs(math.log(width / height / ratio)) for ratio in ratios]
            own = bucket(sides[place], RATIOS[distances.index(min(distances))], 16)
            fits = own.height * own.width <= height * width or sides[place] == min(sides)
            assert (choice >= 0) == fits
            if fits:
                assert found.sizes[choice] == own
                assert found.side_of[choice] == place


def test_any_ratio_is_a_bucket() -> None:
    found = layout(np.array([[100, 300], [300, 100]]), [64], ["3:1", "1:3", "1:1"], 16)
    assert found.sizes == (Size(32, 112), Size(112, 32))
    assert found.choices.tolist() == [[0], [1]]
