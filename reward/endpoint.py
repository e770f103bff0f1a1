"""A reward behind HTTP: what is posted to it, and how its answer is read.

    POST {"problem": {"id", "question", "answer", "kind", "choices", "source", "precision", "unit"}, "texts": [...], "num_tokens": [...]}
    200  {"scores": [{"value": 1.0, "outcome": "correct", "extracted": "6", "reason": ""}, 0.5, ...]}

One score per text, in order; a bare number, or an object of which only `value` is needed. Images are not sent.
"""

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from ovt_ray.core.types import Outcome, Problem, Score
from reward.protocol import as_score

MAX_REPLY_BYTES = 64 * 2**20


class Endpoint:
    """Scores the completions of a problem by one request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> None:
        """`headers` are added to each request, for example an authorization; no thread waits longer than `timeout_s` for a reply."""
        self._url = url
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", **(headers or {})}

    async def score_batch(self, problem: Problem, texts: list[str], num_tokens: list[int]) -> list[Score]:
        """Return the endpoint's scores. Raises OSError or ValueError if it refuses, or answers what are no scores."""
        fields = ("id", "question", "answer", "choices", "source", "precision", "unit")
        about = {name: getattr(problem, name) for name in fields} | {"kind": problem.kind.value}
        body = json.dumps({"problem": about, "texts": texts, "num_tokens": num_tokens}).encode()
        return scores_of(json.loads(await asyncio.to_thread(self._post, body)))

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(self._url, data=body, headers=self._headers, method="POST")
        with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
            return reply.read(MAX_REPLY_BYTES)


def scores_of(reply: Any) -> list[Score]:
    """Return the scores of a reply. Raises ValueError if it has none."""
    if not isinstance(reply, dict) or not isinstance(reply.get("scores"), list):
        raise ValueError('the endpoint did not answer {"scores": [...]}')
    return [_score(row) for row in reply["scores"]]


def _score(row: Any) -> Score:
    if not isinstance(row, dict):
        return as_score(row)
    plain = as_score(row.get("value"))
    return Score(
        value=plain.value,
        outcome=Outcome(row.get("outcome") or plain.outcome),
        extracted=row.get("extracted"),
        reason=str(row.get("reason") or ""),
    )
