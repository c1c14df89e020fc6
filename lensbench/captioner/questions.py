"""Questions about pictures, answered by any server that speaks OpenAI's chat completions and gives probabilities.

The judge of GenEval 2 (lensbench.scoring.geneval2) where the model is served: vLLM, SGLang, OpenAI.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lensbench.captioner.answers import cleaned
from lensbench.captioner.client import UNSENDABLE, api_key, unsendable

TOP = 20  # tokens whose probabilities a server tells, at most: what is less likely counts as 0
RETRIES = 8  # by the client, which heeds Retry-After


class ServerVlm:
    """A model behind a server. Its digest is of its name and address alone: what it runs is its owner's to say."""

    def __init__(self, model: str, base_url: str | None = None, *, parallel: int = 8, timeout: float = 180.0) -> None:
        """`base_url` None is OPENAI_BASE_URL, or OpenAI itself. Raises ValueError where there is no key."""
        import openai

        self._client = openai.OpenAI(api_key=api_key(), base_url=base_url, timeout=timeout, max_retries=RETRIES)
        self._model, self._parallel = model, parallel
        self.name = f"{model} at {self._client.base_url.host}"
        self.digest = hashlib.sha256(f"{model} {self._client.base_url}".encode()).hexdigest()

    def answer(
        self, image: np.ndarray, questions: Sequence[str], accepted: Sequence[Sequence[str]]
    ) -> list[tuple[str, float]]:
        """For each question about a picture uint8 (H, W, 3): the likeliest next token, and the probability of one that
        spells the right answer, of the twenty likeliest. Raises ValueError, one line, where the server cannot say."""
        url = f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(lambda pair: self._ask(url, *pair), zip(questions, accepted, strict=True)))

    def _ask(self, url: str, question: str, accepted: Sequence[str]) -> tuple[str, float]:
        import openai

        content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        try:
            said = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                max_completion_tokens=1,
                temperature=0,
                logprobs=True,
                top_logprobs=TOP,
            )
        except openai.OpenAIError as error:
            if unsendable(error):
                raise ValueError(f"{self.name}: {UNSENDABLE}") from None
            message = f"{type(error).__name__}: {cleaned(str(error), api_key())}"
            raise ValueError(f"{self.name}: {message}; run the same command again") from None
        told = said.choices[0].logprobs.content if said.choices and said.choices[0].logprobs else None
        if not told:
            raise ValueError(f"{self.name}: gives no probabilities (logprobs), which a soft score is made of")
        spelled = {text.strip() for text in accepted}
        right = {token.token: token.logprob for token in told[0].top_logprobs if token.token.strip() in spelled}
        return told[0].token.strip(), min(1.0, sum(math.exp(logprob) for logprob in right.values()))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
