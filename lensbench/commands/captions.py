"""`lensbench captions`: have captions written, and look at those that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.costs import print_estimate, print_outcome, print_pilot, tell
from lensbench.commands.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Caption sets: have them written, list, show and describe them.")

Corpus = Annotated[Path, typer.Argument(metavar="CORPUS", help="A folder made by `lensbench corpus import`.")]
Captioner = Annotated[str, typer.Option(metavar="MODEL", help="The model that writes, as the server names it.")]
PromptName = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="A prompt of the package, or a .toml file of the same form.")
]
BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Any OpenAI-compatible server; OPENAI_BASE_URL, or OpenAI.")
]
Budget = Annotated[
    float | None,
    typer.Option(metavar="DOLLARS", min=0, help="For the whole set, worst cases and all: a hard stop."),
]
PricesFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your own prices, in the form of the package's prices.toml.")
]
MaxOutputTokens = Annotated[
    int | None, typer.Option(min=1, help="Where an answer is cut off; the prompt's if left out.")
]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="Of the sampling.")]
Concurrency = Annotated[int, typer.Option(min=1, max=1000, help="Live requests at a time, at most.")]
Again = Annotated[
    str,
    typer.Option(
        metavar="STATES", help="Ask again where a row is one of these: failed,truncated,refused. Old rows are kept."
    ),
]
ForgetBatch = Annotated[
    str | None,
    typer.Option(metavar="BATCH", help="Give up a batch that is out of reach; its worst case counts as spent."),
]
Timeout = Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For one answer.")]


@app.command("list")
def list_sets(corpus: Corpus) -> None:
    """List the caption sets of a corpus: who made each, how many captions are in each state, what they cost."""
    from rich.console import Console
    from rich.table import Table

    from lensbench.captioner.ledger import unseen_usd
    from lensbench.captions.store import STATES, caption_sets
    from lensbench.commands.meter import dollars
    from lensbench.data.imported import open_images, rows_here
    from lensbench.data.shards import is_imported
    from lensbench.report.terminal import say

    if not corpus.is_dir():
        raise ValueError(f"{corpus}: no such folder; give what lensbench corpus import made")
    broken: list[ValueError] = []
    found = caption_sets(corpus, broken.append)
    for error in broken:
        print(f"lensbench: {plain(str(error))}", file=sys.stderr)
    if not found:
        print(f"no caption sets{' that can be read' if broken else ''} in {corpus}")
        raise typer.Exit(1 if broken else 0)
    table, console = Table(title=f"caption sets of {corpus}", title_justify="left"), Console()
    table.add_column("set", overflow="fold")
    for name in (*STATES, "paid"):
        table.add_column(name, justify="right", no_wrap=True)
    unseen = dict.fromkeys((a_set.name for a_set in found), 0.0)
    for a_set in found:
        try:
            unseen[a_set.name] = unseen_usd(a_set.folder)
        except ValueError as error:
            broken.append(error)
            print(f"lensbench: {plain(str(error))}", file=sys.stderr)
        counts, paid = a_set.counts(), a_set.cost_usd() + unseen[a_set.name]
        table.add_row(a_set.name, *(f"{counts[state]:,}" for state in STATES), dollars(paid) if paid else "")
    console.print(table)
    for name, usd in unseen.items():
        if usd > 0:
            tell(console, f"{name}: of this {dollars(usd)} may have been paid for answers that never came")
    for a_set in found:
        say(console, plain(f"{a_set.name}: made by {' '.join(a_set.maker)}"), indent="  ")
    if is_imported(corpus):
        images = open_images(corpus)
        for a_set in found:
            if foreign := rows_here(images, a_set)[1]:
                tell(console, f"{a_set.name}: {foreign:,} rows are of images that are not in {corpus}")
    if broken:
        raise typer.Exit(1)


@app.command()
def show(
    corpus: Corpus,
    name: Annotated[str, typer.Argument(metavar="SET", help="A caption set: see `lensbench captions list`.")],
    key: Annotated[str, typer.Option(help="The beginning of an image's key; any image if left out.")] = "",
    state: Annotated[str, typer.Option(help="done, refused, truncated or failed; any if left out.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Rows to show, at most.")] = 10,
    history: Annotated[
        bool, typer.Option("--history", help="Show the rows that no longer count: they were asked about again.")
    ] = False,
) -> None:
    """Show captions, and for those that are none why."""
    from rich.console import Console

    from lensbench.captioner.writing import set_folder
    from lensbench.captions.store import STATES, CaptionSet
    from lensbench.report.terminal import say

    if state and state not in STATES:
        raise ValueError(f"--state {state}: choose from {', '.join(STATES)}")
    found = CaptionSet(set_folder(corpus, name))
    console, shown, matching = Console(), 0, 0
    tell(console, f"{found.name}: {' '.join(found.maker)}")
    columns = ["key", "state", "finish_reason", "text"]
    for batch in found.history(columns) if history else found.batches(columns):
        for row in batch.to_pylist():
            if not row["key"].startswith(key) or (state and row["state"] != state):
                continue
            matching += 1
            if shown < limit:
                shown += 1
                why = "" if row["state"] == "done" else f" ({row['finish_reason']})"
                tell(console, f"\n{row['key']}  {row['state']}{why}")
                say(console, plain(row["text"]), indent="  ")
    tell(console, f"\n{shown:,} of {matching:,} rows")


@app.command()
def stats(
    source: Annotated[
        Path, typer.Argument(metavar="CORPUS|SWEEP.py", help="An imported corpus, or a sweep: what its arms read.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME", help="This caption set alone, or in a sweep this one or mixture."),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option("--corpus", help="With a sweep: your folder of images, in place of the sweep's.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every number there, unrounded.")] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw lengths and vocabulary there, as PNG and as PDF.")
    ] = None,
) -> None:
    """Describe captions: lengths, repetition, vocabulary, and on the shapes world what they cover and get wrong."""
    from rich.console import Console

    from lensbench.experiment import Captions, TextEncoder
    from lensbench.report import captions as report
    from lensbench.report.terminal import print_tables

    if source.suffix == ".py":
        from lensbench.commands.sweeps import prepared
        from lensbench.sweep.sweep import cells

        sweep = prepared(source, photos)
        experiments = [cell.experiment for cell in cells(sweep)]
        if names:
            experiments = [sweep.base.replace({"captions": Captions(set=name)}) for name in names]
        found = report.of_experiments(experiments)
    elif photos is not None:
        raise ValueError("--corpus goes with a sweep's file")
    else:
        found = report.of_corpus(source, names or (), TextEncoder())
    console = Console()
    print_tables(console, [report.table(found)])
    if csv is not None:
        report.write_csv(found, csv)
        tell(console, f"every number: {csv}")
    if figure is not None:
        drawn = report.figure(found, figure)
        tell(console, f"figure: {' and '.join(map(str, drawn))}")


@app.command()
def write(
    corpus: Corpus,
    captioner: Captioner = "gpt-4.1",
    prompt: PromptName = "detailed-v1",
    set_name: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="The caption set; captioner and prompt if left out.")
    ] = None,
    base_url: BaseUrl = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="In batches: half the price, within a day. The same command collects.")
    ] = False,
    budget: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print tokens and dollars by the rules; send nothing.")] = (
        False
    ),
    pilot: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Caption N images drawn at random, and extrapolate.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Images of this run, at most.")] = None,
    detail: Annotated[Literal["low", "high", "auto"], typer.Option(help="How closely the model looks.")] = "high",
    max_side: Annotated[
        int, typer.Option(min=32, max=2048, metavar="PX", help="Larger images are scaled down to this side.")
    ] = 512,
    max_output_tokens: MaxOutputTokens = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the sampling, where the server has one, and of the pilot.")
    ] = None,
    temperature: Temperature = 0.0,
    prices: PricesFile = None,
    concurrency_limit: Concurrency = 256,
    timeout: Timeout = 180.0,
    poll: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Between looks at batches.")] = 60.0,
    batch_size: Annotated[int, typer.Option(min=1, max=50_000, help="Images in one batch, at most.")] = 50_000,
    again: Again = "",
    forget_batch: ForgetBatch = None,
) -> None:
    """Have a model caption the images that have no caption yet. The key is read from OPENAI_API_KEY.

    Stop it whenever you like, in any way: what came is kept, and the same command goes on where it stopped.
    """
    from rich.console import Console

    from lensbench.captioner import writing
    from lensbench.captioner.client import Server
    from lensbench.captioner.prices import open_prices
    from lensbench.captioner.prompts import open_prompt
    from lensbench.captioner.requests import Asking
    from lensbench.captions.store import CaptionSet
    from lensbench.commands.meter import shown
    from lensbench.data.imported import open_images, rows_here
    from lensbench.data.pictures import quiet

    asked = open_prompt(prompt)
    asking = Asking(captioner, asked, max_output_tokens or asked.max_output_tokens, temperature, seed, detail, max_side)
    price = open_prices(prices).of(captioner)
    name = set_name or writing.default_name(asking)
    folder = writing.set_folder(corpus, name)
    console = Console()
    images = open_images(corpus)
    if pilot is not None and batch:
        raise ValueError("--pilot asks live, so that its answers come now: leave --batch out")
    states = writing.states_again(again) if again else frozenset()
    run = writing.Run(
        *(Server(base_url, timeout), budget, limit, concurrency_limit, batch, poll, batch_size, states, forget_batch)
    )
    with quiet():
        if dry_run:
            print_estimate(console, writing.dry_run(images, folder, asking, price and price[0], run), asking, price)
            return
        only = None if pilot is None else writing.pilot_keys(images, pilot, seed or 0)
        try:
            with shown(console, "images", price is not None) as display:
                outcome = writing.write(images, folder, asking, price and price[0], run, display, only)
        except writing.WritingStoppedError as stopped:
            raise to_go_on(f"{stopped} in {folder}") from None
        _, foreign = rows_here(images, CaptionSet(folder))
        print_outcome(console, outcome, name, len(images.keys), "images", price, foreign)
        if only is not None:
            print_pilot(console, writing.pilot_result(images, folder, only, price and price[0]), price)
    useless = outcome.tally.rows > 0 and not outcome.tally.states["done"]
    if useless:
        again_in = f"lensbench captions show {corpus} {name}"
        tell(console, f"none of the {outcome.tally.rows:,} new rows is a caption; {again_in} says why")
    if useless or not outcome.complete:
        raise typer.Exit(1)


@app.command()
def rewrite(
    source: Annotated[
        str,
        typer.Argument(
            metavar="geneval|shapes|FILE",
            help="GenEval's 553 prompts, the shapes world's, or a file: .txt with a prompt a line, .jsonl with a "
            '"prompt" a line.',
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file of prompts in both wordings.")],
    captioner: Annotated[
        str, typer.Option(metavar="MODEL|rules", help="The model that rewords, or the rules of the shapes world.")
    ] = "gpt-4.1",
    prompt: PromptName = "rewrite-v1",
    base_url: BaseUrl = None,
    batch: Annotated[bool, typer.Option("--batch", help="In batches: half the price, within a day.")] = False,
    budget: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print tokens and dollars by the rules; send nothing.")] = (
        False
    ),
    max_output_tokens: MaxOutputTokens = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling, or of the shapes world's prompts (1).")] = None,
    temperature: Temperature = 0.0,
    prices: PricesFile = None,
    concurrency_limit: Concurrency = 64,
    timeout: Timeout = 180.0,
    poll: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Between looks at batches.")] = 60.0,
    keep_short: Annotated[
        bool, typer.Option("--keep-short", help="Prompts that the model refuses keep their own wording.")
    ] = False,
    again: Again = "",
    forget_batch: ForgetBatch = None,
) -> None:
    """Reword short evaluation prompts like detailed captions, once: the file is never changed afterwards.

    Stop it whenever you like: answers are kept in OUT.answers, and the same command goes on.
    """
    from rich.console import Console

    from lensbench.captioner import rewriting, writing
    from lensbench.captioner.client import Server
    from lensbench.captioner.prices import open_prices
    from lensbench.captioner.prompts import open_prompt
    from lensbench.captioner.requests import Asking
    from lensbench.commands.meter import shown

    rows, console = _prompt_rows(source, 1 if seed is None else seed), Console()
    rewriting.check_out(out, source)
    if captioner == rewriting.RULES:
        from lensbench.scoring.shapes_prompts import reworded

        prompt_seed = 1 if seed is None else seed
        texts = reworded([row["prompt"] for row in rows], prompt_seed)
        _publish(console, rewriting.ruled_rows(rows, texts, prompt_seed), out)
        return
    asked = open_prompt(prompt)
    asking = Asking(captioner, asked, max_output_tokens or asked.max_output_tokens, temperature, seed, None, None)
    price = open_prices(prices).of(captioner)
    if dry_run:
        from lensbench.captioner.estimate import by_rules_of_texts

        estimate = by_rules_of_texts(asking, price and price[0], [row["prompt"] for row in rows])
        print_estimate(console, estimate, asking, price)
        return
    if out.exists():
        if again:
            raise ValueError(f"--again: {out} is there, and a file of prompts never changes: choose another name")
        _publish(console, rewriting.lines_as_in(rows, out, asking, keep_short), out)
        return
    states = writing.states_again(again) if again else frozenset()
    run = writing.Run(
        *(Server(base_url, timeout), budget, None, concurrency_limit, batch, poll), again=states, forget=forget_batch
    )
    try:
        with shown(console, "prompts", price is not None) as display:
            outcome = rewriting.rewrite(rows, out, asking, price and price[0], run, display)
    except writing.WritingStoppedError as stopped:
        folder = rewriting.answers_folder(out)
        raise to_go_on(f"{stopped} in {folder}") from None
    print_outcome(console, outcome, rewriting.answers_folder(out).name, len(rows), "prompts", price)
    lines, lacking = rewriting.finished_rows(rows, out, keep_short)
    if not outcome.complete or (lacking and not keep_short):
        for text, why in list(lacking.items())[:10]:
            tell(console, f"  {text!r}: {why}")
        hint = "" if not outcome.complete else "; --keep-short leaves them as they are"
        tell(console, f"{out} is not written: {len(lacking):,} prompts have no rewording{hint}")
        raise typer.Exit(1)
    _publish(console, lines, out)


def _prompt_rows(source: str, prompt_seed: int) -> list[dict[str, Any]]:
    if source == "geneval":
        from lensbench.scoring.geneval import official_prompts

        return official_prompts()
    if source == "shapes":
        from lensbench.experiment import Evaluation
        from lensbench.scoring.shapes_prompts import prompt_set

        evaluation = Evaluation(forms=("short",), prompt_seed=prompt_seed)
        return [prompt.row for prompt in prompt_set(evaluation)]
    from lensbench.drawing.prompts import read_prompt_file

    return read_prompt_file(Path(source))


def _publish(console: Console, lines: list[dict[str, Any]], out: Path) -> None:
    from lensbench.captioner.rewriting import digest, publish

    new = publish(lines, out)
    was = "written" if new else "was there already, the same"
    tell(console, f"{out}: {len(lines):,} prompts in both wordings, {was}; digest {digest(lines)[:12]}")
