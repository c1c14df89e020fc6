"""What came back: a completion as a row of the caption store, an error as what to do about it.

Live answers and the lines of a batch's output are the same JSON and are read here alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lensbench.captioner.content import refuses, text_in
from lensbench.captioner.prices import Price
from lensbench.captioner.requests import Asking
from lensbench.captions.store import CaptionRow, State

# again: the same request may succeed later. stop: no request will. refused and failed: this image's own end. unknown: a
# request the server does not accept, for its image's sake or for its form's.
Verdict = Literal["again", "stop", "refused", "failed", "unknown"]

POLICY = {"content_policy_violation", "content_filter", "moderation_blocked", "policy_violation"}
NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
LONGEST_REASON = 300  # characters kept of what a server says
KEY_CHARACTERS = 20  # of a real API key, at least: a shorter one, for a server of one's own, is any word


@dataclass(frozen=True)
class Trouble:
    """An answer that is no completion: what to do about it, and why in one line."""

    verdict: Verdict
    reason: str
    limited: bool = False  # whether a limit of rate was met
    billed: bool = False  # whether the request may have been paid for all the same


@dataclass(frozen=True)
class Reader:
    """Turns answers into rows of one set. `secret`, the API key, appears in nothing that it returns.

    `worst_usd` is what an answer is taken to cost that tells no usage.
    """

    asking: Asking
    price: Price | None
    secret: str
    batch: bool
    worst_usd: float = 0.0

    def row(self, key: str, completion: Mapping[str, Any]) -> CaptionRow:
        """The row of a completion. Raises ValueError for what is no completion."""
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            finish = str(choice.get("finish_reason") or "")
            content, refusal = _content(message), str(message.get("refusal") or "")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError("the answer is no chat completion") from None
        state, text, finish = self._outcome(content, refusal, finish)
        if len(self.secret) >= KEY_CHARACTERS and any(self.secret in said for said in (text, content)):
            state, text, finish = "failed", "", "the answer has the API key in it, and is not kept"
        elif state == "done" and not _whole(text):
            state, finish = "failed", "half of a character in it, as of an emoji that was cut"
        if (used := _usage(completion)) is None:
            return self._row(key, text, state, finish, paid=None if self.price is None else self.worst_usd)
        paid = None if self.price is None else self.price.usd(*used, batch=self.batch)
        return self._row(key, text, state, finish, used[0], used[1], paid)

    def _outcome(self, content: str, refusal: str, finish: str) -> tuple[State, str, str]:
        # State, text and why.
        text = text_in(content, self.asking.prompt.answer)
        if refusal:
            return "refused", refusal, "refusal"
        if finish == "content_filter":
            return "refused", content, finish
        if finish == "length":
            return "truncated", text or content, finish
        if refuses(text or content):
            return "refused", text or content, f"{finish}: begins as a refusal does"
        if text:
            return "done", text, finish
        why = "empty" if text == "" or not content else "not the JSON that was asked for"
        return "failed", content, f"{finish}: {why}"

    def row_of(self, key: str, trouble: Trouble) -> CaptionRow:
        """The row of an image that came to its own end."""
        assert trouble.verdict in ("refused", "failed"), trouble
        state: State = "refused" if trouble.verdict == "refused" else "failed"
        return self._row(key, "", state, trouble.reason)

    def trouble(self, status: int, error: Any) -> Trouble:
        """What to do about an HTTP status and the `error` of its body."""
        code, kind, message = (str(_get(error, name) or "") for name in ("code", "type", "message"))
        said = self.clean(f"{status} {code or kind}: {message}" if code or kind else f"{status} {message}")
        if code in NO_MONEY or kind in NO_MONEY:
            return Trouble("stop", said)
        if status in (401, 403, 404):
            return Trouble("stop", said)
        if code in POLICY or kind in POLICY:
            return Trouble("refused", said)
        if status == 429:
            return Trouble("again", said, limited=True)
        if status in (408, 409) or status >= 500:
            return Trouble("again", said)
        if status == 413 or "image" in code or code == "context_length_exceeded":
            return Trouble("failed", said)
        return Trouble("unknown", said)

    def clean(self, text: str) -> str:
        """One line of bounded length, without the API key."""
        return cleaned(text, self.secret)

    def _row(
        self,
        key: str,
        text: str,
        state: State,
        finish: str,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        paid: float | None = None,
    ) -> CaptionRow:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        tokens = (input_tokens, output_tokens)
        return CaptionRow(key, *self.asking.maker, text, state, self.clean(finish), *tokens, paid, now)


def cleaned(text: str, secret: str) -> str:
    """What a server says on one line of bounded length, without the API key; a short key goes as a whole word alone."""
    if secret:
        word = re.escape(secret)
        text = re.sub(word if len(secret) >= KEY_CHARACTERS else rf"(?<!\w){word}(?!\w)", "[key]", text)
    return " ".join(text.encode(errors="replace").decode().split())[:LONGEST_REASON]


def _whole(text: str) -> bool:
    # JSON can say half of a surrogate pair, which is no character: a caption is not mended, for it is never rewritten.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _content(message: Mapping[str, Any]) -> str:
    # A text, or a list of parts that are texts.
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _usage(completion: Mapping[str, Any]) -> tuple[int, int, int] | None:
    # Input, output and cached input tokens; None where they are not told: no request has 0 input tokens.
    usage = completion.get("usage")
    counts = [_get(usage, "prompt_tokens"), _get(usage, "completion_tokens")]
    counts.append(_get(_get(usage, "prompt_tokens_details"), "cached_tokens") or 0)
    if not all(isinstance(count, int) and count >= 0 for count in counts) or not counts[0]:
        return None
    return counts[0], counts[1], min(counts[2], counts[0])


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
