"""`lensbench plan`: what a sweep consists of and what it will take, before anything runs."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lensbench.sweep.planning import Pace, Planned
    from lensbench.sweep.sweep import Cell, Sweep

LISTED = 100  # cells that are listed without --cells
MOST_ROWS = 200  # where the seeds are folded
LONGEST_LEVEL = 14  # columns that a level takes before it is folded
HEAD = 12  # columns of a line's head
LEFT_OUT = ("seen", "FLOPs", "parameters", "steps", "images")  # columns, in this order, where there is no room
WIDEST = 1000  # columns that a table may want


def plan(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Measure the time: a few real steps and images of each kind of cell.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Cells at a time; 0: one a GPU or core, as run does.")] = 0,
    usd_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="Dollars for an hour of a device, a GPU or a core; LENSBENCH_USD_PER_HOUR if none."),
    ] = None,
    variances: Annotated[
        Path | None, typer.Option(metavar="RESULTS", help="Earlier results: the smallest difference is told.")
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help=f"List every cell, also where there are over {LISTED}.")
    ] = False,
) -> None:
    """Say what a sweep will take: cells, FLOPs, time, disk, dollars, and the smallest difference it can see.

    Nothing is trained but with --pilot, which takes seconds for each kind of cell and leaves nothing behind.
    """
    from rich.console import Console

    from lensbench.report.macro_names import refuse_indistinct
    from lensbench.sweep import planning
    from lensbench.sweep.cost import rate_given
    from lensbench.sweep.design import scored_cells
    from lensbench.sweep.processes import cores, default_workers, gpus
    from lensbench.sweep.sweep import cells as cells_of

    console = Console(highlight=False)
    sweep, untuned = _opened(sweep_file, corpus)
    every = cells_of(sweep)
    refuse_indistinct([place.levels for place in scored_cells(every)])
    lanes = workers or default_workers(len(every))
    devices = 1 if gpus() else max(1, cores() // lanes)
    paces = _pilot(console, every, devices) if pilot else None
    found = planning.planned(every, runs, paces)
    rate = rate_given() if usd_per_hour is None else usd_per_hour
    console.print(_title(sweep, found), style="bold", markup=False)
    for head, words in (
        ("design", _design(sweep)),
        ("matched", _matched(sweep, every)),
        ("tuning", _tuning(sweep, untuned)),
        *_questions(sweep, every),
        ("left out", _left_out(every)),
        ("compute", _compute(found)),
        ("time", _time(found, lanes, devices, bool(gpus()), every, paces)),
        ("dollars", _dollars(found, devices, rate, bool(gpus()))),
        ("disk", _disk(found, lanes, every, runs)),
        ("can see", _detectable(sweep, every, variances)),
    ):
        _say(console, head, words)
    if cells or len(found) <= LISTED:
        _list(console, found)
    else:
        folded = list(_folded(found))
        _list(console, folded, folded=True)
        more = f"{len(folded) - MOST_ROWS:,} rows more; " if len(folded) > MOST_ROWS else ""
        _say(console, "", f"{more}seeds are folded; --cells lists all {len(found):,} cells")


def _opened(sweep_file: Path, corpus: Path | None) -> tuple[Sweep, str]:
    """The sweep and, where it is not tuned yet, why: its cells then have the base's hyper-parameters."""
    from lensbench.commands.sweeps import on_corpus
    from lensbench.sweep.constraints import resolved
    from lensbench.sweep.recipe import found_for
    from lensbench.sweep.sweep import load

    sweep = on_corpus(load(sweep_file), sweep_file, corpus)
    try:
        found = found_for(sweep, sweep_file, lambda other, file: on_corpus(other, file, corpus))
    except ValueError as error:
        return resolved(sweep), str(error)
    return resolved(sweep, *found), ""


def _pilot(console: Console, every: Sequence[Cell], threads: int) -> dict[tuple[Any, ...], Pace]:
    from lensbench.commands.counting import counting
    from lensbench.sweep import pilot

    kinds = pilot.kinds(every)
    with counting(console, "pilot", "kinds of cells") as say:
        return pilot.measured(kinds, threads, lambda n: say(n, len(kinds)))


