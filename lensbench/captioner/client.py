"""The `openai` client, with the key from the environment, and its errors as troubles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lensbench.captioner.answers import Reader, Trouble
from lensbench.captioner.pace import retry_after_seconds

if TYPE_CHECKING:
    import openai

KEY = "OPENAI_API_KEY"
# The client's own words are not repeated: they show the header, and so the key.
UNSENDABLE = (
    "a request cannot be sent and nothing was: look at --base-url (http://... or https://...) and at the "
    "variables OPENAI_BASE_URL, OPENAI_ORG_ID and OPENAI_PROJECT_ID for line breaks"
)


class StoppedError(ValueError):
    """The server will answer no request: a key, a model or money is missing.

    `refused`: what is wrong is of this one request or batch, and others may go on.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class Server:
    """Where requests go. `base_url` None: OPENAI_BASE_URL, or OpenAI itself; `timeout` is of one request, seconds."""

    base_url: str | None = None
    timeout: float = 180.0

    def live(self) -> openai.AsyncOpenAI:
        """A client for many requests at a time. It does not retry: who pays decides that."""
        import openai

        return openai.AsyncOpenAI(
            api_key=api_key(), base_url=self.base_url, timeout=self._timeout(self.timeout), max_retries=0
        )

    def plain(self) -> openai.OpenAI:
        """A client for one call after the other, whose files may take long. It does not retry either."""
        import openai

        return openai.OpenAI(
            api_key=api_key(), base_url=self.base_url, timeout=self._timeout(max(self.timeout, 600.0)), max_retries=0
        )

    def _timeout(self, seconds: float) -> Any:
        import openai

        return openai.Timeout(seconds, connect=min(seconds, 15.0), pool=None)


def api_key() -> str:
    """The key. Raises ValueError where the environment has none, or one that no request can carry."""
    if not (key := os.environ.get(KEY, "").strip()):
        raise ValueError(f"{KEY} is not set: export it (a server of your own that asks for none takes any word)")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"{KEY} has a line break or another character that no key has, and nothing was sent: export the key alone"
        )
    return key


def unsendable(error: Exception) -> bool:
    """Whether an error of the client says that a request cannot go out at all, for its headers or its address."""
    import httpx2

    cause = error.__cause__ or error
    return isinstance(
        cause, UnicodeEncodeError | httpx2.LocalProtocolError | httpx2.UnsupportedProtocol | httpx2.InvalidURL
    )


def trouble_of(error: Exception, reader: Reader) -> tuple[Trouble, float | None, Mapping[str, str]]:
    """An error of the client as a trouble, the seconds of its Retry-After, and the headers of its answer.

    Raises the error itself where it is a defect and no trouble of the server's.
    """
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        trouble = reader.trouble(error.status_code, _body(error))
        headers = error.response.headers
        return trouble, retry_after_seconds(headers), headers
    if unsendable(error):
        return Trouble("stop", UNSENDABLE), None, {}
    if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
        return Trouble("again", "no answer in time", billed=True), None, {}
    if isinstance(error, openai.APIConnectionError | httpx2.TransportError):
        # A connection that was never made cost nothing; one that broke may have.
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        name = type(cause).__name__
        never = name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError")
        said = reader.clean(f"{name}: {cause}" if cause and str(cause) else name)
        return (
            Trouble("again", f"no connection ({said})" if never else f"broken off ({said})", billed=not never),
            None,
            {},
        )
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | openai.APIResponseValidationError):
        return Trouble("again", "an answer that is cut off or no JSON", billed=True), None, {}
    raise error


def _body(error: openai.APIStatusError) -> Any:
    if isinstance(error.body, Mapping):
        return error.body
    return {"message": str(error.body or error.response.reason_phrase)}
