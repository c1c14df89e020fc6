"""Encoding beforehand, encoding within a cell and encoding online: one and the same numbers, paid for once."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lensbench.captions.texts import training_texts
from lensbench.commands.encode import encode
from lensbench.data import rowstore
from lensbench.data.buckets import Size
from lensbench.data.corpus import open_corpus
from lensbench.data.features import OnlineFeatures, TextFeatures, TextRows, encode_texts
from lensbench.data.latents import Latents, encode_images, online_images
from lensbench.data.sized import encode_sizes
from lensbench.experiment import Experiment
from lensbench.model.autoencoder import open_autoencoder
from lensbench.model.flux2_autoencoder import Flux2Autoencoder
from lensbench.model.text_encoder import open_text_encoder
from lensbench.sweep import encoding
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import read_records
from lensbench.sweep.progress import Progress
from lensbench.training.datamodule import TrainingBatches

SMALL = {
    "images": 24,
    "model.depth": 1,
    "training.steps": 3,
    "training.batch": 8,
    "captions.dropout": 0.3,
    "evaluation.prompts_per_task": 1,
    "evaluation.images_per_task": 1,
    "evaluation.scene_images": 8,
    "evaluation.validation_images": 8,
    "evaluation.sampling_steps": 2,
    "text_encoder.layers": (0,),
}
ON_LATENTS = SMALL | {"corpus.size_px": 32, "model.patch_size": 2, "autoencoder.kind": "flux2"}


@pytest.fixture(scope="module")
def on_latents(flux2_folder: Path) -> Experiment:
    digest = Flux2Autoencoder(str(flux2_folder)).digest
    weights = {"autoencoder.model": str(flux2_folder), "autoencoder.digest": digest}
    return Experiment().replace(ON_LATENTS | weights)


def batches(experiment: Experiment, cache: Path | None) -> TrainingBatches:
    """The steps of an experiment; encoded online where there is no cache."""
    corpus = open_corpus(experiment.corpus, experiment.images)
    autoencoder = open_autoencoder(experiment.autoencoder, experiment.model.patch_size)
    encoder = open_text_encoder(experiment.text_encoder)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    features: dict[str, TextFeatures] = {}
    for name, of_set in texts.items():
        features[name] = OnlineFeatures(encoder) if cache is None else encode_texts(of_set, encoder, cache)

    def latents(keys: Sequence[str], size: Size | None) -> Latents:
        if cache is None:
            return online_images(corpus, keys, autoencoder, size=size)
        return encode_images(corpus, keys, autoencoder, cache, size=size)

    return TrainingBatches(experiment, encode_sizes(experiment, corpus, latents), texts, features, corpus.train_keys)


@pytest.mark.parametrize("kind", ["minilm", "qwen3", "qwen3 in bfloat16", "gpt_oss"])
def test_whole_steps_are_equal_to_the_bit(
    on_latents: Experiment, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    experiment = on_latents.replace({"captions.set": "0.6*detailed+0.4*alt"})
    if kind != "minilm":
        folder = request.getfixturevalue("gpt_oss_folder" if kind == "gpt_oss" else "qwen3_folder")
        if kind == "qwen3 in bfloat16":
            folder = in_bfloat16(folder, tmp_path / "model")
        changes = {
            "text_encoder.kind": kind.partition(" ")[0],
            "text_encoder.model": str(folder),
            "text_encoder.layers": (1, 3),
            "text_encoder.width": 32 if kind == "gpt_oss" else 24,
            "text_encoder.max_tokens": 400 if kind == "gpt_oss" else 64,
            "text_encoder.prefix_tokens": 218 if kind == "gpt_oss" else 0,
        }
        experiment = experiment.replace(changes)
    kept, online = batches(experiment, tmp_path / "cache"), batches(experiment, None)
    assert len(kept) == len(online) == 3
    for number in range(3):
        some, other = kept[number], online[number]
        assert len(some.parts) == len(other.parts)
        for a, b in zip(some.parts, other.parts, strict=True):
            assert a.keys == b.keys
            assert a.text_mask.any()
            for name in ("latents", "noise", "timesteps", "text_mask"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name
            assert all(torch.equal(x, y) for x, y in zip(a.text_features, b.text_features, strict=True))


def in_bfloat16(folder: Path, target: Path) -> Path:
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_a_cell_reads_what_was_encoded_and_one_online_writes_nothing(on_latents: Experiment, tmp_path: Path) -> None:
    cache = tmp_path / "runs" / "cache"
    experiments = [on_latents, on_latents.replace({"captions.set": "alt"})]
    todo = encoding.jobs(experiments, cache)
    assert not cache.exists(), "counting writes nothing"
    assert [job.what for job in todo] == [
        *("captions, detailed", "prompts", "captions, alt"),
        *("training images, 32 x 32", "held-out images, 32 x 32"),
    ]
    cost = encoding.total([job.rows.cost() for job in todo])
    told: list[tuple[int, int, int]] = []
    encoding.encode(todo, experiments, cache, 1, lambda *said: told.append(said))
    assert {number for number, _, _ in told} == {0, 1, 2, 3, 4}
    shards = list(cache.rglob("*.rows"))
    written = sum(shard.stat().st_size for shard in shards)
    assert cost.bytes < written < cost.bytes + 24 * cost.rows + 500 * len(shards), "rows, names and offsets"
    again = encoding.total([job.rows.cost() for job in encoding.jobs(experiments, cache)])
    assert (again.there, again.bytes) == (cost.rows, 0)

    stages: list[str] = []
    run_cell(on_latents, tmp_path / "kept", cache=cache, report=lambda progress: stages.append(progress.stage))
    assert not {"captions", "latents"} & set(stages)
    online = on_latents.replace({"training.features": "online"})
    assert online.cell_id() == on_latents.cell_id(), "where the numbers come from is no science"
    assert not encoding.jobs([online], tmp_path / "none")
    run_cell(online, tmp_path / "online", cache=tmp_path / "none", report=lambda progress: None)
    assert not (tmp_path / "none").exists()
    losses = [pd.read_csv(tmp_path / name / "train.csv")["loss"].tolist() for name in ("kept", "online")]
    assert losses[0] == losses[1]
    records = [read_records(tmp_path / name, on_latents) for name in ("kept", "online")]
    scores = [frame[frame["metric"].str.match("geneval|validation|fd_|shapes_|caption")] for frame in records]
    assert len(scores[0]) > 8
    assert np.array_equal(scores[0]["value"], scores[1]["value"], equal_nan=True)


def test_a_text_that_is_a_caption_and_a_prompt_is_counted_once(tmp_path: Path) -> None:
    base = Experiment().replace(SMALL | {"images": 400})
    todo = encoding.jobs([base.replace({"captions.set": name}) for name in ("brief", "0.5*brief+0.5*alt")], tmp_path)
    assert [job.what for job in todo] == ["captions, brief", "prompts", "captions, alt"]
    names = [name for job in todo for name in job.rows.names]
    assert len(names) == len(set(names))
    texts = {text for job in todo if isinstance(job.rows, TextRows) for text in job.rows.texts}
    plain = encoding.jobs([base.replace({"captions.set": "alt"})], tmp_path)[1]
    assert isinstance(plain.rows, TextRows)
    assert set(plain.rows.texts) <= texts
    assert len(plain.rows.texts) > len(todo[1].rows.names), "some prompts are brief captions"


def test_online_features_and_data_workers_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"data_workers=2: with features='online' .* it must be 0"):
        Experiment().replace({"training.features": "online", "training.data_workers": 2})


def test_a_cell_says_what_it_will_write_and_refuses_what_does_not_fit(
    on_latents: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.sweep import cell_parts

    monkeypatch.setattr(cell_parts, "WORTH_TELLING", 1000)
    monkeypatch.setattr(rowstore, "free_bytes", lambda folder: 40_000)
    seen: list[Progress] = []
    with pytest.raises(OSError, match=r"kB are to be written and the disk has 40\.0 kB free"):
        run_cell(on_latents.replace({"captions.set": "alt"}), tmp_path / "cell", cache=tmp_path, report=seen.append)
    notes = {progress.note for progress in seen if progress.stage == "latents"}
    assert notes == {"held-out images, 8.2 kB to write", "training images, 24.6 kB to write"} & notes


RECIPE = """
from lensbench.experiment import Experiment