def _title(sweep: Sweep, found: Sequence[Planned]) -> str:
    """How many cells there are, and what of them is to be trained and what to be scored."""
    done = sum(one.state == "complete" for one in found)
    trained = sum(one.trained and one.to_score > 0 for one in found)
    evaluations = sum(one.to_score for one in found)
    words = [f"{sweep.name}: {len(found):,} cell{'s' if len(found) > 1 else ''}"]
    words += [f"{done:,} of them done"] if done else []
    words += [f"{trained:,} of them trained"] if trained else []
    if trained or any(one.cell.scored for one in found):
        words += [f"{evaluations:,} evaluation{'s' if evaluations != 1 else ''} to make"]
    to_train = len(found) - done - trained
    words += [f"{to_train:,} to {'train' if trained else 'run'}"] if to_train and (done or trained) else []
    return ", ".join(words if done or trained else [*words, "none is done"])


def _design(sweep: Sweep) -> str:
    words = [_product(sweep.factors)]
    if sweep.blocks:
        words.append("with " + " or ".join(_product(block) for block in sweep.blocks))
    if sweep.exclude:
        words.append(f"{len(sweep.exclude)} exclusion{'s' if len(sweep.exclude) > 1 else ''}")
    own = [d for d in sweep.every_factor() if sweep.paired is not None and d not in (*sweep.paired, "seed")]
    lacking = " that have it" if any("seed" in excluded for excluded in sweep.exclude) else ""
    words.append(f"seeds of their own for {', '.join(own)}" if own else f"every seed is shared by all levels{lacking}")
    return "; ".join(words)


def _product(factors: dict[str, tuple[Any, ...]]) -> str:
    return " x ".join(f"{len(levels)} {dotted}" for dotted, levels in factors.items())


def _matched(sweep: Sweep, every: Sequence[Cell]) -> str:
    if sweep.match is None:
        return ""
    from lensbench.sweep.constraints import notes

    return "; ".join(notes(sweep, list(every))[:1])


def _tuning(sweep: Sweep, untuned: str) -> str:
    if sweep.tuning is None:
        if not sweep.tuned_by:
            return ""
        return f"as {sweep.tuned_by}" + (f"; not complete: {untuned}; the cells below are untuned" if untuned else "")
    from lensbench.sweep.levels import levels_shown
    from lensbench.sweep.tuned import trial_experiment, units

    tuning = sweep.tuning
    every = units(sweep)
    steps = {trial_experiment(sweep, cell, {}, tuning.seeds[0]).training.steps for cell in every.values()}
    of = f"{min(steps):,}" if len(steps) == 1 else f"{min(steps):,} to {max(steps):,}"
    seeds = f" with {len(tuning.seeds)} seeds" if len(tuning.seeds) > 1 else ""
    budget = f"{tuning.trials} trials of {of} steps{seeds} for each of {len(every)} arms and sizes"
    budget += f", at {levels_shown(tuning.at)} alone" if tuning.at else ""
    return f"{budget}; not complete: {untuned}; the cells below are untuned" if untuned else f"{budget}; complete"


def _questions(sweep: Sweep, every: Sequence[Cell]) -> list[tuple[str, str]]:
    """What the report tests, a line each, with how many comparisons are tested together."""
    from lensbench.sweep.design import scored_cells
    from lensbench.sweep.questions import comparisons

    reference = sweep.reference_arm()
    told = [("primary", f"{sweep.primary.label(reference)}; alone at 5 %")] if sweep.primary else []
    for head, late in (("secondary", False), ("post hoc", True)):
        family = [question for question in sweep.questions if question.post_hoc == late]
        told += [("" if n else head, question.label(reference)) for n, question in enumerate(family)]
        if family:
            n = comparisons(family, scored_cells(every), reference)
            words = "each at every scale and wording that it does not name"
            told.append(("", f"{words}: {n:,} in all, tested together with Holm's correction"))
    return told or [("questions", "none: the report describes and tests nothing; name a primary question")]


def _left_out(every: Sequence[Cell]) -> str:
    from lensbench.scoring.measured import left_out

    return left_out(one.experiment for cell in every for one in cell.evaluations)


