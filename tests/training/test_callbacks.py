"""What a run shows: the numbers of every step, how fast it was, and a line about it along the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.model.peak import matmul_peak
from lensbench.model.sizes import denoiser_config, train_flops_per_image
from lensbench.training import files
from lensbench.training.curve import RECENT, LossCurve, Row, peak_memory, speed
from lensbench.training.run import train


def row(step: int, seconds: float, images: int = 4, tokens: int = 100, padding: float = 1.0, wait: float = 0.0) -> Row:
    nothing = torch.zeros(4)
    return Row(step, nothing[0], 1.0, nothing[0], seconds, wait, False, images, tokens, padding, 2e6, 1, nothing)


def test_what_a_run_leaves_of_every_step(undisturbed: Path, short: Any) -> None:
    table = short.losses(undisturbed)
    assert list(table.columns) == [
        *("step", "loss", "learning_rate", "gradient_norm", "seconds", "data_seconds", "skipped"),
        *("images", "tokens", "padding", "flops", "pieces", "loss_t1", "loss_t2", "loss_t3", "loss_t4"),
    ]
    assert table["seconds"].is_monotonic_increasing
    assert 0 < table["data_seconds"].sum() < table["seconds"].iloc[-1]
    batches, config = short.batches(), denoiser_config(short.experiment, 384)
    for n, shown in enumerate(table.itertuples()):
        (part,) = batches[n].parts
        lengths = part.text_mask.sum(1).tolist()
        assert shown.images == len(lengths) == 4
        assert shown.tokens == sum(16 + length for length in lengths)
        assert shown.padding == pytest.approx(4 * (16 + part.text_mask.shape[1]) / shown.tokens, abs=1e-4)
        assert shown.flops == pytest.approx(sum(train_flops_per_image(config, 16, n) for n in lengths), rel=1e-5)
        assert shown.pieces == 1
    assert table["padding"].max() > 1.05  # some visits have no text


def test_its_summary_is_of_the_same_numbers(undisturbed: Path, short: Any) -> None:
    told, table = json.loads((undisturbed / files.SUMMARY).read_text()), short.losses(undisturbed)
    took = table["seconds"].diff().fillna(table["seconds"].iloc[0])
    assert told["images_per_second"] == pytest.approx((4 / took).median(), rel=0.2)  # the table has milliseconds
    assert told["tokens_per_second"] == pytest.approx((table["tokens"] / took).median(), rel=0.2)
    share = (table["flops"] / took).median() / told["peak_flops"]
    assert told["peak_flops_share"] == pytest.approx(share, rel=0.2)
    assert 0 < told["peak_flops_share"] < 1
    waited = table["data_seconds"].sum() / table["seconds"].iloc[-1]
    assert told["data_wait_share"] == pytest.approx(waited, rel=0.02)
    padding = (table["padding"] * table["tokens"]).sum() / table["tokens"].sum()
    assert told["padding"] == pytest.approx(padding, rel=1e-3)
    assert 1e8 < told["peak_memory_bytes"] < 1e11
    assert "process" in told["peak_memory_of"] or "GPU" in told["peak_memory_of"]
    assert (told["processes"], told["skipped_steps"], told["data_worker_deaths"]) == (1, 0, 0)


@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 9), st.floats(0, 0.9)), min_size=1, max_size=30),
    st.floats(0, 100),
)
def test_speed_is_of_the_steps_alone(steps: list[tuple[float, int, float]], before: float) -> None:
    rows, now = [], before
    for n, (took, images, waiting) in enumerate(steps):
        now += took
        rows.append(row(n + 1, now, images, wait=waiting * took))
    found = speed(rows, peak=1e9, before=before)
    rates = sorted(images / took for took, images, _ in steps)
    assert rates[0] * (1 - 1e-6) <= found.images_per_second <= rates[-1] * (1 + 1e-6)
    assert found.data_wait_share == pytest.approx(sum(t * w for t, _, w in steps) / sum(t for t, _, _ in steps))


def test_a_pause_is_in_no_rate_but_padding_and_waiting_are_of_all_steps() -> None:
    rows = [row(n, 0.5 * n + (60 if n > 3 else 0), padding=2.0 if n == 4 else 1.0, wait=0.05) for n in range(1, 6)]
    found = speed(rows, peak=1e9)
    assert found.images_per_second == pytest.approx(8)
    assert found.tokens_per_second == pytest.approx(200)
    assert found.peak_flops_share == pytest.approx(4e6 / 1e9)
    assert found.padding == pytest.approx(1.2)
    assert found.data_wait_share == pytest.approx(0.25 / 62.5)


def test_what_is_shown_along_the_way_is_of_the_last_steps() -> None:
    curve = LossCurve(Path("train.csv"), Path("training.json"))
    curve.peak = 1e9
    curve.rows = [row(n, 10.0 * n) for n in range(1, 201)]
    curve.rows += [row(200 + n, 2000 + 0.5 * n) for n in range(1, RECENT + 1)]
    assert curve.recent().images_per_second == pytest.approx(8)
    curve.rows = curve.rows[-RECENT // 2 :]
    curve.earlier = 2000
    assert curve.recent().tokens_per_second == pytest.approx(200)


def test_the_line_along_the_way(short: Any, tmp_path: Path) -> None:
    notes: list[str] = []
    experiment = short.experiment.replace({"training.steps": 3, "evaluation.at": (1.0,)})
    config = denoiser_config(experiment, 384)
    (tmp_path / "run").mkdir()
    train(experiment, config, short.batches(experiment), tmp_path / "run", lambda *r: notes.append(r[2]), {"a": "b"})
    number = r"\d[\d,]*"
    assert re.fullmatch(
        rf"loss \d\.\d{{3}}, {number} images/s, {number} tokens/s, \d+% of a matrix product's FLOP/s, "
        r"\d+\.\d% waiting for data, \d+\.\d GB",
        notes[-1],
    )


def test_a_resumed_run_has_the_rows_of_before(short: Any, tmp_path: Path) -> None:
    curve = LossCurve(tmp_path / "a.csv", tmp_path / "a.json")
    curve.rows = [row(1, 0.5), row(2, 1.0)]
    later = LossCurve(tmp_path / "b.csv", tmp_path / "b.json")
    later.load_state_dict(curve.state_dict())
    assert later.rows == curve.rows
    assert later.earlier == 1.0


def test_the_peak_is_that_of_a_product_and_draws_nothing_from_the_global_stream() -> None:
    state = torch.random.get_rng_state()
    fast, again = matmul_peak(torch.float32, "cpu", 0.1), matmul_peak(torch.float32, "cpu", 0.1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fast == pytest.approx(again, rel=0.7)  # a busy machine
    assert 1e9 < fast < 1e14


def test_memory_is_the_most_that_was_held() -> None:
    held = torch.ones(2**25)
    most, of = peak_memory(torch.device("cpu"))
    now = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    assert most > 0.99 * 1024 * int(now[0]) > held.nbytes  # the kernel counts some of it late
    assert "process" in of
    del held
    assert peak_memory(torch.device("cpu"))[0] > 0.99 * most
