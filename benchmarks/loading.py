"""What loading costs: peak memory, against the size of the file, and seconds, beside the plain way.

Command: python benchmarks/loading.py [--depth 24] [--shard-bytes 10000000000] [--alone]
The plain way builds the model, maps the file and copies. The aim is a peak below 1.2 times the file.
Each way runs in a fresh process. The peak is the kernel's VmHWM, which counts mapped pages of files as well as the
process's own memory, less what the process held after loading a model of one block, which imports what loading needs
(the whole process's peak is printed beside it). The page cache is no process's memory and does not count. The file has
just been written, so it is read from that cache. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lensbench.model import checkpoint
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.sweep.provenance import hardware

GB = 1e9
SMALL = "small"  # the folder of a model of one block


def write(folder: Path, depth: int, shard_bytes: int) -> int:
    """A bfloat16 checkpoint, each of whose tensors is filled with its own number; the size of its weights in bytes."""
    with torch.device("meta"):
        model = LensTransformer(lens(depth)).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            parameter.fill_(n % 251)
    checkpoint.save(model, folder, shard_bytes)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def ours(folder: Path) -> LensTransformer:
    """As lensbench loads."""
    return checkpoint.load(folder)


def plain(folder: Path) -> LensTransformer:
    """Build, map, copy."""
    from safetensors.torch import load_file

    values = json.loads((folder / checkpoint.CONFIG).read_text())
    torch.set_default_dtype(torch.bfloat16)
    model = LensTransformer(LensConfig.from_dict(values))
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors.update(load_file(path))
    model.load_state_dict(tensors, strict=True)
    return model


def status(field: str) -> int:
    """A field of this process's memory, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def measure(way: str, folder: Path) -> dict[str, float]:
    """Load in this process, which has loaded nothing but the small model in `folder / SMALL`."""
    load = {"lensbench": ours, "plain": plain}[way]
    load(folder / SMALL)
    before = status("VmRSS")
    began = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - began
    whole = status("VmHWM")
    found = {"peak": whole - before, "whole": whole, "seconds": seconds}
    for n, parameter in enumerate(model.parameters()):
        assert bool((parameter == n % 251).all()), "the weights are not those that were written"
    return found


def main() -> None:
    """Print both ways' peaks and seconds, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=24, help="blocks; 48 is Lens, 4.1B (default: 24, 0.5B)")
    parser.add_argument("--shard-bytes", type=int, default=checkpoint.SHARD_BYTES, help="largest file (default: 10 GB)")
    parser.add_argument("--alone", action="store_true", help="leave the plain way out, which needs more memory")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], Path(given.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / SMALL, 1, given.shard_bytes)
        size = write(Path(name), given.depth, given.shard_bytes)
        files = len(list(Path(name).glob("*.safetensors")))
        print(f"{hardware()}, depth {given.depth}, bfloat16, {size / GB:.3f} GB in {files} file(s)")
        found = {}
        for way in ("lensbench",) if given.alone else ("lensbench", "plain"):
            command = [sys.executable, __file__, "--measure", way, name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way] = json.loads(done.stdout)
            peak, whole, seconds = (found[way][what] for what in ("peak", "whole", "seconds"))
            print(
                f"{way:10} peak {peak / GB:7.3f} GB = {peak / size:.3f} x the file "
                f"(whole process {whole / GB:.3f} GB = {whole / size:.3f} x), {seconds:.2f} s"
            )
        if not given.alone:
            for what in ("peak", "seconds"):
                print(f"{what}, lensbench / plain: {found['lensbench'][what] / found['plain'][what]:.2f}")


if __name__ == "__main__":
    main()
