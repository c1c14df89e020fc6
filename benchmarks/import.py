"""What importing a folder of JPEGs costs: images a second and peak memory, beside `datasets`' own folder loader.

Command: python benchmarks/import.py [--images 2000] [--side 512] [--repeats 3]
Each side reads the same files, which have just been written (so from the page cache), in a fresh process, in turn.

    lensbench        `lensbench corpus import`: hashes every file, decodes every picture once (JPEG at an eighth of its
                     size, which reads all of its data), merges copies, and writes the bytes and a caption each
    datasets         load_dataset("imagefolder", data_dir=...), then .map over the decoded pictures, which takes their
                     size, with as many processes as lensbench has threads, and save_to_disk with the pictures' bytes
    datasets, plain  load_dataset("imagefolder", data_dir=...) and save_to_disk: no picture is decoded or hashed

datasets has the captions too, from its metadata.csv. Its cache is fresh each time. Peak memory is that of the largest
process, as the kernel counts it; `datasets` has as many again beside it while it maps. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lensbench.sweep.provenance import hardware

WAYS = ("lensbench", "datasets", "datasets, plain")


def write(folder: Path, images: int, side: int) -> int:
    """JPEGs with the detail of photographs, more or less, and a caption each for both; their bytes."""
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    lines = ["file_name,text"]
    for i in range(images):
        coarse = random.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.integers(-8, 9, (side, side, 1), dtype=np.int16)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{i:06d}.jpg", quality=90)
        (folder / f"{i:06d}.alt.txt").write_text(f"picture {i}")
        lines.append(f"{i:06d}.jpg,picture {i}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return sum(path.stat().st_size for path in folder.glob("*.jpg"))


def ours(source: Path, out: Path, workers: int) -> int:
    """As `lensbench corpus import` does."""
    from lensbench.data.importing import Asked, import_corpus

    what = Asked(str(source), "folder")
    images = import_corpus(what, out, workers=workers, report=lambda done, total: None)["images"]
    assert isinstance(images, int)
    return images


def theirs(source: Path, out: Path, workers: int, decode: bool) -> int:
    """With the datasets package."""
    import datasets

    datasets.disable_progress_bars()
    data = datasets.load_dataset("imagefolder", data_dir=str(source), split="train", cache_dir=str(out / "cache"))
    if decode:
        data = data.map(lambda row: {"size": list(row["image"].size)}, num_proc=workers)
    data.save_to_disk(out / "saved")
    return len(data)


def measure(way: str, source: Path, out: Path, workers: int) -> dict[str, float]:
    """Import in this process."""
    began = time.perf_counter()
    images = ours(source, out, workers) if way == WAYS[0] else theirs(source, out, workers, way == WAYS[1])
    seconds = time.perf_counter() - began
    peak, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"images": images, "rate": images / seconds, "peak": max(peak, children) / 1024, "seconds": seconds}


def main() -> None:
    """Print each side's rate and peak, medians of the repeats, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads, or processes")
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        way, source, out = given.measure
        print(json.dumps(measure(way, Path(source), Path(out), given.workers)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "photos"
        size = write(source, given.images, given.side)
        print(f"{hardware()}; {given.images:,} JPEGs of {given.side} px, {size / 1e6:,.0f} MB, {given.workers} workers")
        for repeat in range(given.repeats):
            for way in WAYS:
                with tempfile.TemporaryDirectory(dir=name) as out:
                    arguments = ["--measure", way, str(source), out, "--workers", str(given.workers)]
                    done = subprocess.run(
                        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
                    )
                result = json.loads(done.stdout.splitlines()[-1])
                assert result["images"] == given.images, (repeat, result)
                found[way].append(result)
    median = {
        way: {what: statistics.median(run[what] for run in runs) for what in ("rate", "peak", "seconds")}
        for way, runs in found.items()
    }
    for way, runs in found.items():
        rates = [run["rate"] for run in runs]
        print(
            f"{way:16} {median[way]['rate']:7,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f}), "
            f"peak {median[way]['peak']:6,.0f} MiB"
        )
    for way in WAYS[1:]:
        rate = median[WAYS[0]]["rate"] / median[way]["rate"]
        peak = median[WAYS[0]]["peak"] / median[way]["peak"]
        print(f"lensbench / {way}: images/s {rate:.2f}, peak memory {peak:.2f}")


if __name__ == "__main__":
    main()
