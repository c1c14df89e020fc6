"""What came back: a completion as a row of the caption store, an error as what to do about it.

Live answers and the lines of a batch's output are the same JSON and are read here alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from lensbench.captioner.prices import Price
from lensbench.captioner.requests import Asking
from lensbench.captions.store import CaptionRow, State

# again: the same request may succeed later. stop: no request will. refused and failed: this image's own end. unknown: a
# request the server does not accept, for its image's sake or for its form's.
Verdict = Literal["again", "stop", "refused", "failed", "unknown"]

POLICY = {"content_policy_violation", "content_filter", "moderation_blocked", "policy_violation"}
NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
LONGEST_REASON = 300  # characters kept of what a server says


@dataclass(frozen=True)
class Trouble:
    """An answer that is no completion: what to do about it, and why in one line."""

    verdict: Verdict
    reason: str
    limited: bool = False  # whether a limit of rate was met
    billed: bool = False  # whether the request may have been paid for all the same


@dataclass(frozen=True)
class Reader:
    """Turns answers into rows of one set. `secret`, the API key, appears in nothing that it returns."""

    asking: Asking
    price: Price | None
    secret: str
    batch: bool

    def row(self, key: str, completion: Mapping[str, Any]) -> CaptionRow:
        """The row of a completion. Raises ValueError for what is no completion."""
        try:
            choice = completion["choices"][0]
            message = choice["message"]
            finish = str(choice.get("finish_reason") or "")
            content, refusal = message.get("content") or "", message.get("refusal") or ""
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError("the answer is no chat completion") from None
        state: State = "done"
        text = content
        if refusal:
            state, text, finish = "refused", refusal, "refusal"
        elif finish == "content_filter":
            state = "refused"
        elif finish == "length":
            state = "truncated"
        else:
            found = _text(content, self.asking.prompt.answer)
            if found:
                text = found
            else:
                state = "failed"
                finish = f"{finish}: {'empty' if found == '' or not content else 'not the JSON that was asked for'}"
        if (used := _usage(completion)) is None:
            return self._row(key, text, state, finish)
        paid = None if self.price is None else self.price.usd(*used, batch=self.batch)
        return self._row(key, text, state, finish, used[0], used[1], paid)

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
        return " ".join(self._without_secret(text).split())[:LONGEST_REASON]

    def _without_secret(self, text: str) -> str:
        return text.replace(self.secret, "[key]") if self.secret else text

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
        maker = self.asking.maker
        return CaptionRow(key, *maker, self._without_secret(text), state, self.clean(finish), *tokens, paid, now)


def _text(content: str, answer: str) -> str | None:
    # The text of an answer on one line; None where it is not the JSON that was asked for.
    try:
        found = json.loads(content)[answer]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return " ".join(found.split()) if isinstance(found, str) else None


def _usage(completion: Mapping[str, Any]) -> tuple[int, int, int] | None:
    # Input, output and cached input tokens.
    usage = completion.get("usage")
    counts = [_get(usage, "prompt_tokens"), _get(usage, "completion_tokens")]
    counts.append(_get(_get(usage, "prompt_tokens_details"), "cached_tokens") or 0)
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return counts[0], counts[1], min(counts[2], counts[0])


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
