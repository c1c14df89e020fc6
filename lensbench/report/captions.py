"""What the captions are: one table and one figure of caption sets, or of what the arms of a sweep are trained on."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.captions.cutting import text_window, token_offsets
from lensbench.captions.policy import drawn_sets, label
from lensbench.captions.quality import SEGMENT, CaptionStatistics, describe
from lensbench.captions.store import CaptionSet, caption_sets
from lensbench.captions.texts import training_texts
from lensbench.data.corpus import ShapesWorld, open_corpus
from lensbench.experiment import Captions, Experiment, TextEncoder
from lensbench.report.levels import SET_NAMES
from lensbench.report.table import DASH, Cell, Column, Row, Table, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENCODERS = {"minilm": "MiniLM", "qwen3": "Qwen3", "gpt_oss": "GPT-OSS"}
VOCABULARY_AT = (1000, 10_000)  # words, in the table; the figure has the whole curve
LEGEND = 105  # letters in a line of the legend, a line sample counted as eight
DASHES = ("-", "--", ":")
BINS = 60  # of a histogram, at most
BEYOND = 0.002  # the share of a set's captions that its histogram may leave out on the right
ON_A_PAGE = (
    *("words.mean", "words.5 %", "words.95 %", "tokens.mean", "tokens.cut %", "texts.unique %"),
    *("distinct words in.TTR", "words of a list, per 100.spatial", "scene graph.covered %", "scene graph.false %"),
)


@dataclass(frozen=True)
class CaptionReport:
    """Statistics by name, and in words whose they are."""

    about: str
    encoder: TextEncoder
    found: Mapping[str, CaptionStatistics]


def of_corpus(folder: Path, names: Sequence[str], encoder: TextEncoder) -> CaptionReport:
    """The caption sets of an imported corpus, those of `names` if given: every caption that is done.

    Raises ValueError for a set that is not there or holds no caption, and when there is no set at all.
    """
    there = {found.name: found for found in caption_sets(folder)}
    if not there:
        raise ValueError(f"no caption sets in {folder}: it is no folder that lensbench corpus import made, or has none")
    if absent := [name for name in names if name not in there]:
        raise ValueError(f"no caption set {absent[0]!r} in {folder}: there are {', '.join(there)}")
    offsets, window = token_offsets(encoder), text_window(encoder)
    found = {}
    for name in names or there:
        if there[name].counts()["done"]:
            found[name] = describe(_done(there[name]), offsets, window)
        elif name in names:
            raise ValueError(f"caption set {name!r} in {folder} has no caption yet")
    if not found:
        raise ValueError(f"no caption set in {folder} has a caption yet")
    return CaptionReport("every caption of each set", encoder, found)


def _done(found: CaptionSet) -> Iterator[tuple[str, str]]:
    for batch in found.batches(["key", "text", "state"]):
        for key, text, state in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if state == "done":
                yield key, text


def of_experiments(experiments: Iterable[Experiment]) -> CaptionReport:
    """What each arm is trained on, at the most images that one has: one row a policy, dropout aside.

    A mixture's are one draw for each image. Raises ValueError as `open_corpus` and `training_texts` do.
    """
    largest = max(experiments, key=lambda e: e.images)  # the first of them
    policies: dict[Captions, None] = {e.captions.model_copy(update={"dropout": 0.0}): None for e in experiments}
    corpus = open_corpus(largest.corpus, largest.images, largest.images_seed)
    keys, encoder = corpus.train_keys, largest.text_encoder
    offsets, window = token_offsets(encoder), text_window(encoder)
    scene = corpus.scene if isinstance(corpus, ShapesWorld) else None
    found = {}
    for policy in policies:
        texts = list(training_texts(corpus, policy, keys, encoder).values())
        drawn = drawn_sets(policy, 0, 0, len(keys))
        rows = ((key, texts[place][i]) for i, (key, place) in enumerate(zip(keys, drawn.tolist(), strict=True)))
        found[label(policy, SET_NAMES)] = describe(rows, offsets, window, scene)
    mixed = " A mixture: one draw for each." if any(len(policy.shares) > 1 for policy in policies) else ""
    return CaptionReport(f"The training captions of {len(keys):,} images.{mixed}", encoder, found)


def table(report: CaptionReport) -> Table:
    """One row a caption set or arm."""
    scenes = any(found.accuracy is not None for found in report.found.values())
    rows = [Row((Cell(name, name), *_cells(found, scenes))) for name, found in report.found.items()]
    sampled = max(found.sampled for found in report.found.values())
    partly = any(found.sampled < found.captions for found in report.found.values())
    some = f"all but words and repetition on {sampled:,} captions, the same images in every set. " if partly else ""
    window = next(iter(report.found.values())).window
    notes = (
        f"{report.about} {some[:1].upper()}{some[1:]}".strip(),
        f"Tokens: {ENCODERS[report.encoder.kind]}'s, of the text alone; cut: more than the {window} that fit its "
        "window. 5 % and 95 %: the lengths that this share of the captions do not exceed.",
        "unique: no other image has the text; repeated: an earlier image has it. "
        f"TTR: distinct words in {SEGMENT:,}, mean over stretches of that many in a random order of the captions.",
        "Numerals, color words (Berlin and Kay's eleven) and spatial words are those of closed lists; nouns, "
        "adjectives and concreteness are not measured.",
        "Against the scene graph, read from the words: covered, said truly of what a full caption says; false, of what "
        "is said."
        if scenes
        else "",
    )
    return Table("captions", "The captions", _columns(scenes), tuple(rows), tuple(note for note in notes if note))


def for_page(whole: Table) -> Table:
    """The columns of `table` that fit across a page of paper; the others are in the Markdown and the CSV."""
    places = [i for i, column in enumerate(whole.columns) if column.label or column.name in ON_A_PAGE]
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in places)) for row in whole.rows)
    return replace(whole, columns=tuple(whole.columns[i] for i in places), rows=rows)


def _columns(scenes: bool) -> tuple[Column, ...]:
    lengths = (("mean", "mean"), ("median", "med."), ("5 %", "5 %"), ("95 %", "95 %"), ("max", "max"))
    named = [
        *(("words", *heads) for heads in lengths),
        *(("tokens", *heads) for heads in lengths),
        ("tokens", "cut %", "cut %"),
        ("texts", "captions", "captions"),
        ("texts", "unique %", "uniq. %"),
        ("texts", "repeated %", "rep. %"),
        *(("distinct words in", f"{words:,}", f"{words:,}") for words in VOCABULARY_AT),
        ("distinct words in", "TTR", "TTR"),
        *(("words of a list, per 100", head, head) for head in ("numerals", "colors", "spatial")),
    ]
    if scenes:
        named += [("scene graph", "covered %", "cover. %"), ("scene graph", "false %", "false %")]
    columns = [Column(f"{group}.{head}", head, short, group) for group, head, short in named]
    return (Column("captions", "captions", "captions", label=True), *columns)


def _cells(found: CaptionStatistics, scenes: bool) -> list[Cell]:
    cells = []
    for lengths in (found.words, found.tokens):
        cells.append(_number(lengths.mean))
        cells += [_count(lengths.quantile(share)) for share in (0.5, 0.05, 0.95)]
        cells.append(_count(lengths.longest))
    cells += [_percent(found.cut), _count(found.captions), _percent(found.unique / found.captions)]
    cells += [_percent(found.duplicates), *(_count(found.vocabulary_at(words)) for words in VOCABULARY_AT)]
    cells += [_number(found.type_token_ratio, 3), *(_number(per_100) for per_100 in found.word_lists.values())]
    if scenes:
        said = found.accuracy
        cells.append(_percent((said.said - said.false) / said.there) if said else Cell(DASH))
        cells.append(_percent(said.false / said.said) if said and said.said else Cell(DASH))
    return cells


def _number(value: float, digits: int = 1) -> Cell:
    return Cell(DASH) if isnan(value) else Cell(number(value, digits), value)


def _count(value: int | None) -> Cell:
    return Cell(DASH) if value is None else Cell(f"{value:,}", float(value))


def _percent(share: float) -> Cell:
    return Cell(number(100 * share), share)


def figure(report: CaptionReport, path: Path, colors: Mapping[str, str] | None = None) -> list[Path]:
    """Lengths in words and the growth of the vocabulary, as `path` with .png and .pdf in place of its suffix.

    `colors` are those that other figures give to the same captions, where there are any.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    from lensbench.report.figures import STYLE, palette, save

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(6.7, 2.9), layout="constrained")
        lengths, vocabulary = drawn.subplots(1, 2)
        own = dict(zip(report.found, palette(len(report.found)), strict=True)) | dict(colors or {})
        # Dashes, because what lies below a line of the same course would not be seen.
        looks: dict[str, dict[str, Any]] = {
            name: {"color": own[name], "linestyle": DASHES[i % 3]} for i, name in enumerate(report.found)
        }
        _lengths(lengths, report.found, looks)
        for name, found in report.found.items():
            x, y = ([point[i] for point in found.vocabulary] for i in (0, 1))
            vocabulary.plot(x, y, **looks[name], marker=".", markersize=4, linewidth=1.4)
        for axis, set_scale in ((vocabulary.xaxis, vocabulary.set_xscale), (vocabulary.yaxis, vocabulary.set_yscale)):
            set_scale("log")
            low, high = axis.get_view_interval()
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter("{x:,.0f}" if high < 10 * low else "")
        vocabulary.set_xlabel("words read")
        vocabulary.set_ylabel("distinct words")
        handles = [mpl.lines.Line2D([], [], **looks[name], linewidth=1.5, label=name) for name in report.found]
        columns = max(1, min(len(handles), LEGEND // (max(map(len, report.found)) + 8)))
        drawn.legend(handles=handles, loc="outside upper center", ncols=columns)
        return save(drawn, path.with_suffix(""))


def _lengths(axes: Axes, every: Mapping[str, CaptionStatistics], looks: Mapping[str, dict[str, Any]]) -> None:
    longest = max(found.words.quantile(1 - BEYOND) for found in every.values())
    width = -(-(longest + 1) // BINS)
    for name, found in every.items():
        counts = found.words.counts[: longest + 1]
        shares = [100 * counts[start : start + width].sum() / found.captions for start in range(0, longest + 1, width)]
        edges = [width * i - 0.5 for i in range(len(shares) + 1)]
        axes.stairs(shares, edges, **looks[name], linewidth=1.4)
        axes.stairs(shares, edges, color=looks[name]["color"], fill=True, alpha=0.12)
    axes.set_xlabel("words a caption")
    axes.set_ylabel("captions (%)" if width == 1 else f"captions (%), in bins of {width} words")
    axes.set_xlim(-0.5, edges[-1] + 0.02 * longest)
    axes.set_ylim(bottom=0)


def write_csv(report: CaptionReport, path: Path) -> None:
    """Every number, unrounded, one a line: captions, statistic, at, value; `at` is a length or a number of words."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["captions", "statistic", "at", "value"])
        for name, found in report.found.items():
            writer.writerows((name, *line) for line in _lines(found))


def _lines(found: CaptionStatistics) -> Iterator[tuple[str, object, object]]:
    simple = ("captions", "distinct", "unique", "sampled", "window", "cut", "type_token_ratio")
    yield from ((name, "", getattr(found, name)) for name in simple)
    for unit, lengths in (("words", found.words), ("tokens", found.tokens)):
        yield f"{unit}.mean", "", lengths.mean
        yield from ((f"{unit}.quantile", share, lengths.quantile(share)) for share in (0.05, 0.5, 0.95, 1.0))
        yield from ((f"{unit}.captions", n, int(count)) for n, count in enumerate(lengths.counts) if count)
    yield from (("vocabulary", words, distinct) for words, distinct in found.vocabulary)
    yield from ((f"{name}_per_100_words", "", value) for name, value in found.word_lists.items())
    if found.accuracy is not None:
        yield from ((f"scene.{name}", "", value) for name, value in found.accuracy._asdict().items())