def _compute(found: Sequence[Planned]) -> str:
    left = [one for one in found if one.state != "complete" and not one.trained]
    most = max(found, key=lambda one: one.flops)
    total = sum(one.flops for one in found)
    if not left:
        return f"{flops(total)} of training, all of it done"
    rest = f", {flops(sum(one.flops for one in left))} of it still to do" if 0 < len(left) < len(found) else ""
    return f"{flops(total)} of training{rest}; the largest cell {flops(most.flops)}"


def _time(
    found: Sequence[Planned],
    lanes: int,
    devices: int,
    on_gpu: bool,
    every: Sequence[Cell],
    paces: dict[tuple[Any, ...], Pace] | None,
) -> str:
    from lensbench.sweep.planning import encoding
    from lensbench.sweep.progress import duration

    left = [one.seconds for one in found if one.state != "complete"]
    if not left:
        return "nothing is left to do"
    if any(seconds is None for seconds in left):
        return "not known: --pilot measures it on this machine"
    known = [seconds for seconds in left if seconds is not None]
    encoded = encoding(every, paces)[1] if paces is not None else 0.0
    total = max((sum(known) + encoded) / lanes, max(known))
    each = "a GPU" if on_gpu else f"{devices} core{'s' if devices > 1 else ''}"
    how = f"about {duration(total)} with {lanes} worker{'s' if lanes > 1 else ''} of {each} each"
    source = "by a pilot of a few steps, alone on the machine" if paces is not None else "by the cells that are done"
    return f"{how}; a cell {duration(min(known))} to {duration(max(known))}; {source}"


def _dollars(found: Sequence[Planned], devices: int, rate: float | None, on_gpu: bool) -> str:
    seconds = [one.seconds for one in found if one.state != "complete"]
    if rate is None:
        return "give the price of a device with --usd-per-hour"
    if any(one is None for one in seconds):
        return "not known without the time"
    hours = devices * sum(one for one in seconds if one is not None) / 3600
    device = "GPU" if on_gpu else "core"
    return f"about ${hours * rate:,.2f}: {hours:,.2f} {device}-hours at ${rate:g} each; captions are not counted"


def _disk(found: Sequence[Planned], lanes: int, every: Sequence[Cell], runs: Path) -> str:
    from lensbench.data.rowstore import free_bytes, shown
    from lensbench.sweep.planning import encoding

    kept = sum(one.kept_bytes for one in found if one.state != "complete")
    training = sum(sorted((one.resume_bytes for one in found if one.state != "complete"), reverse=True)[:lanes])
    features = encoding(every)[0]
    words = f"about {shown(kept)} for checkpoints and pictures, {shown(training)} while training"
    return f"{words}, {shown(features)} for features (encode --dry-run counts them); {shown(free_bytes(runs))} free"


def _detectable(sweep: Sweep, every: Sequence[Cell], variances: Path | None) -> str:
    if variances is None:
        return "give earlier results with --variances RESULTS for the smallest difference that it will find"
    from lensbench.report.freeze import load
    from lensbench.report.grid import arrange
    from lensbench.report.power import smallest
    from lensbench.sweep.design import scored_cells
    from lensbench.sweep.questions import comparisons

    first = every[0].experiment
    seeds = len({cell.levels["seed"] for cell in every})
    prompts = None
    if first.corpus.kind == "shapes":
        from lensbench.scoring.shapes_prompts import prompt_set

        prompts = len(prompt_set(first.evaluation, first.corpus.max_objects))
    reference = sweep.reference_arm()
    secondary = [question for question in sweep.questions if not question.post_hoc]
    tests = comparisons(secondary, scored_cells(every), reference)
    return smallest(arrange(load(variances)), seeds, prompts, str(variances), tests)


def _folded(found: Sequence[Planned]) -> Iterator[Planned]:
    from dataclasses import replace

    groups: dict[tuple[Any, ...], list[Planned]] = {}
    for one in found:
        key = tuple(v for d, v in one.cell.levels.items() if d != "seed")
        groups.setdefault((*key, one.cell.experiment.training.steps), []).append(one)
    for group in groups.values():
        done = sum(one.state == "complete" for one in group)
        yield replace(group[0], state=f"{done} of {len(group)} done" if done else f"{len(group)} to run")


