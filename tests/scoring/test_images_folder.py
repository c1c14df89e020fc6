from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.data.sources.sidecars import natural_order
from lensbench.scoring.image_prompts import from_layout, from_rows
from lensbench.scoring.images_folder import Images, open_images, read_image, refuse_equal, warnings_about
from lensbench.scoring.picture_folder import PictureFolder
from tests.scoring.conftest import save_pictures


def test_the_set_is_its_pictures_whatever_their_names_and_order(tmp_path: Path) -> None:
    save_pictures(tmp_path / "a", 5, seed=0)
    (tmp_path / "b" / "deeper").mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / "a").iterdir())):
        shutil.copy(path, tmp_path / "b" / ("deeper" if i % 2 else ".") / f"{9 - i}.png")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"no picture")
    a, b = open_images(tmp_path / "a"), open_images(tmp_path / "b")
    assert (len(b), b.digest) == (5, a.digest)
    with pytest.raises(ValueError, match="hold the same 5 pictures"):
        refuse_equal(a, b)
    (tmp_path / "b" / "9.png").unlink()
    refuse_equal(a, open_images(tmp_path / "b"))
    assert warnings_about(a, open_images(tmp_path / "b")) == [
        f"4 pictures are in both {tmp_path / 'a'} and {tmp_path / 'b'}: distances come out too small"
    ]


