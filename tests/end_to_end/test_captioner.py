"""`lensbench captions` as it is typed, on an imported corpus, against a server that counts what it is asked."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lensbench.captioner.ledger import Ledger
from lensbench.captions.store import CaptionSet

COMMAND = [sys.executable, "-c", "from lensbench.cli import main; main()"]
SECRET = "sk-proj-not-to-be-seen-0123456789"
SET = "gpt-4.1-brief-v1"


def _fault_server() -> Any:
    path = Path(__file__).parents[1] / "captioner" / "fault_server.py"
    spec = importlib.util.spec_from_file_location("fault_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fault_server"] = module
    spec.loader.exec_module(module)
    return module


faults = _fault_server()


@pytest.fixture
def server() -> Iterator[Any]:
    with faults.Server() as found:
        yield found


def start(server: Any, *words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=os.environ | {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": server.url, "COLUMNS": "100"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server: Any, *words: object, **environment: str) -> tuple[int, str, str]:
    process = start(server, *words, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def corpus(tmp_path: Path, server: Any) -> Callable[[int], Path]:
    """An imported corpus of that many images."""

    def make(n: int) -> Path:
        (tmp_path / "photos").mkdir()
        for i in range(n):
            Image.new("RGB", (16, 12), (i % 256, i // 256, 7)).save(tmp_path / "photos" / f"{i}.png")
        code, _, err = run(server, "corpus", "import", tmp_path / "photos", tmp_path / "corpus")
        assert code == 0, err
        return tmp_path / "corpus"

    return make


def keys_with_rows(corpus: Path) -> list[str]:
    try:
        found = CaptionSet(corpus / "captions" / SET)
    except ValueError:  # killed before there was a set
        return []
    return [key for batch in found.batches(["key"]) for key in batch.column("key").to_pylist()]


def killed_again_and_again(
    server: Any, corpus: Path, kills: int, options: list[str], longest: float, calls_at_most: int = 1
) -> list[tuple[set[str], int]]:
    """Start the command and kill it up to so many seconds after one of its first calls of the server, at random.

    Before each start: the keys with rows, the requests so far.
    """
    draw, before = random.Random(4), []
    for _ in range(kills):
        before.append((set(keys_with_rows(corpus)), len(server.asked)))
        wanted = sum(server.calls.values()) + draw.randint(1, calls_at_most)
        process = start(server, "captions", "write", corpus, "--prompt", "brief-v1", *options)
        deadline = time.monotonic() + 60
        if draw.random() < 0.8:  # the others are killed wherever they are, most of them while Python starts
            while sum(server.calls.values()) < wanted:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.002)
        time.sleep(draw.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before.append((set(keys_with_rows(corpus)), len(server.asked)))
    return before


@pytest.mark.slow
def test_after_twenty_kills_each_of_500_images_has_one_row_and_none_that_had_one_was_asked_again(
    server: Any, corpus: Callable[[int], Path]
) -> None:
    folder = corpus(500)
    server.answer = lambda key, nth, body: replace(faults.good(key, nth, body), delay=0.1)
    before = killed_again_and_again(server, folder, 20, [], 0.35)
    assert 20 < len(before[-1][0]) < 500, "the kills came while there was work"
    code, out, err = run(server, "captions", "write", folder, "--prompt", "brief-v1")
    assert (code, err) == (0, "")
    assert f"{SET}: 500 of 500 images have a row (500 done)" in out
    keys = keys_with_rows(folder)
    assert len(keys) == len(set(keys)) == 500
    for had, asked in before:
        assert had <= set(keys), "a row was lost"
        again = had & {key for _, key in server.asked[asked:]}
        assert not again, f"{len(again)} finished images were asked about again"
    in_flight = sum(server.times().values()) - 500
    assert in_flight <= 20 * 64, "more was asked twice than was under way at the kills"


@pytest.mark.slow
def test_after_twelve_kills_in_batch_mode_nothing_was_submitted_twice(
    server: Any, corpus: Callable[[int], Path]
) -> None:
    folder = corpus(500)
    server.end = faults.shuffled_and_repeated
    # Uploads and creations take a while, so that kills fall into them.
    slow = {"POST /files", "POST /batches"}
    route = server._route

    def slowly(method: str, path: str, *rest: Any) -> Any:
        reply = route(method, path, *rest)
        return replace(reply, delay=0.1) if f"{method} {path}" in slow else reply

    server._route = slowly
    options = ["--batch", "--batch-size", "25", "--poll", "0.1"]
    # Counted in calls, not only in seconds: a slow machine gets as far.
    before = killed_again_and_again(server, folder, 12, options, 0.2, calls_at_most=6)
    assert len(before[-1][0]) < 500, "the kills came while there was work"
    assert len({asked for _, asked in before}) > 4, "and in different places"
    code, out, err = run(server, "captions", "write", folder, "--prompt", "brief-v1", *options)
    assert (code, err) == (0, "")
    assert "500 of 500 images have a row (500 done)" in out
    keys = keys_with_rows(folder)
    assert len(keys) == len(set(keys)) == 500
    assert set(server.times().values()) == {1}, "an image was submitted twice"


def test_an_interrupt_keeps_every_answer_that_was_paid_for_and_says_how_to_go_on(
    server: Any, corpus: Callable[[int], Path]
) -> None:
    folder = corpus(60)
    server.answer = lambda key, nth, body: replace(faults.good(key, nth, body), delay=0.3)
    process = start(server, "captions", "write", folder, "--prompt", "brief-v1", "--concurrency-limit", "4")
    while len(server.asked) < 10:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.splitlines()
    assert "rows were written and are kept" in line
    assert f"captions write {folder} --prompt brief-v1 --concurrency-limit 4" in line
    assert sorted(keys_with_rows(folder)) == sorted(key for _, key in server.asked)
    assert len(server.asked) < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_batches_running_and_the_same_command_collects(
    server: Any, corpus: Callable[[int], Path], number: signal.Signals
) -> None:
    folder = corpus(10)
    server.looks = 10**9
    words = ("captions", "write", folder, "--prompt", "brief-v1", "--batch", "--poll", "0.1")
    process = start(server, *words)
    while server.calls["GET /batches/batch_0"] < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.splitlines()
    assert "10 are in 1 batch, which goes on at the server" in line
    server.looks = 0
    code, out, err = run(server, *words)
    assert (code, err) == (0, "")
    assert "10 of 10 images have a row" in out
    assert len(server.made) == 1


def test_a_dry_run_and_a_pilot_say_what_it_will_cost(
    server: Any, corpus: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = corpus(50)
    own = tmp_path / "prices.toml"
    own.write_text('date = 2030-01-01\n[models."gpt-4.1"]\ninput = 20\noutput = 80\nbatch = 0.25\n')
    words = ("captions", "write", folder, "--prompt", "brief-v1")
    code, out, _ = run(server, *words, "--dry-run")
    assert (code, len(server.asked), keys_with_rows(folder)) == (0, 0, [])
    assert "50 requests to gpt-4.1" in out
    live = float(out.split("live:   $")[1].split()[0])
    assert f"batch:  ${live / 2:.4f}" in out
    assert "prices of 2026-05-27" in out
    _, out, _ = run(server, *words, "--dry-run", "--prices", own)
    assert float(out.split("live:   $")[1].split()[0]) == pytest.approx(10 * live, rel=1e-2)
    assert "prices of 2030-01-01" in out

    code, out, _ = run(server, *words, "--pilot", "8")
    assert code == 0
    assert len(server.asked) == len(keys_with_rows(folder)) == 8
    assert "700.0 input and 100.0 output tokens an image, measured on 8 images" in out
    cost = 700 * 2e-6 + 100 * 8e-6
    left = f"${42 * cost:.4f}"
    assert f"${cost:.4f} an image, {left} [{left}, {left}] for the 42 that are left" in out
    _, again, _ = run(server, *words, "--pilot", "8")
    assert len(server.asked) == 8, "a pilot is not paid for twice"
    assert "measured on 8 images" in again


def test_the_key_is_nowhere(server: Any, corpus: Callable[[int], Path], tmp_path: Path) -> None:
    """The server repeats the key wherever it can; it is in no stream and in no file, whatever the mode."""
    folder = corpus(12)
    said: list[str] = []

    def echo(key: str, nth: int, body: Any) -> Any:
        kind = int(key, 16) % 6
        field = body["response_format"]["json_schema"]["name"]
        if nth == 1 and kind == 0:
            return faults.error(500, "oops", f"no luck with {SECRET}", x_key=SECRET)
        if kind == 1:
            return faults.error(400, "content_policy_violation", f"Bearer {SECRET} asked for something bad")
        if kind == 2:
            return faults.Reply(200, faults.completion(refusal=f"not for {SECRET}"))
        if kind == 3:
            return faults.Reply(200, faults.completion(f"{SECRET} is not JSON"))
        if kind == 4:
            return faults.Reply(200, faults.completion(text=f"a sign that says {SECRET}", field=field))
        return faults.good(key, nth, body)

    server.answer = echo
    words = ("captions", "write", folder, "--prompt", "brief-v1")
    for extra in ((), ("--set", "batches", "--batch", "--poll", "0.1"), ("--dry-run",)):
        code, out, err = run(server, *words, *extra, OPENAI_LOG="debug")
        assert code == 0, err
        said += [out, err]
    wrong = faults.error(401, "invalid_api_key", f"Incorrect API key provided: {SECRET}.")
    server.answer = lambda key, nth, body: wrong
    for extra in (("--set", "a"), ("--set", "b", "--batch", "--poll", "0.1")):
        code, out, err = run(server, *words, *extra, LENSBENCH_TRACEBACK="1" if "a" in extra else "")
        assert code != 0
        assert "Incorrect API key provided: [key]" in err
        said += [out, err]
    server.before = lambda method, path: faults.error(401, "invalid_api_key", f"key {SECRET}")
    code, out, err = run(server, *words, "--set", "c", "--batch")
    assert code == 2
    assert len(err.splitlines()) == 1
    said += [out, err]
    for name in (SET, "batches"):
        said += run(server, "captions", "show", folder, name, "--limit", "100")[1:]
    said += run(server, "captions", "list", folder)[1:]
    assert server.authorizations == {f"Bearer {SECRET}"}
    assert not [text for text in said if SECRET in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_the_list_and_the_bill_tell_one_sum(server: Any, corpus: Callable[[int], Path]) -> None:
    folder = corpus(4)
    code, _, err = run(server, "captions", "write", folder)
    assert code == 0, err
    (of_set,) = (path.parent for path in folder.rglob("ledger.db"))
    ledger = Ledger(of_set)
    ledger.expose(ledger.begin_session(), 1.25)  # as a killed process leaves it
    ledger.close()
    _, bill, _ = run(server, "captions", "write", folder)
    (spent,) = re.findall(r"spent on this set: (\$[\d.]+)", bill)
    _, told, _ = run(server, "captions", "list", folder)
    assert spent in told
    assert float(spent[1:]) > 1.25
    assert "of this $1.25 may have been paid for answers that never came" in " ".join(told.split())
    (of_set / "ledger.db").write_text("no database")
    code, told, err = run(server, "captions", "list", folder)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "ledger.db: cannot be read" in err
    assert "made by gpt-4.1" in " ".join(told.split())


def test_a_key_with_a_line_break_is_refused_unseen(server: Any, corpus: Callable[[int], Path]) -> None:
    code, out, err = run(server, "captions", "write", corpus(4), OPENAI_API_KEY=f"{SECRET}\nmore-of-it")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "OPENAI_API_KEY has a line break" in err
    assert not any(part in err for part in (SECRET, "more-of-it"))
    assert not server.calls


def test_cut_answers_are_asked_about_again_and_the_summary_says_how(server: Any, corpus: Callable[[int], Path]) -> None:
    folder = corpus(12)
    cut = faults.completion('{"caption": "a lo', finish="length")
    del cut["usage"]
    server.answer = lambda key, nth, body: (
        faults.Reply(200, cut) if nth == 1 and int(key, 16) % 3 == 0 else faults.good(key, nth, body)
    )
    words = ("captions", "write", folder, "--prompt", "brief-v1")
    code, out, _ = run(server, *words)
    n = sum(int(key, 16) % 3 == 0 for key in server.times())
    assert (code, 0 < n < 12) == (0, True)
    assert f"({12 - n} done, {n} truncated)" in out
    assert f"{n} answers told no usage and are counted at their worst case" in out
    assert f"{n} have a row and no text: --again truncated asks about them again, and pays again" in out
    code, out, _ = run(server, *words, "--again", "failed,truncated", "--dry-run")
    assert f"{n} requests to gpt-4.1" in out
    code, out, _ = run(server, *words, "--again", "failed,truncated")
    assert code == 0
    assert f"12 of 12 images have a row (12 done), {n} of them new" in out
    assert len(server.asked) == 12 + n
    code, out, _ = run(server, "captions", "show", folder, SET, "--history", "--limit", "100")
    assert out.count("truncated (length)") == n
    assert f"{n} of {n} rows" in out
    code, _, err = run(server, *words, "--again", "done")
    assert code == 2
    assert "--again 'done': choose from failed, truncated, refused" in err


def test_without_a_key_it_is_one_line(server: Any, corpus: Callable[[int], Path]) -> None:
    code, _, err = run(server, "captions", "write", corpus(4), OPENAI_API_KEY="")
    assert code == 2
    assert err.splitlines() == [
        "lensbench: OPENAI_API_KEY is not set: export it (a server of your own that asks for none takes any word)"
    ]


def test_prompts_are_reworded_once_into_a_fixed_file(server: Any, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a photo of a bench\na photo of two cats\n")
    out = tmp_path / "both.jsonl"
    server.answer = lambda key, nth, body: faults.Reply(
        200, faults.completion(text=f"A long {body['messages'][1]['content'].split()[-1]}.", field="detailed")
    )
    words = ("captions", "rewrite", tmp_path / "short.txt", out)
    code, said, err = run(server, *words)
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["prompt"], line["detailed"]) for line in lines] == [
        ("a photo of a bench", "A long bench."),
        ("a photo of two cats", "A long cats."),
    ]
    assert lines[0]["captioner"] == "gpt-4.1"
    assert lines[0]["prompt_version"].startswith("rewrite-v1@")
    assert "digest" in said
    assert run(server, *words)[0] == 0
    assert len(server.asked) == 2, "paid twice"
    (tmp_path / "short.txt").write_text("a photo of a bench\n")
    code, _, err = run(server, *words)
    assert code == 2
    assert "is there and says otherwise" in err
    assert len(out.read_text().splitlines()) == 2


def test_a_prompt_that_is_refused_holds_the_file_back_until_the_user_decides(server: Any, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a photo of a bench\na photo of a knife\n")
    server.answer = lambda key, nth, body: faults.Reply(
        200,
        faults.completion(refusal="No." if "knife" in body["messages"][1]["content"] else None, field="detailed"),
    )
    words = ("captions", "rewrite", tmp_path / "short.txt", tmp_path / "both.jsonl")
    code, out, _ = run(server, *words)
    assert code == 1
    assert "'a photo of a knife': refused" in out
    assert not (tmp_path / "both.jsonl").exists()
    assert run(server, *words, "--keep-short")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert (lines[1]["detailed"], lines[1]["state"]) == ("a photo of a knife", "refused")
    assert "state" not in lines[0]