def _list(console: Console, found: Sequence[Planned], folded: bool = False) -> None:
    """A row a cell. What is the same of all stands above, and what has no room is left out rather than cut."""
    factors = [dotted for dotted in found[0].cell.levels if not (folded and dotted == "seed")]
    levels = {_leaf(dotted, factors): [_level(one, dotted) for one in found] for dotted in factors}
    numbers = {head: texts for head, texts in _numbers(found).items() if head not in factors}
    states = {"seeds" if folded else "state": [one.state for one in found]}
    every = levels | numbers | states
    same = {head: texts[0] for head, texts in every.items() if len(set(texts)) == 1} if len(found) > 1 else {}
    words = [_of_all(head, text, head in numbers) for head, text in same.items()]
    _say(console, "every cell", ", ".join(words))
    rows = slice(MOST_ROWS if folded else None)
    shown = {head: texts[rows] for head, texts in every.items() if head not in same}
    if not folded:
        shown = {"cell": [one.cell.id for one in found]} | shown
    left_out, wide = [], console.options.update(width=WIDEST)
    for head in (head for head in LEFT_OUT if head in shown):
        if console.measure(_table(shown, numbers), options=wide).maximum <= console.width:
            break
        left_out.append(head)
        del shown[head]
    if left_out:
        _say(console, "", f"no room for {', '.join(left_out)}: a wider window has them")
    console.print()
    console.print(_table(shown, numbers))


def _of_all(head: str, text: str, counted: bool) -> str:
    """What is the same of all cells, e.g. `600 steps`, `set dose`, `1.60 TFLOP`."""
    if head in ("FLOPs", "state"):
        return text
    return f"{text} {head}" if counted and head != "time" else f"{head} {text}".replace("\n", "")


def _table(columns: dict[str, list[str]], numbers: Container[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, texts in columns.items():
        if head in numbers or head == "cell":
            table.add_column(head, justify="left" if head == "cell" else "right", no_wrap=True)
        else:
            longest = max(len(line) for text in (head, *texts) for line in text.splitlines())
            table.add_column(head, min_width=min(longest, LONGEST_LEVEL), max_width=LONGEST_LEVEL, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _numbers(found: Sequence[Planned]) -> dict[str, list[str]]:
    """Columns of numbers, by their heads, as words."""
    from lensbench.sweep.progress import duration

    out: dict[str, list[str]] = {"parameters": [], "images": [], "steps": [], "seen": [], "FLOPs": []}
    for one in found:
        about = "about " if one.cell.experiment.training.buckets else ""
        out["parameters"].append(f"{one.parameters / 1e6:.2f} M")
        out["images"].append(f"{one.images:,}")
        out["steps"].append(f"{one.cell.experiment.training.steps:,}")
        out["seen"].append(f"{about}{one.samples:,.0f}")
        out["FLOPs"].append(flops(one.flops))
    if any(one.seconds is not None for one in found):
        out["time"] = [duration(one.seconds) for one in found]
    return out


def _level(one: Planned, dotted: str) -> str:
    level = one.cell.levels[dotted]
    if dotted == "images":  # those that there are
        return f"{one.images:,}" if one.images == level else f"{one.images:,} of {level:,}"
    return str(level).replace("+", "+\n")


def _leaf(dotted: str, among: Sequence[str]) -> str:
    leaf = dotted.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == leaf for other in among) == 1
    return (leaf if alone else dotted.replace(".", ".\n")).replace("_", "_\n")


def flops(n: float) -> str:
    """FLOPs for people: 3.73 TFLOP."""
    unit, scale = next(((u, s) for u, s in _UNITS if n >= s), _UNITS[-1])
    shown = n / scale
    return f"{shown:,.{0 if shown >= 100 else 1 if shown >= 10 else 2}f} {unit}"


_UNITS = (("ZFLOP", 1e21), ("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))


def _say(console: Console, head: str, words: str) -> None:
    if not words:
        return
    indent = " " * (HEAD + 2)
    width = max(40, min(console.width, 120))
    lines = textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    lines[0] = f"  {head:<{HEAD}}" + lines[0][len(indent) :]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
