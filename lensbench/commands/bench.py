"""`lensbench bench`: what a caption set is worth, on a ladder of frozen scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lensbench.commands.again import to_go_on

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.ladder.bench import Entry
    from lensbench.ladder.card import Card
    from lensbench.sweep.sweep import Sweep


class _CaptionsFirst(TyperGroup):
    """A group whose first word may be a caption set in place of a command: `bench CAPTIONS` is `bench run CAPTIONS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_CaptionsFirst,
    no_args_is_help=True,
    help="What a caption set is worth: bench CAPTIONS trains on it at a frozen scale and writes a score card.",
)
Ladder = Annotated[Path, typer.Option(metavar="FILE.py", help="Where the scales are.")]
Corpus = Annotated[Path | None, typer.Option(help="The images of a scale of photographs: what `corpus import` made.")]
Template = Annotated[
    str | None, typer.Option(help="How a structured caption becomes text, as in 'a {size} {color} {shape}'.")
]
Limit = Annotated[
    int | None, typer.Option("--limit-captions-per-image", min=1, help="The first so many captions of an image alone.")
]
Shuffled = Annotated[bool, typer.Option("--shuffled", help="The control: the captions on other images.")]
Runs = Annotated[Path, typer.Option(help="Directory of the runs.")]
LADDER = Path("experiments/ladder.py")
CARDS = Path("results/ladder")


@app.command()
def run(
    captions: Annotated[
        str,
        typer.Argument(
            help='A .jsonl, .parquet or .csv with "key" and "text", a folder of `lensbench captions`, or a set of the '
            "scale's own corpus: alt, brief, detailed, 0.5*detailed+0.5*alt."
        ),
    ],
    scale: Annotated[str, typer.Option(help="smoke, small, medium, large or paper.")] = "smoke",
    name: Annotated[str | None, typer.Option(help="Of the card; the file's or the set's if left out.")] = None,
    template: Template = None,
    limit: Limit = None,
    shuffled: Shuffled = False,
    check_only: Annotated[bool, typer.Option("--check", help="Check the captions and train nothing.")] = False,
    corpus: Corpus = None,
    ladder: Ladder = LADDER,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option(help="The card goes to OUT/<scale>/<name>.json and .html.")] = CARDS,
    workers: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one a GPU or core.")] = 0,
) -> None:
    """Check a caption set, train on it, score it, and write its score card.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    console = Console()
    entry = _enter(captions, scale, name, template, limit, shuffled, corpus, ladder)
    _tell_checks(console, entry)
    if check_only:
        return
    from lensbench.ladder import bench
    from lensbench.ladder.board import table
    from lensbench.ladder.card import read, write
    from lensbench.ladder.page import page
    from lensbench.ladder.scale import REFERENCE
    from lensbench.publishing import publish_text
    from lensbench.sweep.processes import default_workers
    from lensbench.sweep.session import StoppedError

    folder = out / scale
    folder.mkdir(parents=True, exist_ok=True)
    reference = folder / f"{REFERENCE}.json"
    known = read(reference) if reference.is_file() and entry.name != REFERENCE else None
    try:
        processes = workers or default_workers(len(entry.scale.seeds))
        card = bench.run(entry, runs, console=console, workers=processes, reference=known)
    except StoppedError as stopped:
        raise to_go_on(f"{stopped} in {runs}", stopped.exit_code) from None
    path = write(card, folder / f"{entry.name}.json")
    together = [known, card] if known else [card]
    page_path = publish_text(path.with_suffix(".html"), page(together, table(together)))
    _show(console, together)
    console.print(f"card: {path} ({card.hash[:12]}), {page_path}", highlight=False, soft_wrap=True)
    if known is None and entry.name != REFERENCE:
        console.print(
            f"no multiplier: {reference} is not there; lensbench bench {REFERENCE} --scale {scale}, then again"
        )


@app.command()
def compare(
    cards: Annotated[list[Path], typer.Argument(help="Cards; the first is what the others are compared with.")],
) -> None:
    """Compare cards: scores, paired differences, Holm's correction."""
    from rich.console import Console

    from lensbench.ladder.card import read

    if len(cards) < 2:
        raise ValueError("give two cards or more")
    _show(Console(), [read(path) for path in cards])


@app.command()
def board(
    folder: Annotated[Path, typer.Argument(help="A folder of cards of one scale.")] = CARDS / "smoke",
) -> None:
    """Write the leaderboard of a folder of cards: board.md and board.html."""
    from rich.console import Console

    from lensbench.ladder.board import ranked, table
    from lensbench.ladder.card import read
    from lensbench.ladder.page import page
    from lensbench.publishing import publish_text
    from lensbench.report import render

    found = ranked([read(path) for path in folder.glob("*.json")])
    if not found:
        raise ValueError(f"{folder}: no cards")
    made = table(found)
    publish_text(folder / "board.md", render.to_markdown(made))
    publish_text(folder / "board.html", page(found, made))
    _show(Console(), found)
    print(f"{folder / 'board.md'}, {folder / 'board.html'}")


@app.command()
def verify(
    card: Annotated[Path, typer.Argument(help="The card to check.")],
    captions: Annotated[
        str | None, typer.Argument(help="Its captions, where they are a file; the set's name is in the card.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed to run again; the first if left out.")] = None,
    corpus: Corpus = None,
    ladder: Ladder = LADDER,
    runs: Annotated[Path | None, typer.Option(help="Where to run it; a folder of its own if left out.")] = None,
) -> None:
    """Run one seed of a card again and compare every judged picture."""
    import tempfile

    from rich.console import Console

    from lensbench.ladder import bench
    from lensbench.ladder.card import read

    told = read(card)
    chosen = told.seeds[0] if seed is None else seed
    if chosen not in told.seeds:
        raise ValueError(f"--seed {chosen}: the card has {', '.join(map(str, told.seeds))}")
    policy = told.captions
    if captions is None and policy["given_digest"] is not None:
        raise ValueError(f"{card}: its captions were a file: give it after the card")
    entry = _enter(
        captions or policy["set"],
        told.scale,
        told.name,
        policy["template"],
        policy["limit_per_image"],
        policy["shuffled"],
        corpus,
        ladder,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = bench.verify(told, entry, chosen, runs or Path(folder), console=Console())
    said = f"seed {chosen}: {found.equal:,} of {found.outcomes:,} judged pictures have the card's verdict"
    if found.equal == found.outcomes:
        print(f"verified: {said}")
        return
    if found.same_hardware:
        print(f"not verified: {said}, on the same kind of machine, where all should")
        raise typer.Exit(1)
    print(f"{said}; this is another kind of machine than the card's, where the last digits differ")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the images go, named by their keys.")],
    scale: Annotated[str, typer.Option(help="smoke or small.")] = "smoke",
    ladder: Ladder = LADDER,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many alone, for a look.")] = None,
    side: Annotated[
        int, typer.Option(min=16, max=2048, help="Pixels: larger than they are trained on, to be captioned.")
    ] = 256,
) -> None:
    """Write the images of a scale of the shapes world, so that a captioner can caption them."""
    from PIL import Image

    from lensbench.data.buckets import Size
    from lensbench.data.corpus import ShapesWorld, open_corpus
    from lensbench.ladder.scale import load_scale

    experiment = load_scale(scale, ladder).experiment
    if experiment.corpus.kind != "shapes":
        raise ValueError(f"--scale {scale} is of photographs: caption your own corpus")
    world = open_corpus(experiment.corpus, experiment.images, experiment.images_seed)
    assert isinstance(world, ShapesWorld)
    keys = world.train_keys[:images]
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()}
    if others := sorted(there - {f"{key}.png" for key in world.train_keys}):
        raise ValueError(f"{folder} holds {others[0]}, which is no image of {scale}: give a folder of its own")
    for start in range(0, len(keys), 256):
        some = keys[start : start + 256]
        for key, pixels in zip(some, world.images(some, Size(side, side)), strict=True):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{key}.png")
    stay = len(there - {f"{key}.png" for key in keys})
    beside = f" beside {stay:,} that were there" if stay else ""
    print(
        f'{len(keys):,} images in {folder}{beside}; caption them into a .jsonl of {{"key": "{keys[0]}", "text": "..."}}'
    )


def _enter(
    captions: str,
    scale: str,
    name: str | None,
    template: str | None,
    limit: int | None,
    shuffled: bool,
    corpus: Path | None,
    ladder: Path,
) -> Entry:
    from lensbench.commands.sweeps import with_corpus
    from lensbench.ladder.bench import enter
    from lensbench.ladder.scale import load_scale
    from lensbench.sweep.quiet import quiet

    quiet()

    def opened(sweep: Sweep) -> Sweep:
        return with_corpus(sweep, ladder, corpus)

    rung = load_scale(scale, ladder)
    if rung.experiment.corpus.kind == "folder" and corpus is None:
        raise ValueError(f"--scale {scale} is of photographs: give --corpus, what `lensbench corpus import` made")
    return enter(rung, captions, name, template=template, limit=limit, shuffled=shuffled, with_corpus=opened)


def _tell_checks(console: Console, entry: Entry) -> None:
    from lensbench.report.terminal import say

    found = entry.checks
    states = ", ".join(f"{count:,} {state}" for state, count in found.states.items())
    say(console, f"{entry.name}: {found.images:,} images, {found.texts:,} captions ({states}), all images captioned")
    say(
        console,
        f"words {found.words_mean:.1f} on average, {found.words_longest} at most; {100 * found.truncated:.1f} % cut by "
        f"the text encoder; {100 * found.identical:.1f} % identical to another; {100 * found.english:.0f} % look "
        "English",
    )
    say(
        console,
        f"evaluation prompts: {100 * found.prompts_verbatim:.1f} % stand in a caption word for word, "
        f"{100 * found.prompts_with_shared_grams:.1f} % share eight words in a row with one",
    )


def _show(console: Console, cards: list[Card]) -> None:
    from lensbench.ladder.board import table
    from lensbench.report.terminal import print_tables

    print_tables(console, [table(cards)])
