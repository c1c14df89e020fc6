"""A server that speaks as much of OpenAI's API as the captioner uses, over real HTTP, and fails as it is told to.

llmock does most of this, but breaks streams alone, and its batches neither reorder, repeat, expire nor keep to a JSON
schema. What is asked is recorded with the image's key: the sha256 of the bytes in its data URL.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Reply:
    """What goes back. `fault`: disconnect (nothing comes), cut (half of the body), stall (nothing for `delay`)."""

    status: int = 200
    body: Json | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fault: str = ""


def error(status: int, code: str = "", message: str = "no", **headers: str) -> Reply:
    """An error as OpenAI words it; `retry_after="1"` becomes its header."""
    body = {"error": {"message": message, "type": "mock", "code": code or None}}
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def completion(
    content: str | None = None,
    *,
    field: str = "caption",
    finish: str = "stop",
    refusal: str | None = None,
    tokens: tuple[int, int, int] = (700, 100, 0),
    text: str = "a caption",
) -> Json:
    """A chat completion whose content is the JSON that was asked for, unless it is given."""
    said = json.dumps({field: text}, ensure_ascii=False) if content is None else content
    message = {"role": "assistant", "content": None if refusal else said, "refusal": refusal}
    usage = {
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "total_tokens": sum(tokens[:2]),
        "prompt_tokens_details": {"cached_tokens": tokens[2]},
    }
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def key_of(body: Json) -> str:
    """The key of what a request asks about: of its image, or of its last message."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
    return hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()


def good(key: str, nth: int, body: Json) -> Reply:
    """Every image is captioned."""
    return Reply(200, completion(text=f"caption of {key[:8]}", field=body["response_format"]["json_schema"]["name"]))