experiment = Experiment().replace({"images": 400, "captions.set": "detailed"})
"""


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).parent / "lensbench"), *map(str, arguments)]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "experiments" / "mine.py"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


def test_the_command_prints_the_cost_first(
    on_latents: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "experiments" / "mine.py"
    recipe.parent.mkdir()
    given = on_latents.model_dump_json()
    recipe.write_text(
        f"from lensbench.experiment import Experiment\nexperiment = Experiment.model_validate_json({given!r})"
    )
    runs = tmp_path / "runs"
    encode(recipe, runs, workers=1, dry_run=True)
    told = capsys.readouterr().out
    assert not runs.exists()
    monkeypatch.setattr(rowstore, "free_bytes", lambda folder: 10_000)
    with pytest.raises(OSError, match=r"are to be written and the disk has 10\.0 kB free"):
        encode(recipe, runs, workers=1)
    assert not runs.exists()
    monkeypatch.undo()
    capsys.readouterr()
    encode(recipe, runs, workers=1)
    out = capsys.readouterr().out
    assert out.startswith(told.partition("free on")[0][:-20]), "the table first"
    assert re.search(r"(\d+) rows are there, \1 of them new", out)
    encode(recipe, runs, workers=1)
    assert re.search(r"\d+ rows are there, 0 of them new", capsys.readouterr().out)

    given = on_latents.replace({"training.features": "online"}).model_dump_json()
    recipe.write_text(
        f"from lensbench.experiment import Experiment\nexperiment = Experiment.model_validate_json({given!r})"
    )
    encode(recipe, tmp_path / "none", workers=1)
    assert "1 of 1 cells encode online and read nothing from the disk" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_stopped(recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = subprocess.Popen(
        command("encode", recipe, "--runs", runs, "--workers", 2),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not list(runs.rglob("*.rows")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what is finished stays" in err
    assert "continue with" in err
    assert len(err.splitlines()) == 1
    (rows,) = re.findall(r"all +([\d,]+) ", out)
    (predicted,) = re.findall(r"([\d.]+) MB to write,", out)
    assert not list(runs.rglob("*.partial")), "what was under way is gone"
    kept = {path.name for path in runs.rglob("*.rows")}

    done = subprocess.run(
        command("encode", recipe, "--runs", runs), text=True, capture_output=True, timeout=200, check=True
    )
    assert re.search(rf"{rows} rows are there, [1-9][\d,]* of them new", done.stdout)
    assert kept < {path.name for path in runs.rglob("*.rows")}
    written = sum(path.stat().st_size for path in runs.rglob("*.rows")) / 1e6
    assert written == pytest.approx(float(predicted), rel=0.01)
    assert not list(runs.rglob("*.claim"))
