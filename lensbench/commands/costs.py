"""What captioning commands print: estimates, what came of a run, what a pilot measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensbench.commands.meter import dollars
from lensbench.commands.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.captioner.estimate import Estimate
    from lensbench.captioner.prices import Price
    from lensbench.captioner.requests import Asking
    from lensbench.captioner.writing import Outcome, Pilot


def tell(console: Console, line: str) -> None:
    """A line as it is, however long."""
    console.print(plain(line), highlight=False, markup=False, soft_wrap=True)


def print_estimate(console: Console, found: Estimate, asking: Asking, price: tuple[Price, str] | None) -> None:
    """Tokens and dollars, by the rules. `price` is the model's and its date."""
    n = found.requests
    tell(console, f"{n:,} requests to {asking.model} with {asking.prompt.version}; nothing is sent")
    if not n:
        return
    tell(
        console,
        f"input:  {found.input_tokens:,} tokens, {found.input_tokens / n:,.0f} each, by the model's rules",
    )
    tell(
        console,
        f"output: {found.output_tokens:,} tokens, {asking.prompt.output_tokens:,} each, as the prompt's file assumes",
    )
    if price is None or found.live_usd is None or found.batch_usd is None:
        tell(console, f"dollars: the price of {asking.model} is not known; give it with --prices FILE")
        return
    tell(console, f"live:   {dollars(found.live_usd)}")
    tell(console, f"batch:  {dollars(found.batch_usd)}")
    tell(console, f"prices of {price[1]}; --pilot 100 measures instead of assuming")


def print_outcome(
    console: Console,
    outcome: Outcome,
    name: str,
    total: int,
    what: str,
    price: tuple[Price, str] | None,
    foreign: int = 0,
) -> None:
    """What a set holds after a run, what it has cost, and why the run ended early or left something out.

    `foreign` counts the rows that are of nothing among the `total`.
    """
    states = ", ".join(f"{n:,} {state}" for state, n in outcome.rows.items() if n) or "none"
    have = f"{sum(outcome.rows.values()) - foreign:,} of {total:,} {what} have a row"
    tell(console, f"{name}: {have} ({states}), {outcome.tally.rows:,} of them new")
    if foreign:
        tell(console, f"{foreign:,} of the rows are of {what} that are not here")
    if price is not None and outcome.spent_usd is not None:
        unseen = outcome.uncertain_usd
        maybe = f", of which {dollars(unseen)} may have been paid for answers that never came" if unseen > 0 else ""
        tell(console, f"spent on this set: {dollars(outcome.spent_usd)} at the prices of {price[1]}{maybe}")
        answers, worst = outcome.assumed
        if answers:
            told = f"{answers:,} answers told no usage and are counted at their worst case"
            tell(console, f"  of this {dollars(worst)} is assumed: {told}")
    if outcome.tally.stop == "budget":
        tell(console, "stopped by --budget: the next request could have passed it; a higher one goes on")
    if others := [state for state, n in outcome.rows.items() if n and state != "done"]:
        n = sum(n for state, n in outcome.rows.items() if state != "done")
        tell(console, f"{n:,} have a row and no text: --again {','.join(others)} asks about them again, and pays again")
    for reason, n in outcome.tally.left.most_common(5):
        tell(console, f"{n:,} left without an answer, for the next run: {reason}")


def print_pilot(console: Console, pilot: Pilot | None, price: tuple[Price, str] | None) -> None:
    """What a pilot's images took, and what all the others will."""
    if pilot is None:
        tell(console, "the server told no usage: nothing can be extrapolated")
        return
    tokens = f"{pilot.input_tokens.mean:,.1f} input and {pilot.output_tokens.mean:,.1f} output tokens"
    tell(console, f"pilot: {tokens} an image, measured on {pilot.images:,} images drawn at random")
    if pilot.live_usd is None or pilot.batch_usd is None or price is None:
        tell(console, "dollars: the price is not known; give it with --prices FILE")
        return
    for mode, one in (("live", pilot.live_usd), ("batch", pilot.batch_usd)):
        all_left = one.of(pilot.left)
        interval = f" [{dollars(all_left.low)}, {dollars(all_left.high)}]" if pilot.images > 1 else ""
        for_all = f"{dollars(all_left.mean)}{interval} for the {pilot.left:,} that are left"
        tell(console, f"  {mode + ':':7}{dollars(one.mean)} an image, {for_all}")
    tell(console, f"  prices of {price[1]}; the interval, 95 %, is of the images drawn alone")
