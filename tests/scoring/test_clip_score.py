"""CLIPScore with tiny random CLIPs of the real classes: equal to torchmetrics where that is right, and right where it
is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_score

from lensbench.scoring.clip_score import PAPER_PREFIX, ClipScorer, scales
from lensbench.streams import numpy_stream
from tests.scoring.conftest import clip_model, clip_tokenizer

IMAGES = numpy_stream(0, "test").integers(0, 256, (4, 40, 52, 3), dtype=np.uint8)
SHORT = ["a cat", "two dogs on a sofa", "a red ring", "nothing"]
SHARED = "a photograph of a wide street in the rain with many people under umbrellas and shops " * 2
LONG = [SHARED + end for end in ("and a cat", "and two dogs", "", "with nothing else to be seen there")]


@pytest.fixture(scope="module")
def scorer(clip_folder: Path) -> ClipScorer:
    return ClipScorer(str(clip_folder))


def prepared(scorer: ClipScorer) -> list[np.ndarray]:
    return [scorer.prepare(image) for image in IMAGES]


def as_it_is(folder: Path):
    """What a user of torchmetrics gives it: a model whose features are tensors, and transformers' own processor."""
    from transformers import CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    class Model(CLIPModel):
        def get_image_features(self, *args, **options):
            return super().get_image_features(*args, **options).pooler_output

        def get_text_features(self, *args, **options):
            return super().get_text_features(*args, **options).pooler_output

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    def processor(text=None, images=None, **options):
        if images is not None:
            return pictures(images=images, return_tensors="pt")
        return tokenizer(text, padding=True, return_tensors="pt")

    assert CLIPProcessor is not None
    return lambda: (Model.from_pretrained(folder), processor)


@pytest.mark.parametrize("folder", ["clip_folder", "long_clip_folder"])
def test_texts_that_fit_score_as_in_torchmetrics(folder: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    ours = ClipScorer(str(path))
    pictures = [torch.from_numpy(image).permute(2, 0, 1) for image in IMAGES]
    cosines = ours.cosines(prepared(ours), SHORT)
    for picture, text, cosine in zip(pictures, SHORT, cosines, strict=True):
        theirs = float(clip_score(picture, text, as_it_is(path)).detach())
        assert max(100 * cosine, 0) == pytest.approx(theirs, abs=1e-3)


def test_long_texts_lose_their_end_in_torchmetrics_and_keep_it_here(tmp_path: Path) -> None:
    """Two texts of other words and over 77 tokens: torchmetrics gives them one embedding, that of the first token."""
    clip_model(tmp_path, eos=257)
    texts = ["a cat " * 40, "blue rings and green squares " * 9]
    images = [torch.from_numpy(IMAGES[0]).permute(2, 0, 1)] * 2
    with pytest.warns(UserWarning, match="longer than"):
        theirs = [float(clip_score(images[0], text, as_it_is(tmp_path)).detach()) for text in texts]
    assert theirs[0] == pytest.approx(theirs[1], abs=1e-5)
    scorer = ClipScorer(str(tmp_path))
    ours = scorer.cosines([scorer.prepare(IMAGES[0])] * 2, texts)
    assert abs(ours[0] - ours[1]) > 1e-3
    # Cut by the tokenizer a text is its first 75 tokens between both ends: the same as if no more had been written.
    first = scorer.cosines([scorer.prepare(IMAGES[0])] * 2, [text[:75] for text in texts])
    np.testing.assert_allclose(ours, first, atol=1e-6)


def test_what_is_cut_is_counted_and_end_of_text_stays(scorer: ClipScorer) -> None:
    fits, over = "x" * 75, "x" * 76  # a token a byte, and both ends
    assert scorer.too_long([fits, over, "", LONG[0]]).tolist() == [False, True, False, True]
    ids = scorer(text=[fits, over, "a"])["input_ids"]
    assert ids.shape == (3, 77)
    assert ids[:2, -1].tolist() == [257, 257]
    assert ids[2].tolist() == [256, 97 - 33, *[257] * 75]


def test_a_long_context_reads_to_the_end(clip_folder: Path, long_clip_folder: Path) -> None:
    short, long = ClipScorer(str(clip_folder)), ClipScorer(str(long_clip_folder))
    assert long.name == f"{short.name}_text248"
    assert not long.too_long(LONG).any()
    one = [short.prepare(IMAGES[0])] * 4
    assert np.ptp(short.cosines(one, LONG)) == pytest.approx(0, abs=1e-6)  # alike up to where they are cut
    assert np.ptp(long.cosines(one, LONG)) > 1e-4


def test_the_prefix_is_part_of_the_text(clip_folder: Path, scorer: ClipScorer) -> None:
    paper = ClipScorer(str(clip_folder), prefix=PAPER_PREFIX)
    with_prefix = scorer.cosines(prepared(scorer), [PAPER_PREFIX + text for text in SHORT])
    np.testing.assert_allclose(paper.cosines(prepared(paper), SHORT), with_prefix, atol=1e-6)
    assert paper.too_long(["x" * 60]).all()


def test_the_batch_changes_nothing(scorer: ClipScorer) -> None:
    pictures, texts = prepared(scorer), [SHORT[0], LONG[0], SHORT[2], LONG[3]]
    apart = [scorer.cosines([picture], [text])[0] for picture, text in zip(pictures, texts, strict=True)]
    np.testing.assert_allclose(scorer.cosines(pictures, texts), apart, atol=1e-6)
    with pytest.raises(ValueError, match="one text a picture"):
        scorer.cosines(pictures, texts[:3])


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    clip_model(tmp_path)
    clip_tokenizer(tmp_path, end_of_text=False)
    with pytest.raises(ValueError, match="no end-of-text token behind a text"):
        ClipScorer(str(tmp_path))(text=["a cat"])


def test_a_model_of_another_type_or_none_is_one_line(dinov2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="type 'dinov2', not 'clip'"):
        ClipScorer(str(dinov2_folder), "--weights clip-b32")
    with pytest.raises(ValueError, match=r"--weights clip-b32: no config\.json"):
        ClipScorer(str(tmp_path), "--weights clip-b32")
    with pytest.raises(ValueError, match="no such folder"):
        ClipScorer(str(tmp_path / "nowhere"), "--weights clip-b32")


def test_both_scales_derive_from_the_cosine_with_intervals_over_prompts() -> None:
    cosines, prompts = np.array([0.3, 0.2, -0.1, 0.2, 0.4, 0.2]), ["a", "a", "b", "b", "c", "c"]
    found = scales(cosines, prompts)
    assert found["cosine"].estimate == pytest.approx(0.2)
    assert found["100"].estimate == pytest.approx(20)
    assert found["2.5"].estimate == pytest.approx(2.5 * 1.3 / 6)  # clipped by picture
    assert found["100"].low == pytest.approx(max(100 * found["cosine"].low, 0))
    assert scales(-cosines, prompts)["100"].estimate == 0
    many = scales(np.tile(cosines, 50), [f"{p}{i}" for i in range(50) for p in prompts])["cosine"]
    assert 0 < many.high - many.low < found["cosine"].high - found["cosine"].low
    alike = scales(np.tile(cosines, 50), prompts * 50)["cosine"]  # more pictures, no more prompts
    assert alike.high - alike.low == pytest.approx(found["cosine"].high - found["cosine"].low, rel=0.1)