def test_pixels_are_those_of_the_file_upright_and_in_three_channels(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_image(tmp_path / "wide.png"), wide)
    Image.fromarray(wide[..., 0]).save(tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").shape == (4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(wide, -1))


def test_formats_sizes_and_copies_are_warned_about(tmp_path: Path) -> None:
    png = save_pictures(tmp_path / "png", 4, seed=0)
    jpeg = save_pictures(tmp_path / "jpeg", 4, seed=0, ending="jpg", side=32)
    said = warnings_about(open_images(png), open_images(jpeg))
    assert [" is PNG and " in said[0], " is 24x24 and " in said[1]] == [True, True]
    shutil.copy(jpeg / "00000.jpg", png)
    shutil.copy(png / "00000.png", png / "again.png")
    alone = warnings_about(open_images(png))
    assert [line.partition(": ")[2].partition(";")[0] for line in alone] == [
        "mixed formats, 5 PNG, 1 JPEG",
        "mixed sizes, 5 24x24, 1 32x32",
        "1 of 6 pictures are copies of another",
    ]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_picture_that_cannot_be_read_ends_it_by_name(tmp_path: Path, content: bytes | None) -> None:
    folder = save_pictures(tmp_path / "a", 2, seed=0)
    if content is None:
        (folder / "anim.gif").touch()
    else:
        (folder / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"(broken\.png|anim\.gif).*leaves nothing out") as raised:
        open_images(folder)
    assert "\n" not in str(raised.value)


def test_a_picture_cut_off_is_found_when_it_is_read(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "a", 2, seed=0)
    whole = (folder / "00001.png").read_bytes()
    (folder / "00001.png").write_bytes(whole[: len(whole) // 2])
    images = open_images(folder)
    with pytest.raises(ValueError, match=r"00001\.png: cannot be read"):
        read_image(images.files[1])


def test_genevals_layout_gives_its_own_prompts_and_its_grid_is_no_picture(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path)
    folder.begin([{"prompt": "a cat"}, {"prompt": "ein Fuß"}], {})
    for prompt in (0, 1):
        for sample in (0, 1):
            folder.save(prompt, sample, np.zeros((8, 8, 3), np.uint8))
    Image.new("RGB", (32, 32)).save(tmp_path / "00000" / "grid.png")
    images = open_images(tmp_path)
    assert len(images) == 4
    found = from_layout(images)
    assert [(p.text, p.cluster) for p in found] == [
        ("a cat", "00000"),
        ("a cat", "00000"),
        ("ein Fuß", "00001"),
        ("ein Fuß", "00001"),
    ]
    (tmp_path / "00001" / "metadata.jsonl").write_text(json.dumps({"text": "x"}))
    with pytest.raises(ValueError, match=r"metadata\.jsonl: holds no prompt"):
        from_layout(images)


def test_prompts_of_a_file_go_by_name_or_by_order_and_fit_one_to_one(tmp_path: Path) -> None:
    images = open_images(save_pictures(tmp_path / "a", 3, seed=0))
    assert [p.text for p in from_rows(images, [{"prompt": p} for p in "xyz"], "f")] == ["x", "y", "z"]
    named = [{"prompt": f"p{i}", "image": f"0000{i}.png"} for i in (2, 0, 1)]
    assert [p.text for p in from_rows(images, named, "f")] == ["p0", "p1", "p2"]
    for rows, said in (
        (named[:2], r"no prompt for 00001\.png"),
        ([*named, {"prompt": "x", "image": "more.png"}], r"more\.png is not in"),
        ([*named, named[0]], "more than once"),
        ([{"prompt": "x"}] * 2, "2 prompts for 3 pictures"),
    ):
        with pytest.raises(ValueError, match=said):
            from_rows(images, rows, "f")
    with pytest.raises(ValueError, match=r"no metadata\.jsonl beside its folder"):
        from_layout(images)


@given(
    st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True),
    st.sampled_from(["{}", "a{}", "{}-x", "x/{}"]),
)
def test_images_are_in_the_order_of_their_numbers(numbers: list[int], stem: str) -> None:
    """A file of prompts without names is paired in this order: 2.png comes before 10.png, zeros before it or none."""
    folder = Path("images")
    for padded in ("{}", "{:08d}"):
        paths = [folder / (stem.format(padded.format(number)) + ".png") for number in numbers]
        ordered = sorted(paths, key=lambda path: natural_order(path, folder))
        assert ordered == [paths[numbers.index(number)] for number in sorted(numbers)]


def test_prompts_go_to_images_by_number_and_it_is_said_where_that_is_not_the_order_of_letters(tmp_path: Path) -> None:
    for name, pattern in (("plain", "{}.png"), ("padded", "{:04d}.png")):
        (tmp_path / name).mkdir()
        for i in range(24):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / pattern.format(i))
        images = open_images(tmp_path / name)
        prompts = from_rows(images, [{"prompt": f"thing {i}"} for i in range(24)], "f")
        assert [
            (prompt.text, read_image(path)[0, 0, 0]) for prompt, path in zip(prompts, images.files, strict=True)
        ] == [(f"thing {i}", i) for i in range(24)]
        assert any("2.png before 10.png" in line for line in warnings_about(images)) == (name == "plain")


def test_linked_folders_count_once_and_images_are_told_by_their_content(tmp_path: Path) -> None:
    photos = save_pictures(tmp_path / "photos", 3, seed=0)
    elsewhere = save_pictures(tmp_path / "elsewhere", 4, seed=1)
    (elsewhere / "00000.png").rename(elsewhere / "no ending")
    (elsewhere / "notes.txt").write_text("x")
    (photos / "linked").symlink_to(elsewhere)
    (photos / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos)
    assert len(open_images(photos)) == 7
    (photos / "self.png").symlink_to(photos / "self.png")
    with pytest.raises(ValueError, match=r"self\.png: cannot be followed.*leaves nothing out"):
        open_images(photos)


def laid_out(folder: Path, names: list[str]) -> Images:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return open_images(folder)


@pytest.mark.parametrize("name", ["{p:05d}/samples/{s:04d}.png", "{p}/{s}.png", "{p}_{s}.png", "of-{p:02d}-{s}.png"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_prompt_of_a_file_is_of_every_sample_that_the_names_give_it(tmp_path: Path, name: str, first: int) -> None:
    pairs = [(p, s) for s in range(2) for p in range(12)]
    images = laid_out(tmp_path, [name.format(p=p + first, s=s) for p, s in pairs])
    found = from_rows(images, [{"prompt": f"prompt {p}"} for p in range(12)], "f")
    by_name = {images.name(i): prompted.text for i, prompted in enumerate(found)}
    assert by_name == {name.format(p=p + first, s=s): f"prompt {p}" for p, s in pairs}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0.png", "1.png", "2.png", "3.png"], "2 prompts for 4 pictures, whose names do not say which prompt"),
        (["0_0.png", "0_1.png", "1_0.png", "x.png"], "whose names do not say which prompt"),
        (["0_0.png", "0_1.png", "1_0.png", "b/1_1.png"], "whose names do not say which prompt"),
        (["0_0.png", "1_0.png", "2_0.png"], "the names number 3 prompts, 0 to 2"),
        (["0_0.png", "0_1.png", "2_0.png", "2_1.png"], "the names number 2 prompts, 0 to 2"),
        (["0_0.png", "0_1.png", "1_0.png"], "prompt 1 has 1 pictures and others 2"),
    ],
)
def test_which_prompt_an_image_is_of_is_never_guessed(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        from_rows(laid_out(tmp_path, names), [{"prompt": "a"}, {"prompt": "b"}], "f")
    assert "\n" not in str(raised.value)
