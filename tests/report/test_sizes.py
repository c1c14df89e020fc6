"""The tables of sizes: the family's own numbers, what the options change, and mistakes in one line."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.lengths import given_tokens
from lensbench.cli import main
from lensbench.experiment import Experiment, TextEncoder
from lensbench.model.memory import Setting, training_memory
from lensbench.model.sizes import denoiser_config, lens, train_flops_per_image
from lensbench.report.render import to_console
from lensbench.report.sizes import (
    GIB,
    amount,
    costs,
    figures,
    memory_bytes,
    of_experiments,
    of_lens,
    tables,
    whole_numbers,
)

PROJECT = Path(__file__).resolve().parents[2]
GPU = 80 * GIB


@pytest.fixture(scope="module")
def published():
    asked = of_lens(TextEncoder(kind="gpt_oss"), 4 / 3)
    return asked, costs(asked, 8, GPU)


def lensbench(capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lensbench", "sizes", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    return stopped.value.code, told.out, told.err


def test_the_published_model_is_in_the_family(published):
    asked, found = published
    line = next(c for c in found if (c.depth, c.size_px, c.captions) == (48, 512, "detailed"))
    assert asked.family.of_depth(48) == lens(48)
    assert (line.width, line.heads, line.parameters, line.image_tokens) == (1536, 24, 4_104_225_152, 1024)
    assert line.train_flops_per_image == train_flops_per_image(lens(48), 1024, line.text_tokens)


def test_memory_and_batches_are_those_of_the_longest_captions(published):
    asked, found = published
    line = next(c for c in found if (c.depth, c.size_px, c.captions) == (16, 512, "detailed"))
    for checkpointing, batch, largest in (
        (False, line.batch_bytes, line.largest_batch),
        (True, line.batch_bytes_checkpointed, line.largest_batch_checkpointed),
    ):
        memory = training_memory(lens(16), 1024, 145, Setting(checkpointing=checkpointing))
        assert batch == memory.total(8)
        assert largest == memory.largest_batch(GPU) > 0
    assert line.largest_batch < line.largest_batch_checkpointed
    fits = next(table for table in tables(found, asked) if table.name == "fits")
    row = next(row for row in fits.rows if row.cells[0].text == "16")
    assert [cell.text for cell in row.cells[3:5]] == [f"{line.largest_batch:,}", f"{line.largest_batch_checkpointed:,}"]
    assert {cell.text for cell in fits.rows[-1].cells[1:]} == {"–"}  # noqa: RUF001 - depth 48 needs more than one GPU


def test_longer_captions_cost_most_where_images_are_small(published):
    asked, found = published
    table = next(table for table in tables(found, asked) if table.name == "captions")
    shares = [float(cell.text.strip("+ %")) for cell in table.rows[-1].cells[2::2]]
    flops = {(c.size_px, c.captions): c.train_flops_per_image for c in found if c.depth == 48}
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(100 * (flops[256, "detailed"] / flops[256, "alt-text"] - 1), abs=0.5)


@pytest.mark.parametrize(("width", "lengths"), [(80, (13, 145)), (120, (13, 145)), (80, (5,)), (80, (5, 50, 500))])
def test_tables_fit_the_terminal(width, lengths, published):
    asked, _ = published
    asked = replace(asked, lengths=given_tokens(lengths))
    built = tables(costs(asked, 8, GPU), asked)
    assert [table.name for table in built] == ["family", *(["captions"] if len(lengths) > 1 else []), "memory", "fits"]
    for table in built:
        assert max(map(len, to_console(table, width).plain.splitlines())) <= width


def test_a_sweep_is_asked_about_its_own_models_and_captions():
    base = Experiment(images=50).replace({"training.optimizer": "muon", "training.precision": "fp32"})
    experiments = [
        base.replace({"captions.set": name, "model.depth": depth}) for name in ("detailed", "alt") for depth in (2, 4)
    ]
    asked = of_experiments(experiments, 4 / 3)
    assert asked.depths == (2, 4)
    assert asked.sizes_px == (base.corpus.size_px,)
    assert asked.family.stride == base.model.patch_size
    assert asked.family.of_depth(4) == denoiser_config(experiments[1], 384)
    assert [length.captions for length in asked.lengths] == ["alt", "detailed"]
    assert asked.setting == Setting("muon", "fp32")
    line = costs(asked, 8, GPU)[0]
    config, tokens = asked.family.of_depth(2), asked.lengths[0].tokens
    mean = sum(train_flops_per_image(config, line.image_tokens, n) for n in tokens) / 50
    assert line.train_flops_per_image == pytest.approx(mean)


def test_the_command_prints_and_writes_the_same_numbers(tmp_path, capsys, monkeypatch):
    path = tmp_path / "sizes.csv"
    options = ("--depths", "4,8", "--size", "256", "--words", "9,90", "--tokens-per-word", "2", "--memory", "24GB")
    code, out, err = lensbench(capsys, monkeypatch, *options, "--batch", "3", "--csv", str(path))
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(path.open()))
    assert [(row["depth"], row["text_tokens"]) for row in rows] == [
        ("4", "18.0"),
        ("4", "180.0"),
        ("8", "18.0"),
        ("8", "180.0"),
    ]
    for row in rows:
        assert (row["batch"], row["gpu_bytes"]) == ("3", str(24 * GIB))
        assert amount(int(row["parameters"])) in out
        config = lens(int(row["depth"]))
        assert float(row["train_flops_per_image"]) == train_flops_per_image(config, 256, int(float(row["text_tokens"])))
    assert f"{int(rows[-1]['largest_batch']):,}" in out
    assert "batch 3" in out
    assert "24 GiB" in out


def test_the_command_reads_a_sweep(capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    code, out, err = lensbench(capsys, monkeypatch, "sweeps/demo.py")
    assert (code, err) == (0, "")
    for word in ("16 px", "detailed", "brief", "MiniLM's tokens", "Muon's"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--depths", "9"), "depth=9: a depth from 8 on must be even, as a head has 64 channels; take 10"),
        (("--depths", "0"), "depth=0"),
        (("--depths", "4;8"), "--depths=4;8: give whole numbers with commas"),
        (("--size", "250"), "size=250: must be a multiple of 16 px"),
        (("--size", "0"), "size=0"),
        (("--memory", "lots"), "--memory=lots"),
        (("--memory", "nan"), "--memory=nan"),
        (("--text-tokens", "5", "--words", "4"), "give one of them"),
        (("--encoder", "bert"), "gpt_oss"),
        (("--depths", "4", "--csv", "/nowhere/sizes.csv"), "/nowhere/sizes.csv"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys, monkeypatch):
    code, _, err = lensbench(capsys, monkeypatch, *words)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("lensbench: ")
    assert said in line


@pytest.mark.parametrize("text", ["80GB", "80 GiB", "80", "80g", " 80.0gb "])
def test_makers_of_gpus_count_in_powers_of_two(text):
    assert memory_bytes(text) == 80 * 2**30


@given(st.floats(1e-6, 1e9))
def test_figures_are_near(x):
    shown = figures(x)
    assert float(shown.replace(",", "")) == pytest.approx(x, rel=0.0051)
    assert "e" not in shown


def test_whole_numbers_keep_their_order_and_come_once():
    assert whole_numbers("--depths", "8, 4,8") == (8, 4)
