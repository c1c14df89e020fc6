"""`lensbench score` on folders of pictures, with tiny models in the files of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench import cli
from lensbench.scoring import extractors, metrics
from tests.scoring.conftest import clip_model, inception_file, save_pictures

__all__ = ["inception_file"]  # a fixture

MEANS = """
from lensbench.scoring.extractors import FunctionExtractor
extractor = FunctionExtractor("corner_means", "v1", lambda pictures: pictures[:, :12].mean((1, 2)), 3)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    save_pictures(folder / "drawn", 90, seed=1)
    save_pictures(folder / "real", 120, seed=2, red=30)
    save_pictures(folder / "more", 80, seed=3, red=30)
    save_pictures(folder / "ten", 10, seed=4)
    (folder / "empty").mkdir()
    (folder / "means.py").write_text(MEANS)
    lines = [f"picture {i // 3} " + "of many things " * (i % 3 * 3) for i in range(90)]
    (folder / "prompts.txt").write_text("\n".join(lines))
    clip_model(folder / "clip")
    return folder


@pytest.fixture
def run(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    monkeypatch.chdir(here)
    monkeypatch.setenv("LENSBENCH_CACHE", str(here / "cache"))
    known = dict(metrics.EXTRACTORS)

    def score(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(metrics, "EXTRACTORS", dict(known))  # a command is a process of its own
        monkeypatch.setattr("sys.argv", ["lensbench", "score", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return score


def scores(path: Path) -> dict[str, dict]:
    return {row["metric"]: row for row in json.loads(path.read_text())["scores"]}


def test_distances_and_clip_score_in_one_table_with_floors_and_what_made_them(run, here: Path) -> None:
    words = ["drawn", "--against", "real"]
    words += ["--metrics", "fd:shapes,kd:shapes,prdc:shapes,fd:means,fd_infinity:means,mmd:means,clip_score"]
    words += ["--extractor", "means.py", "--weights", "clip-b32=clip", "--prompts", "prompts.txt", "--out", "s.json"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    found = scores(here / "s.json")
    names = ["fd_shapes", "kd_shapes", "precision_shapes", "recall_shapes", "density_shapes", "coverage_shapes"]
    names += ["fd_corner_means", "fd_infinity_corner_means", "mmd_corner_means"]
    names += ["clip_cosine_16x2p8_32", "clip_score_100_16x2p8_32", "clip_score_2.5_16x2p8_32"]
    assert list(found) == names
    for name in ("fd_shapes", "fd_corner_means", "mmd_corner_means", "kd_shapes"):
        assert found[name]["value"] > found[name]["floor"]
        assert found[name]["floor_of"].startswith("halves of the reference, 60 and 60 pictures")
        assert (found[name]["images"], found[name]["reference_images"]) == (90, 120)
        assert len(found[name]["weights"]) == 64 or found[name]["weights"] == "v1"
    cosine = found["clip_cosine_16x2p8_32"]
    assert cosine["low"] < cosine["value"] < cosine["high"]
    assert cosine["details"]["cut"] == 30
    assert cosine["details"]["prompts"] == 90
    raw = [outcome["cosine"] for outcome in cosine["details"]["outcomes"]]
    assert np.mean(raw) == pytest.approx(cosine["value"])
    assert found["clip_score_100_16x2p8_32"]["value"] == pytest.approx(100 * max(np.mean(raw), 0))
    told = json.loads((here / "s.json").read_text())
    assert told["sets"]["folder"]["formats"] == {"PNG": 90}
    assert told["made_by"]["versions"]["torchmetrics"]
    for shown in ("FD-shapes", "real-real floor", "30 of 90 prompts are longer than its 77 tokens", "weights v1"):
        assert shown in out
    assert "FID" not in out
    again = run(*words[:-1], "again.json")
    assert again[0] == 0
    assert json.dumps(told["scores"]) == json.dumps(json.loads((here / "again.json").read_text())["scores"])


def test_stored_statistics_give_the_same_numbers_as_the_folder(run, here: Path) -> None:
    assert run("real", "--metrics", "fd:shapes", "--save-statistics", "real.npz", "--save-features")[0] == 0
    for against, out in (("real", "a.json"), ("real.npz", "b.json")):
        assert run("drawn", "--against", against, "--metrics", "fd:shapes,kd:shapes", "--out", out)[0] == 0
    a, b = scores(here / "a.json"), scores(here / "b.json")
    for name in a:
        assert b[name]["value"] == pytest.approx(a[name]["value"], rel=1e-4)
        assert b[name]["floor"] == pytest.approx(a[name]["floor"], rel=1e-3)
        assert b[name]["reference_images"] == 120
    assert run("real", "--metrics", "fd:shapes", "--save-statistics", "small.npz")[0] == 0
    code, out, _ = run("drawn", "--against", "small.npz", "--metrics", "fd:shapes")
    assert code == 0
    assert "no floor" in out
    words = ["drawn", "--against", "small.npz", "--metrics", "fd:shapes", "--floor", "more", "--out", "c.json"]
    assert run(*words)[0] == 0
    assert scores(here / "c.json")["fd_shapes"]["floor_of"] == "--floor against the reference, 80 and 120 pictures"


def test_fid_is_called_fid_with_the_weights_of_2015_and_the_clean_resize_alone(
    run, here: Path, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is a stand-in, so its digest is declared to be the right one: 600 pictures, its covariance singular."""
    import hashlib

    save_pictures(here / "many", 520, seed=5)
    save_pictures(here / "others", 520, seed=6)
    words = ["many", "--against", "others", "--weights", f"inception={inception_file}", "--out", "x.json"]
    assert run(*words, "--metrics", "kid")[0] == 0
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert list(scores(here / "x.json")) == [f"kd_inception_{digest[:8]}"]
    monkeypatch.setattr(extractors, "INCEPTION_DIGEST", digest)
    code, out, _ = run(*words)  # fid and kid, if nothing is asked for
    assert code == 0
    assert list(scores(here / "x.json")) == ["fid", "kid"]
    assert "the covariance is singular" in out
    assert run(*words, "--metrics", "kid", "--resize", "torchmetrics")[0] == 0
    assert list(scores(here / "x.json")) == ["kd_inception_torchmetrics"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("drawn", "nothing to score with: give --against"),
        ("nowhere --against real", "there is no folder nowhere"),
        ("empty --against real", "no pictures in empty"),
        ("drawn --against real", "FID needs the Inception weights: put https://"),
        ("drawn --against drawn --metrics fd:shapes", "hold the same 90 pictures"),
        ("ten --against real --metrics fd:shapes", "10 drawn pictures for 64 features"),
        ("drawn --against bad.npz --metrics fd:shapes", "holds a; reference statistics are 'mu' and 'sigma'"),
        ("drawn --against absent.npz --metrics fd:shapes", "No such file or directory: absent.npz"),
        ("drawn --against five.npz --metrics fd:shapes", "5 dimensions, but shapes has 64"),
        ("drawn --against right.npz --metrics kd:shapes", "needs the features of every picture"),
        (
            "drawn --against right.npz --metrics fd:shapes,fd:means --extractor means.py",
            "are of one extractor",
        ),
        ("drawn --against real --metrics fd:shapes --floor real", "hold the same 120 pictures"),
        ("drawn --against real --metrics fid --weights dinov=x", "no such extractor"),
        ("drawn --against real --metrics fid --weights dinov2", "give NAME=PATH"),
        ("drawn --against real --metrics fd-dinov2 --weights dinov2=empty", "no config.json in empty"),
        ("drawn --metrics clip-score", "give the prompts with --prompts FILE"),
        ("ten --prompts prompts.txt --weights clip-b32=clip", "90 prompts for 10 pictures"),
        ("drawn --against real --extractor nofile.py", "no such file"),
        ("drawn --against real --metrics fd:shapes --device tpu", "--device=tpu"),
        ("drawn --against real --metrics fd:shapes --out nodir/x.json", "there is no folder nodir"),
        ("drawn --metrics fd:shapes --save-features", "give both"),
        ("drawn --metrics fd:shapes,fid --save-statistics x.npz", "of one extractor"),
    ],
)
def test_every_mistake_is_one_line_and_exit_2(run, here: Path, words: str, said: str) -> None:
    np.savez(here / "bad.npz", a=np.zeros(3))
    np.savez(here / "five.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez(here / "right.npz", mu=np.zeros(64), sigma=np.eye(64))
    code, _, err = run(*words.split())
    assert code == 2
    (line,) = err.splitlines()
    assert said in line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_numbers_of_the_cpu(run, here: Path, inception_file: Path) -> None:
    words = ["real", "--against", "more", "--metrics", "kid", "--weights", f"inception={inception_file}"]
    for device in ("cpu", "cuda"):
        assert run(*words, "--device", device, "--out", f"{device}.json")[0] == 0
    cpu, gpu = (next(iter(scores(here / f"{device}.json").values())) for device in ("cpu", "cuda"))
    assert gpu["value"] == pytest.approx(cpu["value"], rel=1e-3, abs=1e-6)