@dataclass
class Server:
    """The server and what it has seen. `answer(key, nth request for it, body)` answers a chat request; `end(batch,
    lines)` ends a batch, after it has been looked at `looks` times, with (status, output lines, error lines); a line of
    bytes is sent as it is."""

    answer: Callable[[str, int, Json], Reply] = good
    end: Callable[[Json, list[Json]], tuple[str, Sequence[Json | bytes], Sequence[Json | bytes]]] | None = None
    looks: int = 2
    before: Callable[[str, str], Reply | None] = lambda method, path: None
    # answered with this although it was done: the answer is lost
    after: Callable[[str, str], Reply | None] = lambda method, path: None
    asked: list[tuple[float, str]] = field(default_factory=list)  # when and which image, live or in a created batch
    calls: Counter[str] = field(default_factory=Counter)  # "POST /batches" -> how often
    authorizations: set[str] = field(default_factory=set)
    bodies: list[Json] = field(default_factory=list)
    files: dict[str, Json] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    made: dict[str, Json] = field(default_factory=dict)
    at_a_time: int = 0
    most_at_a_time: int = 0
    url: str = ""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __enter__(self) -> Server:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26, backlog=512)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            self._done = asyncio.Event()
            ready.set()
            await self._done.wait()
            server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(serve(),), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)

    def times(self) -> Counter[str]:
        """How often each image was asked about."""
        return Counter(key for _, key in self.asked)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = line.split(" ")
                headers = {name.lower(): value for name, _, value in (item.partition(": ") for item in lines if item)}
                raw = await _body(reader, headers)
                self.authorizations.add(headers.get("authorization", ""))
                path, _, query = target.removeprefix("/v1").partition("?")
                self.calls[f"{method} {path}"] += 1
                self.at_a_time += 1
                self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
                try:
                    reply = self.before(method, path) or self._route(method, path, query, headers, raw)
                    reply = self.after(method, path) or reply
                    if reply.delay:
                        await asyncio.sleep(reply.delay)
                finally:
                    self.at_a_time -= 1
                if not await _send(writer, reply):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _route(self, method: str, path: str, query: str, headers: dict[str, str], raw: bytes) -> Reply:
        if path == "/chat/completions":
            body = json.loads(raw)
            key = key_of(body)
            self.asked.append((time.time(), key))
            self.bodies.append(body)
            return self.answer(key, self.times()[key], body)
        parts = path.strip("/").split("/")
        if method == "POST" and path == "/files":
            return Reply(200, self._upload(headers, raw))
        if path == "/files":
            return Reply(200, {"object": "list", "data": list(self.files.values())[::-1], "has_more": False})
        if parts[0] == "files":
            if parts[1] not in self.contents:
                return error(404, "not_found")
            if method == "DELETE":
                del self.files[parts[1]]
                return Reply(200, {"id": parts[1], "object": "file", "deleted": True})
            return Reply(200, self.contents[parts[1]], {"content-type": "application/octet-stream"})
        if method == "POST" and path == "/batches":
            return Reply(200, self._create(json.loads(raw)))
        if path == "/batches":
            return Reply(200, {"object": "list", "data": list(self.made.values())[::-1], "has_more": False})
        if parts[0] == "batches" and parts[1] in self.made:
            return Reply(200, self._look(self.made[parts[1]]))
        return error(404, "not_found")

    def _upload(self, headers: dict[str, str], raw: bytes) -> Json:
        boundary = headers["content-type"].partition("boundary=")[2].strip('"').encode()
        for part in raw.split(b"--" + boundary):
            head, _, content = part.partition(b"\r\n\r\n")
            if b"filename=" in head:
                name = head.partition(b'filename="')[2].partition(b'"')[0].decode()
                return self._file(name, content.removesuffix(b"\r\n"), "batch")
        raise AssertionError("no file in the upload")

    def _file(self, name: str, content: bytes, purpose: str) -> Json:
        file_id = f"file-{len(self.contents)}"
        self.contents[file_id] = content
        file = {"id": file_id, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        self.files[file_id] = file | {"filename": name, "purpose": purpose, "status": "processed"}
        return self.files[file_id]

    def _create(self, body: Json) -> Json:
        lines = [json.loads(line) for line in self.contents[body["input_file_id"]].splitlines()]
        now = int(time.time())
        batch = {
            "id": f"batch_{next(self._numbers)}",
            "object": "batch",
            "status": "validating",
            "created_at": now,
            "completion_window": "24h",
            **body,
            "looks": 0,
        }
        self.made[batch["id"]] = batch
        self.asked += [(time.time(), line["custom_id"]) for line in lines]
        self.bodies += [line["body"] for line in lines]
        return batch

    def _look(self, batch: Json) -> Json:
        batch["looks"] += 1
        if batch["looks"] < self.looks or batch["status"] not in ("validating", "in_progress"):
            return batch
        lines = [json.loads(line) for line in self.contents[batch["input_file_id"]].splitlines()]
        done = [self._line(line) for line in lines]
        status, output, errors = self.end(batch, done) if self.end else ("completed", done, [])
        batch["status"] = status
        for name, found in (("output_file_id", output), ("error_file_id", errors)):
            if found:
                # As UTF-8, not as escapes: both are JSON, and servers write either.
                whole = [
                    line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in found
                ]
                batch[name] = self._file(f"{batch['id']}_{name}.jsonl", b"\n".join(whole), "batch_output")["id"]
        return batch

    def _line(self, line: Json) -> Json:
        reply = self.answer(line["custom_id"], self.times()[line["custom_id"]], line["body"])
        body = {"status_code": reply.status, "request_id": "r", "body": reply.body}
        return {"id": "b", "custom_id": line["custom_id"], "response": body, "error": None}


def shuffled_and_repeated(batch: Json, lines: list[Json]) -> tuple[str, list[Json], list[Json]]:
    """A batch that completes, its lines in any order and a third of them twice."""
    output = lines + lines[: len(lines) // 3]
    random.Random(len(lines)).shuffle(output)
    return "completed", output, []


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    # Whether the connection stays.
    if reply.fault in ("disconnect", "stall"):
        return False
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))} | reply.headers
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    half = body[: len(body) // 2] if reply.fault == "cut" else body
    writer.write(f"HTTP/1.1 {reply.status} X\r\n{head}\r\n".encode() + half)
    await writer.drain()
    return reply.fault != "cut"
