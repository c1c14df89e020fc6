"""What captions cost: OpenAI's published examples, a budget that holds, intervals that cover."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captioner.estimate import by_rules, measured, worst_usd
from lensbench.captioner.ledger import Batch, Ledger
from lensbench.captioner.prices import Price, open_prices
from lensbench.captioner.prompts import open_prompt
from lensbench.captioner.requests import Asking
from lensbench.captioner.spending import Spending


def price(model: str) -> Price:
    found = open_prices().of(model)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4.1", (1024, 1024), "high", 765),  # OpenAI's own examples
        ("gpt-4.1", (2048, 4096), "high", 1105),
        ("gpt-4.1", (4096, 8192), "low", 85),
        ("gpt-4.1", (512, 512), "high", 255),
        ("gpt-4.1", (513, 512), "high", 425),
        ("gpt-4.1", (16, 12), "auto", 255),
        ("gpt-4.1-2025-04-14", (512, 512), "high", 255),
        ("gpt-4.1-mini", (1024, 1024), "high", 1659),  # 1024 patches x 1.62
        ("gpt-4.1-mini", (4000, 4000), "high", 2489),  # 1536 patches at most
        ("gpt-4.1-nano", (33, 32), "low", 5),
    ],
)
def test_tokens_of_an_image(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    assert price(model).image.tokens(*size, detail) == tokens


def test_dollars_of_a_request() -> None:
    of = price("gpt-4.1")
    assert of.usd(1e6, 1e6, batch=False) == pytest.approx(10)
    assert of.usd(1e6, 1e6, 1e6, batch=False) == pytest.approx(8.5)
    assert of.usd(1e6, 1e6, 1e6, batch=True) == pytest.approx(5)


def test_a_users_prices_go_before_the_packages(tmp_path: Path) -> None:
    own = tmp_path / "p.toml"
    own.write_text('date = 2030-02-03\n[models."my/model"]\ninput = 1\noutput = 2\n')
    found = open_prices(own)
    assert found.of("my/model") == (Price(input=1, output=2), "2030-02-03")
    assert found.of("gpt-4.1") == open_prices().of("gpt-4.1")
    assert found.of("another") is None
    assert found.of("gpt-4.1-turbo") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date = 2030-01-01\n[models.a]\ninput = -1\noutput = 2\n", "models.a.input"),
        ("date = 2030-01-01\n[models.a]\ninput = 1\n", "models.a.output"),
        ("[models.a]\ninput = 1\noutput = nan\n", "models.a.output"),
        ("models = 3\n", "models"),
        ("date = \n", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_price_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        open_prices(path)


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(["gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano"]),
    side=st.integers(32, 2048),
    shape=st.tuples(st.floats(0.001, 1), st.booleans()),
    detail=st.sampled_from(["low", "high", "auto"]),
)
def test_no_image_costs_more_than_the_worst_case(model: str, side: int, shape: tuple[float, bool], detail: Any) -> None:
    prompt = open_prompt("detailed-v1")
    asking = Asking(model, prompt, prompt.max_output_tokens, detail=detail, max_side=side)
    sides = (side, max(1, int(side * shape[0])))
    estimate = by_rules(asking, price(model), [sides[::-1] if shape[1] else sides])
    worst = worst_usd(asking, price(model), batch=False)
    assert estimate.live_usd is not None
    assert estimate.live_usd <= worst
    assert worst_usd(asking, price(model), batch=True) == pytest.approx(worst / 2)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    budget=st.floats(0, 1),
    sessions=st.integers(1, 5),
    killed=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_the_budget_holds_through_any_answers_losses_and_kills(
    seed: int, budget: float, sessions: int, killed: list[bool]
) -> None:
    """What was really billed never passes the budget, whatever a killed process did not live to write down."""
    draw = random.Random(seed)
    worst = 0.01
    billed = rows = 0.0
    with TemporaryDirectory() as name:
        for session in range(sessions):
            ledger = Ledger(Path(name))
            spending = Spending(ledger, rows, budget)
            under_way: list[tuple[float, float]] = []  # reserved, what it will cost
            for _ in range(120):
                if draw.random() < 0.6:
                    reserved = spending.reserve(worst)
                    if reserved is not None:
                        cost = draw.uniform(0, worst)
                        billed += cost  # the server bills when it answers, seen or not
                        under_way.append((reserved, cost))
                elif under_way:
                    reserved, cost = under_way.pop(draw.randrange(len(under_way)))
                    if draw.random() < 0.8:
                        rows += cost
                        spending.settle(reserved, cost, worst)
                    else:
                        spending.release(reserved, lost=True)
                assert billed <= budget + 1e-9
                assert billed <= spending.spent + sum(reserved for reserved, _ in under_way) + 1e-9
            if not killed[session]:
                for reserved, _ in under_way:
                    spending.release(reserved, lost=True)
                spending.close()
            ledger.close()


def test_a_reservation_that_was_too_low_makes_later_ones_higher(tmp_path: Path) -> None:
    spending = Spending(Ledger(tmp_path), 0.0, 1.0)
    first = spending.reserve(0.1)
    assert first == pytest.approx(0.1)
    spending.settle(first, 0.2, 0.1)
    assert spending.reserve(0.1) == pytest.approx(0.2)


def test_an_image_is_in_one_batch_at_most(tmp_path: Path) -> None:
    import sqlite3

    ledger = Ledger(tmp_path)
    batch = Batch("a", "packed", None, None, 2, 0.5, 0, 0)
    keys = ["0" * 64, "1" * 64]
    ledger.add(batch, keys)
    with pytest.raises(sqlite3.IntegrityError):
        ledger.add(batch._replace(tag="b"), keys[1:])
    assert [found.tag for found in ledger.batches()] == ["a"], "a batch that is refused leaves nothing"
    ledger.retag(batch, "c")
    assert ledger.keys("c") == set(keys)
    ledger.settle("c")
    assert (ledger.batches(), ledger.keys()) == ([], set())


def test_the_interval_of_a_pilot_covers(asking: Any) -> None:
    draw = random.Random(0)
    found = [measured([draw.gauss(700, 50) for _ in range(20)]) for _ in range(400)]
    assert 0.92 < sum(m.low <= 700 <= m.high for m in found) / 400 < 0.98
    assert measured([5.0]).mean == 5.0
    twice = measured([1.0, 3.0]).of(10)
    assert twice.mean == 20
    assert asking.prompt == replace(asking).prompt
