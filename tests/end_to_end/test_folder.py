"""The same job on a folder of photographs with sidecar captions."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SWEEP = Path(__file__).parents[2] / "sweeps" / "folder.py"
WORDS = {
    "astronaut": "a woman in an orange space suit smiles before a flag and a model of a shuttle",
    "brick": "a wall of gray bricks in even rows, seen straight on",
    "camera": "a man in a dark coat looks through a camera on a tripod, on grass before tall buildings",
    "chelsea": "a brown tabby cat with green eyes looks past the camera",
    "cell": "a round bright cell on a dark background",
    "coffee": "a white cup of coffee with a spoon on a saucer, on a wooden table",
    "coins": "rows of old coins on a dark background",
    "grass": "short grass seen from above, evenly lit",
    "gravel": "gray gravel seen from above",
    "hubble_deep_field": "many small galaxies, yellow and blue, on a black sky",
    "moon": "craters on the gray surface of the moon",
    "motorcycle_left": "a red and black motorcycle in a workshop full of tools",
    "page": "a page of printed text, lit from one side",
    "phantom": "gray ellipses inside a white ellipse on black",
    "retina": "an orange retina with dark vessels around a bright disc",
    "rocket": "a white rocket on its launch pad with clouds of smoke",
    "text": "handwriting on lined paper, slightly out of focus",
}


def photographs() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image, whose wheel has the photographs, is not installed: pip install -e '.[dev]'")
    folder = Path(spec.origin).parent / "data"
    return sorted(path for path in folder.iterdir() if path.stem in WORDS and path.suffix in (".png", ".jpg", ".tif"))


def lensbench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lensbench")), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in photographs():
        shutil.copy(path, folder)
        (folder / f"{path.stem}.alt.txt").write_text(f"{path.stem}.jpg")
        (folder / f"{path.stem}.detailed.txt").write_text(WORDS[path.stem])
    assert len(list(folder.glob("*.alt.txt"))) >= 5, "the wheel has fewer photographs than this test needs"
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    for name in ("alt", "detailed"):
        (folder / f"broken.{name}.txt").write_text("nothing to see")
    return folder


@pytest.mark.slow
def test_a_folder_of_photographs_is_trained_on_and_scored_as_far_as_it_can_be(corpus: Path, tmp_path: Path) -> None:
    done = lensbench("run", str(SWEEP), "--corpus", str(corpus), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "broken.jpg" in done.stdout, "an unreadable image is named"
    assert "scored by the held-out loss alone" in done.stdout, "what else there is, is said"
    records = pd.read_parquet(next((tmp_path / "results").glob("*/records.parquet")))
    assert "validation_loss" in set(records["metric"])
    assert not records["metric"].str.startswith(("geneval", "fd_")).any(), "drawn shapes are not what it is of"
    assert set(records[records["metric"] == "validation_loss"]["prompt_form"]) == {"short", "detailed"}
    assert (records[records["metric"] == "set_aside_images"]["value"] == 1).all()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "chelsea.alt.txt").write_bytes(b"caf\xe9 \xff"), "chelsea.alt.txt"),
    ],
    ids=["no folder", "caption not UTF-8"],
)
def test_bad_input_is_one_line_and_exit_code_2(corpus: Path, tmp_path: Path, break_it, words: str) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "photos"
    shutil.copytree(corpus, copy)
    break_it(copy)
    done = lensbench("run", str(SWEEP), "--corpus", str(copy), cwd=tmp_path)
    assert done.returncode == 2
    assert words.lower() in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*/records.parquet"))
