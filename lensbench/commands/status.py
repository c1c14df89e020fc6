"""`lensbench status`, `cancel` and `retry`: look at a sweep's queue, take cells out of it, put them back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.commands.queue import Tries
from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile, prepared
from lensbench.sweep.claims import TRIES

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.sweep.design import Cell
    from lensbench.sweep.status import CellStatus

CellIds = Annotated[
    list[str] | None, typer.Option("--cell", help="A cell's id, or how it begins; all cells when left out. Repeat it.")
]
MOST_NAMED = 30  # cells that are named in a list, unless all are asked for
REFRESH = 2.0  # seconds, on a terminal
PIPED_REFRESH = 30.0
PIPED_WIDTH = 80


def status(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until nothing runs or waits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything about every cell, for programs.")] = False,
    tries: Tries = TRIES,
) -> None:
    """How a sweep stands: done, running, waiting and failed cells by arm, where they run, and the time left."""
    from rich.console import Console

    from lensbench.sweep import status as standing
    from lensbench.sweep.sweep import cells

    sweep = prepared(sweep_file, corpus)
    every = cells(sweep)
    if as_json:
        print(standing.as_json(sweep.name, standing.standings(every, runs, tries), runs))
        return
    console = Console(highlight=False)
    if not watch:
        _print(console, sweep.name, sweep_file, standing.standings(every, runs, tries), runs)
        return
    if not console.is_terminal:
        while True:
            found = standing.standings(every, runs, tries)
            _print(console, sweep.name, sweep_file, found, runs)
            if not _goes_on(found):
                return
            time.sleep(PIPED_REFRESH)
    from rich.live import Live

    with Live(console=console, screen=False, auto_refresh=False) as live:
        while True:
            found = standing.standings(every, runs, tries)
            live.update("\n".join(_lines(sweep.name, sweep_file, found, runs, console.width)), refresh=True)
            if not _goes_on(found):
                return
            time.sleep(REFRESH)


def cancel(sweep_file: SweepFile, cell: CellIds = None, runs: Runs = Path("runs"), corpus: CorpusFolder = None) -> None:
    """Take cells out of the queue: what runs stops after its step, with its state kept, until `retry`."""
    from lensbench.sweep import claims
    from lensbench.sweep.cellfiles import is_complete

    changed = 0
    for chosen in _chosen(sweep_file, corpus, cell):
        directory = runs / chosen.id
        if not is_complete(directory, chosen) and not claims.state(directory).cancelled:
            claims.cancel(directory)
            changed += 1
    seconds = claims.beat_seconds()
    print(f"{changed} cell(s) cancelled; those that run stop within {seconds:.0f} s and a step, and keep their state")


def retry(sweep_file: SweepFile, cell: CellIds = None, runs: Runs = Path("runs"), corpus: CorpusFolder = None) -> None:
    """Put cells back into the queue that were cancelled or have failed; they go on where they stopped."""
    from lensbench.sweep import claims

    changed = sum(claims.forgive(runs / chosen.id) for chosen in _chosen(sweep_file, corpus, cell))
    print(f"{changed} cell(s) queued again: lensbench run {sweep_file}, or work, takes them")


def _chosen(sweep_file: Path, corpus: Path | None, wanted: list[str] | None) -> list[Cell]:
    from lensbench.sweep.sweep import cells

    every = cells(prepared(sweep_file, corpus))
    if not wanted:
        return every
    out = []
    for word in wanted:
        found = [cell for cell in every if cell.id.startswith(word)]
        if not found:
            raise ValueError(f"{word}: no cell of {sweep_file} has this id; lensbench status --json names them")
        out += found
    return out


def _goes_on(found: Sequence[CellStatus]) -> bool:
    return any(status.standing in ("running", "waiting") for status in found)


def _print(console: Console, name: str, sweep_file: Path, found: Sequence[CellStatus], runs: Path) -> None:
    width = console.width if console.is_terminal else PIPED_WIDTH
    for line in _lines(name, sweep_file, found, runs, width):
        console.print(line, markup=False, soft_wrap=True)


def _lines(name: str, sweep_file: Path, found: Sequence[CellStatus], runs: Path, width: int) -> Iterator[str]:
    from lensbench.sweep.progress import duration
    from lensbench.sweep.status import STANDINGS, by_arm, seconds_left

    arms = by_arm(found)
    done = sum(counts["done"] for counts in arms.values())
    left = seconds_left(found, runs) if _goes_on(found) else None
    about = f", about {duration(left)} left" if left is not None else ""
    yield f"{name}: {done} of {len(found)} cells done{about}"
    yield ""
    shown = [s for s in STANDINGS if s != "cancelled" or any(counts[s] for counts in arms.values())]
    room = max(8, min(max([len("arm"), *map(len, arms)]), width - 10 * (len(shown) + 1)))
    yield "arm".ljust(room) + "".join(head.rjust(10) for head in (*shown, "cells"))
    for arm, counts in arms.items():
        numbers = (*(counts[s] for s in shown), sum(counts.values()))
        yield _cut(arm, room).ljust(room) + "".join(f"{number:,}".rjust(10) for number in numbers)
    yield from _group("running", [s for s in found if s.standing == "running"], _running, width)
    again = [s for s in found if s.standing == "waiting" and s.failures]
    yield from _group("failed, and tried again by the next worker", again, _failed, width)
    failed = [s for s in found if s.standing == "failed"]
    yield from _group("failed, and left alone", failed, _failed, width)
    cancelled = [s for s in found if s.standing == "cancelled"]
    yield from _group("cancelled", cancelled, lambda status, width: [], width)
    if failed or cancelled:
        yield ""
        yield f"queue them again: lensbench retry {sweep_file} [--cell ID]"


def _group(
    head: str,
    of: Sequence[CellStatus],
    told: Callable[[CellStatus, int], list[str]],
    width: int,
) -> Iterator[str]:
    if of:
        yield ""
        yield f"{head}:"
    for status in of[:MOST_NAMED]:
        yield f"  {_cut(f'{status.cell.id}  {status.cell.label()}', width - 2)}"
        for line in told(status, width - 4):
            yield f"    {line}"
    if len(of) > MOST_NAMED:
        yield f"  and {len(of) - MOST_NAMED:,} more; --json has all"


def _running(status: CellStatus, width: int) -> list[str]:
    from lensbench.sweep.progress import duration

    now = time.time()
    where = f"on {status.host}, process {status.pid}, for {duration(now - status.since)}"
    heard = f"heard of {duration(now - status.beat)} ago"
    if status.reason:
        heard = f"{heard}: {status.reason}"
    lines = [_cut(f"{where}; {heard}", width)] if len(where) + len(heard) + 2 <= width else [where, _cut(heard, width)]
    if progress := status.progress:
        lines.append(
            _cut(f"{progress.stage} {progress.done:,} of {progress.total:,}, {progress.note}".rstrip(", "), width)
        )
    return lines


def _failed(status: CellStatus, width: int) -> list[str]:
    import textwrap

    tries = f"{status.failures} time" + ("s" if status.failures != 1 else "")
    shown = [line for line in status.traceback[:-1] if line.strip()]
    return [*textwrap.wrap(f"{tries}: {status.reason}", width), *(_cut(line, width) for line in shown)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 3)] + "..."
