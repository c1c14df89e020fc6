"""Progress of a long command: how many images or texts are done, as a bar, or as lines where no terminal is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SPEAK_SECONDS = 10.0  # between two lines, where there is no terminal


@contextmanager
def counting(console: Console, doing: str, what: str = "images") -> Iterator[Callable[[int, int | None], None]]:
    """A function to tell how many of `what` are done, of how many; shown as a bar, or as lines where no terminal is."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from lensbench.sweep.progress import duration

    began = spoke = time.monotonic()
    first: int | None = None

    def words(done: int, total: int | None) -> str:
        rate = (done - (first or 0)) / max(time.monotonic() - began, 1e-9)
        left = f", {duration((total - done) / rate)} left" if total and rate else ""
        return f"{done:,}{f'/{total:,}' if total else ''} {what}, {rate:,.0f} {what}/s{left}"

    if not console.is_terminal:

        def say(done: int, total: int | None) -> None:
            nonlocal spoke, first
            first = done if first is None else first
            if time.monotonic() - spoke >= SPEAK_SECONDS:
                spoke = time.monotonic()
                console.print(f"{doing}: {words(done, total)}", markup=False, soft_wrap=True)

        yield say
        return
    columns = (TextColumn(doing), BarColumn(16), TimeElapsedColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(doing, total=None, words="")

        def show(done: int, total: int | None) -> None:
            nonlocal spoke, first
            first = done if first is None else first
            if time.monotonic() - spoke >= 0.1:  # the bar is costlier than a small picture
                spoke = time.monotonic()
                bars.update(task, completed=done, total=total, words=words(done, total))

        yield show
