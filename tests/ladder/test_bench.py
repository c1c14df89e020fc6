"""The ladder's command, end to end, on a rung that two cores climb in seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench import cli
from lensbench.experiment import Experiment
from lensbench.ladder.against import compare
from lensbench.ladder.card import chance_in, read
from lensbench.ladder.scale import Scale, load_scale

LADDER = """
from lensbench.experiment import *
from lensbench.ladder.scale import Scale

tiny = Experiment(
    corpus=ShapesCorpus(size_px=16, max_objects=2),
    images=24,
    which_images="first",
    text_encoder=TextEncoder(layers=(0,)),
    model=Model(depth=1, patch_size=8),
    training=Training(steps=6, batch=4, warmup_steps=1, watch_steps=0),
    evaluation=Evaluation(at=(0.5, 1.0), prompts_per_task=2, images_per_task=4, scene_images=20, validation_images=8,
                          sampling_steps=2),
)
SCALES = {"tiny": Scale("tiny", 1, tiny, (0, 1), "seconds"),
          "other": Scale("other", 1, tiny.replace({"training.steps": 7}), (0, 1), "seconds")}
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "ladder.py").write_text(LADDER)
    (folder / "mine.jsonl").write_text(captions(24))
    return folder


def captions(images: int, word: str = "picture") -> str:
    return "".join(json.dumps({"key": f"train-{i:08d}", "text": f"{word} number {i}"}) + "\n" for i in range(images))


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    monkeypatch.chdir(here)

    def bench(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lensbench", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return bench


TINY = ("--scale", "tiny", "--ladder", "ladder.py", "--workers", "1")


@pytest.fixture
def cards(run: Callable[..., tuple], here: Path) -> list[Path]:
    """The reference's card and that of a file of captions."""
    for name in ("alt", "mine.jsonl"):
        code, out, err = run(name, *TINY)
        assert code == 0, out + err
    return [here / "results/ladder/tiny" / f"{name}.json" for name in ("alt", "mine")]


def test_from_captions_to_a_card_a_board_and_back(cards: list[Path], run: Callable[..., tuple], here: Path) -> None:
    alt, mine = (read(path) for path in cards)
    assert mine.captions["checks"]["texts"] == 24
    assert mine.seeds == [0, 1]
    assert set(mine.forms) == {"short", "detailed"}
    assert {row["reference"] for row in mine.multiplier} == {"alt"}
    assert {row["metric"] for row in mine.scores} >= {"geneval", "geneval.colors", "fd_shapes", "validation_loss"}
    for row in mine.scores:  # what a card keeps of chance is what a board shows
        of_geneval = row["metric"].partition(".")[0] == "geneval"
        assert chance_in(row).known == of_geneval == ("chance" in row), row["metric"]
        assert not chance_in({name: told for name, told in row.items() if name != "chance"}).known, "of before"
    told = compare([alt, mine])
    assert len(told) == 4
    assert [one.difference is None for one in told] == [True, False] * 2
    for card, one in ((alt, told[0]), (mine, told[1])):
        scores = {(row["metric"], row["form"]): row["value"] for row in card.scores}
        assert one.score.estimate == pytest.approx(scores["geneval", one.form])

    code, out, err = run("compare", *cards)
    assert code == 0, err
    assert "tied" in out
    assert ".csv" not in out, "nothing is filed"

    own = (here / "results/ladder/tiny/mine.html").read_text()
    assert mine.hash in own
    for words in ("FD-shapes", "The caption multiplier", "validation loss", "of training"):
        assert words in own

    (here / "results/ladder/tiny/notes.txt").write_text("no card")
    assert run("board", "results/ladder/tiny")[0] == 0
    page = (here / "results/ladder/tiny/board.html").read_text()
    assert mine.hash in page
    assert not re.search(r"(src|href)=.?https?://", page)

    # the same captions, trained again from nothing: the same card but for its clocks
    again = ("--runs", "again", "--out", "again-cards")
    assert run("alt", *TINY, *again)[0] == 0
    assert run("mine.jsonl", *TINY, *again)[0] == 0
    assert read(here / "again-cards/tiny/mine.json").science() == mine.science()

    code, out, err = run("verify", cards[1], "mine.jsonl", "--seed", 1, "--ladder", "ladder.py")
    assert (code, err) == (0, ""), err
    assert "verified: seed 1: 48 of 48" in out


def test_a_card_that_was_changed_or_is_of_another_scale_is_refused(
    cards: list[Path], run: Callable[..., tuple], here: Path
) -> None:
    told = json.loads(cards[1].read_text())
    told["scores"][0]["value"] = 1.0
    (here / "better.json").write_text(json.dumps(told))
    (here / "others.jsonl").write_text(captions(24, "thing"))
    assert run("alt", "--scale", "other", "--ladder", "ladder.py", "--workers", "1")[0] == 0
    for words, said in (
        (("compare", cards[0], "better.json"), "it was changed"),
        (("compare", cards[0], "mine.jsonl"), "no score card"),
        (("compare", cards[0], "results/ladder/other/alt.json"), "another scale"),
        (("verify", cards[1], "others.jsonl", "--ladder", "ladder.py"), "other captions"),
        (("verify", cards[1], "--ladder", "ladder.py"), "give it after the card"),
        (("verify", cards[1], "mine.jsonl", "--seed", 9, "--ladder", "ladder.py"), "--seed 9"),
        (("alt", *TINY, "--name", "../x"), "--name ../x"),
    ):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (captions(23), "missing for 1 of 24 training images, as train-00000023"),
        (captions(24).replace("train", "photo"), "captions of other images"),
        (captions(24) + '{"key": "photo-1", "text": "x"}\n', "no image of this corpus"),
        (captions(24) + '{"key": "train-00000000", "text": ""}\n', "mine.jsonl:25: an empty caption"),
    ],
)
def test_captions_that_do_not_fit_are_one_line_and_nothing_is_trained(
    run: Callable[..., tuple], tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    code, _, err = run(tmp_path / "mine.jsonl", *TINY, "--runs", tmp_path / "runs")
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert not (tmp_path / "runs").exists()


def test_its_images_can_be_captioned(run: Callable[..., tuple], tmp_path: Path) -> None:
    code, out, _ = run("export", tmp_path / "images", "--scale", "tiny", "--ladder", "ladder.py", "--images", 3)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"train-{i:08d}.png" for i in range(3)]
    assert out.startswith(f"3 images in {tmp_path / 'images'}; caption them")
    assert "train-00000000" in out
    _, out, _ = run("export", tmp_path / "images", "--scale", "tiny", "--ladder", "ladder.py", "--images", 2)
    assert out.startswith(f"2 images in {tmp_path / 'images'} beside 1 that were there; caption them")
    (tmp_path / "images" / "mine.png").touch()
    code, out, err = run("export", tmp_path / "images", "--scale", "tiny", "--ladder", "ladder.py", "--images", 3)
    assert (code, out) == (2, "")
    assert err.endswith("/images holds mine.png, which is no image of tiny: give a folder of its own\n")


# A released scale never changes: a change is a new version of it, with a new line here.
RELEASED = {
    ("smoke", 1): "4b8f7ace63b02b6631c595c202f98faa66569c52e05cd7c579dde22a84770a87",
    ("small", 1): "9e7fc49c388243b5637171170323d247e38521230af71e9558f5357082ff853e",
    ("medium", 1): "353cd16b571b6de425b6458613369c21ab93c8830e1d8d3e6d581ebb75151688",
    ("large", 1): "cd1526ecef02e0910085b14739805e90f975d962e0b80bdf06825b8510a4a66e",
    ("paper", 1): "39f4bceff049a56544674799d7cc81398797a09f0d4864e910a167cc44940a02",
}


def test_released_scales_are_frozen() -> None:
    ladder = Path(__file__).parents[2] / "experiments/ladder.py"
    for (name, version), digest in RELEASED.items():
        scale = load_scale(name, ladder)
        assert (scale.version, scale.digest) == (version, digest), name


def test_a_scale_whose_seeds_draw_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match="scale mine: which_images='by_seed': a captioner must know which images"):
        Scale("mine", 1, Experiment(), (0, 1), "seconds")
