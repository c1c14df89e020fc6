"""The budget: what is spent plus what may still be asked for never passes it.

A request reserves its worst case before it goes out and gives it back for its real cost when its answer is in the
store. What becomes of the requests under way when a process is killed nobody knows, so their worst case is in the
ledger beforehand and stays there as spent.
"""

from __future__ import annotations

from lensbench.captioner.ledger import Ledger


class Spending:
    """Dollars of one caption set. All sums are zero where prices are not known; a budget then cannot be kept."""

    def __init__(self, ledger: Ledger, rows_usd: float, budget: float | None) -> None:
        self.ledger, self.budget = ledger, budget
        self.session = ledger.begin_session()
        self.uncertain = ledger.exposed(self.session)  # may have been spent by requests whose answer was never seen
        self.rows = rows_usd
        self.in_batches = 0.0  # the worst case of the batches at the server, which somebody else knows
        self._reserved = 0.0
        self._exposed = 0.0
        self._lost = 0.0
        self._factor = 1.0

    @property
    def spent(self) -> float:
        """Paid for rows, and possibly for requests whose answer was never seen."""
        return self.rows + self.uncertain + self._lost

    @property
    def room(self) -> float:
        """What may still be promised."""
        if self.budget is None:
            return float("inf")
        return self.budget - self.spent - self._reserved - self.in_batches

    def reserve(self, worst: float) -> float | None:
        """Set the worst case of a request aside; what was set aside, or None where the budget has no room for it."""
        amount = worst * self._factor
        if amount > self.room:
            return None
        self._reserved += amount
        if self._lost + self._reserved > self._exposed:
            # Some more at a time, so that the ledger is written seldom; it is never too low.
            self._expose(self._lost + self._reserved + max(0.0, min(8 * amount, self.room)))
        return amount

    def settle(self, reserved: float, paid: float | None, worst: float) -> None:
        """A request's answer is in the store, and cost `paid`."""
        self._reserved -= reserved
        self.rows += paid or 0.0
        if paid and worst:
            self._factor = max(self._factor, paid / worst)  # the estimate was too low: no later one is

    def release(self, reserved: float, *, lost: bool) -> None:
        """A request came to nothing; `lost` where it may have been paid for all the same."""
        self._reserved -= reserved
        if lost:
            self._lost += reserved

    def collected(self, paid: float) -> None:
        """Rows of a batch are in the store."""
        self.rows += paid

    def lose(self, usd: float) -> None:
        """Answers of a batch may have been paid for and never come; the ledger says so from now on."""
        self._lost += usd
        self._expose(self._lost + self._reserved)

    def close(self) -> None:
        """Nothing is under way any more: only what was lost stays in the ledger."""
        self._expose(self._lost)

    def _expose(self, usd: float) -> None:
        self._exposed = usd
        self.ledger.expose(self.session, usd)
