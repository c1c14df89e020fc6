"""How much of a server's quota live captioning uses, and in how much memory.

Command: python benchmarks/captioning.py [--images 10000] [--rpm 5000] [--latency 0.2] [--no-headers]
`lensbench captions write` runs as it is typed, on an imported corpus of tiny JPEGs, against a server in a process of
its own. The server answers after the latency and enforces the quota as a bucket that refills all the time and holds a
second's worth: what does not fit is answered 429 with Retry-After, and every answer has OpenAI's x-ratelimit-* headers
(with --no-headers only the 429s tell). The share is of what the quota allows between the first request and the last
answer, its full bucket at the start with it. The aims are 95 % and a resident memory below 500 MB that does not grow:
it is read from /proc every second, and its slope is that of a line through the second half. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lensbench.sweep.provenance import hardware

COMMAND = [sys.executable, "-c", "from lensbench.cli import main; main()"]
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
MB = 1e6


class Quota:
    """A bucket that refills continuously."""

    def __init__(self, rpm: int) -> None:
        self.rpm, self.rate = rpm, rpm / 60
        self.level = self.burst = self.rate
        self.as_of = time.monotonic()

    def take(self) -> float:
        """Take one; 0, or the seconds until there is one."""
        now = time.monotonic()
        self.level = min(self.burst, self.level + (now - self.as_of) * self.rate)
        self.as_of = now
        if self.level < 1:
            return (1 - self.level) / self.rate
        self.level -= 1
        return 0.0


class Chat(asyncio.Protocol):
    """One connection: a chat completion, or 429, for each request."""

    quota: Quota
    latency: float
    headers: bool
    counts: dict[str, float]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.data, 0, end)
            total = end + 4 + (int(found.group(1)) if found else 0)
            if len(self.data) < total:
                return
            is_counts = self.data.startswith(b"GET /counts")
            self.data = self.data[total:]
            if is_counts:
                self.reply(200, json.dumps(self.counts), {})
            else:
                self.ask()

    def ask(self) -> None:
        """Admit a request or refuse it."""
        counts, quota, now = self.counts, self.quota, time.time()
        counts.setdefault("first", now)
        wait = quota.take()
        headers = {}
        if self.headers:
            headers["x-ratelimit-limit-requests"] = str(quota.rpm)
            headers["x-ratelimit-remaining-requests"] = str(int(quota.level))
            headers["x-ratelimit-reset-requests"] = f"{(quota.burst - quota.level) / quota.rate * 1000:.0f}ms"
        if wait:
            counts["limited"] += 1
            headers["retry-after-ms"] = f"{wait * 1000:.0f}"
            headers["retry-after"] = str(int(wait) + 1)
            error = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
            self.reply(429, json.dumps(error), headers)
            return
        asyncio.get_running_loop().call_later(self.latency, self.answer, headers)

    def answer(self, headers: dict[str, str]) -> None:
        """A caption."""
        self.counts["answered"] += 1
        self.counts["last"] = time.time()
        content = json.dumps({"caption": "a small square of one color " * random.randint(1, 4)})
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 700, "completion_tokens": 40, "total_tokens": 740}
        body = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
        self.reply(200, json.dumps(body), headers)

    def reply(self, status: int, body: str, headers: dict[str, str]) -> None:
        """Send it."""
        headers |= {"content-type": "application/json", "content-length": str(len(body.encode()))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status} X\r\n{head}\r\n{body}".encode())


async def serve(rpm: int, latency: float, headers: bool) -> None:
    """Serve until killed; the port is printed."""
    Chat.quota, Chat.latency, Chat.headers = Quota(rpm), latency, headers
    Chat.counts = {"answered": 0, "limited": 0}
    server = await asyncio.get_running_loop().create_server(Chat, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def make_corpus(folder: Path, images: int) -> Path:
    """An imported corpus of tiny JPEGs, no two alike."""
    from PIL import Image

    photos, corpus = folder / "photos", folder / "corpus"
    photos.mkdir()
    for i in range(images):
        color = (i % 256, i // 256 % 256, 3)
        Image.new("RGB", (32, 32), color).save(photos / f"{i}.jpg", comment=str(i).encode())
    subprocess.run([*COMMAND, "corpus", "import", str(photos), str(corpus)], check=True, stdout=subprocess.DEVNULL)
    return corpus


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    return 1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def slope(samples: list[tuple[float, float]]) -> float:
    """The slope of the line through samples, least squares."""
    n = len(samples)
    mean_t, mean_y = (sum(column) / n for column in zip(*samples, strict=True))
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return sum((t - mean_t) * (y - mean_y) for t, y in samples) / spread if spread else 0.0


def main() -> None:
    """Print the share of the quota and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rpm", type=int, default=5_000, help="the quota, requests a minute (default: 5000)")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds before an answer (default: 0.2)")
    parser.add_argument("--headers", action=argparse.BooleanOptionalAction, default=True, help="x-ratelimit-* headers")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.rpm, given.latency, given.headers))
        return
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name), given.images)
        options = [f"--rpm={given.rpm}", f"--latency={given.latency}", "--headers" if given.headers else "--no-headers"]
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", *options], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            measure(corpus, port, given)
        finally:
            server.kill()
            server.wait()


def measure(corpus: Path, port: int, given: argparse.Namespace) -> None:
    """Run the command and watch it."""
    environment = os.environ | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    client = subprocess.Popen([*COMMAND, "captions", "write", str(corpus)], env=environment, stdout=subprocess.DEVNULL)
    began, samples = time.monotonic(), []
    while client.poll() is None:
        try:
            samples.append((time.monotonic() - began, resident_bytes(client.pid) / MB))
        except (OSError, IndexError):  # it has just ended
            break
        time.sleep(1.0)
    assert client.wait() == 0, "the command failed"
    counts = _counts(port)
    assert counts["answered"] == given.images, counts
    seconds = counts["last"] - counts["first"]
    rate = given.rpm / 60
    allowed = rate + rate * max(0.0, seconds - given.latency)  # the last answer was admitted a latency before it came
    told = "with headers" if given.headers else "without headers"
    print(f"{hardware()}; {given.images:,} images, {given.rpm:,} requests a minute, {given.latency:g} s, {told}")
    limited = f"{counts['limited']:,.0f} x 429"
    print(f"rate:   {given.images / seconds:.1f} images/s of {rate:.1f}, in {seconds:.1f} s; {limited}")
    print(f"share of the quota: {given.images / allowed:.1%}")
    late = [sample for sample in samples if sample[0] > samples[-1][0] / 2]
    tenths = " ".join(f"{samples[(len(samples) - 1) * i // 10][1]:.0f}" for i in range(1, 11))
    print(f"memory: {max(mb for _, mb in samples):.0f} MB at most; after each tenth {tenths} MB")
    print(f"        {slope(late) * 60:+.2f} MB a minute in the second half")


def _counts(port: int) -> dict[str, float]:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as response:
        found: dict[str, float] = json.load(response)
    return found


if __name__ == "__main__":
    main()
