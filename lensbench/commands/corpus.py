"""`lensbench corpus`: images from anywhere into a corpus on disk, and what is in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.counting import counting
from lensbench.commands.plain import plain

if TYPE_CHECKING:
    from rich.table import Table

    from lensbench.data.checking import Contents

MOST_DOUBTS = 50  # that are shown

app = typer.Typer(no_args_is_help=True, help="Import images with their captions, and check what is there.")


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures with captions beside them, WebDataset tars (a folder, a file, a pattern), "
            "Parquet, or a Hugging Face dataset (a saved folder, or owner/name)."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder for the corpus.")],
    format_: Annotated[
        Literal["folder", "webdataset", "parquet", "datasets"] | None,
        typer.Option("--format", help="What SOURCE is; guessed if left out."),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(metavar="C", help="Column of the pictures; in a tar, their extension.")
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[=SET]", help="A text column and the caption set it becomes. As often as there are sets."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="S", help="Split to import, all for every one; train where there are several."),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Every line of a text is a caption of its own.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 when captions may be missing: the lines on stderr say which.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode; 0: one a core.")] = 0,
) -> None:
    """Import images and their captions into a corpus, every image under the sha256 of its bytes.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    from lensbench.data.importing import Asked, finished, import_corpus, known_format
    from lensbench.data.shards import read_manifest

    console = Console(highlight=False)
    kind = format_ or known_format(source, out)
    what = Asked(source, kind, image_column, tuple(caption or ()), split, lines)
    if finished(what, out):
        console.print(f"{out}: this import is finished; nothing to do", markup=False, soft_wrap=True)
        manifest = read_manifest(out)
    else:
        if format_ is None:
            console.print(f"{source}: taken for {_KINDS[kind]} (--format {kind})", markup=False, soft_wrap=True)
        try:
            with counting(console, "importing") as report:
                manifest = import_corpus(what, out, workers=workers or len(os.sched_getaffinity(0)), report=report)
        except KeyboardInterrupt:
            raise to_go_on(f"stopped; what is in {out} stays") from None
    for line in _summary(manifest, out):
        console.print(plain(line), markup=False, soft_wrap=True)
    loud = [said for said, is_loud in manifest.get("notes", ()) if is_loud]
    for said in loud:
        print(plain(f"lensbench: {out}: {said}"), file=sys.stderr)
    if strict and loud:
        raise typer.Exit(2)


@app.command()
def check(
    corpus: Annotated[Path, typer.Argument(help="An imported corpus.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every image, compare it with its key, and decode it.")
    ] = False,
) -> None:
    """Print what an imported corpus holds: images, what was set aside or converted, sizes, captions."""
    from rich.console import Console

    from lensbench.data.checking import contents, damage
    from lensbench.data.doubts import doubts

    console = Console(highlight=False)
    if verify:
        with counting(console, "verifying") as report:
            wrong = list(damage(corpus, _adding(report)))
        for line in wrong:
            print(f"lensbench: {line}", file=sys.stderr)
        if wrong:
            raise typer.Exit(1)
        with counting(console, "decoding") as report:
            doubtful = list(doubts(corpus, _adding(report)))
    there = contents(corpus)
    for table in _tables(there, console.width):
        console.print(table)
    for said, _ in there.manifest.get("notes", ()):
        console.print(plain(said), markup=False, soft_wrap=True)
    if verify:
        console.print("every image has the bytes of its key")
        for found in doubtful[:MOST_DOUBTS]:
            line = plain(f"look at {found.key[:12]} ({found.source}): {found.why}")
            console.print(line, markup=False, soft_wrap=True)
        more = f", {len(doubtful) - MOST_DOUBTS:,} of them not shown" if len(doubtful) > MOST_DOUBTS else ""
        console.print(f"images that decode and may be damaged: {len(doubtful):,}{more}")
    for line in there.broken:
        print(f"lensbench: {plain(line)}", file=sys.stderr)
    if there.broken:
        raise typer.Exit(1)


def _adding(report: Callable[[int, int | None], None]) -> Callable[[int], None]:
    """A report of how many were done since the last call, of one that wants how many are done."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(done, None)

    return count


_KINDS = {
    "folder": "a folder of pictures with captions beside them",
    "webdataset": "WebDataset tars",
    "parquet": "Parquet",
    "datasets": "a Hugging Face dataset",
}


def _summary(manifest: dict[str, Any], out: Path) -> Iterator[str]:
    aside, merged = manifest["set_aside"], manifest["merged"]
    yield (
        f"{out}: {manifest['images']:,} images, {_bytes(manifest['bytes'])}; {merged:,} "
        f"{'copy' if merged == 1 else 'copies'} merged, {aside:,} set aside"
    )
    from lensbench.captions.store import caption_sets
    from lensbench.data.checking import set_aside

    counts = [f"{found.name} {found.counts()['done']:,}" for found in caption_sets(out)]
    yield f"captions by set, of {manifest['images']:,} images: {', '.join(counts) or 'none'}"
    for row in set_aside(out):
        yield f"set aside ({row.what}): {row.times:,}, as {row.examples[0]}: {row.reason}"
    yield from (said for said, is_loud in manifest.get("notes", ()) if not is_loud)
    yield f"what is in it: lensbench corpus check {out}"


def _bytes(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def _tables(found: Contents, width: int) -> Iterator[Table]:
    from lensbench.data.pictures import RULES

    manifest = found.manifest
    images = manifest["images"]
    counts = _table("images", ("", False), ("", True), show_header=False)
    for name, shown in (
        ("images", f"{images:,}"),
        ("their bytes", _bytes(manifest["bytes"])),
        ("copies merged", f"{manifest['merged']:,}"),
        ("further captions that differ", f"{manifest['differing_captions']:,}"),
        ("images set aside", f"{manifest['set_aside']:,}"),
        *((f"format {name}", f"{n:,}") for name, n in found.formats.items()),
    ):
        counts.add_row(name, shown)
    yield counts

    sizes = _table("sizes in pixels", ("side", False), ("smallest", True), ("median", True), ("largest", True))
    for name, side in (("shorter", found.shorter), ("longer", found.longer)):
        sizes.add_row(name, *(f"{pixels:,}" for pixels in side))
    yield sizes

    if found.rules:
        rules = _table("converted when read", ("rule", False), ("images", True))
        for name, n in found.rules.items():
            rules.add_row(RULES[name], f"{n:,}")
        yield rules
    if found.set_aside:
        aside = _table("set aside", ("what", False), ("why", False), ("count", True), ("for example", False))
        for row in found.set_aside:
            aside.add_row(row.what, plain(row.reason), f"{row.times:,}", plain("\n".join(row.examples)))
        yield aside
    captions = _table(
        "captions", ("set", False), ("done", True), ("of images", True), ("else", False), ("made by", False)
    )
    for item in found.captions:
        done = item.states["done"]
        others = [f"{n:,} {state}" for state, n in item.states.items() if n and state != "done"]
        if item.foreign:
            others.append(f"{item.foreign:,} of images that are not here")
        captions.add_row(item.name, f"{done:,}", f"{100 * done / images:.1f} %", ", ".join(others), plain(item.made_by))
    if not found.captions:
        captions.add_row("none", "", "", "", "")
    yield captions


def _table(title: str, *columns: tuple[str, bool], show_header: bool = True) -> Table:
    """A table whose columns are given as head and whether they hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=show_header)
    for head, number in columns:
        table.add_column(head, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return table
