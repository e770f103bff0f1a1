"""A reward behind HTTP: the body of the request, and how its answer is read.

    POST {"problem": {"id", "question", "answer", "kind", "choices", "source", "precision", "unit"}, "texts": [...], "num_tokens": [...]}
    200  {"scores": [{"value": 1.0, "outcome": "correct", "extracted": "6", "reason": ""}, 0.5, ...]}

The reply has one score per text, in order: a bare number, or an object of which only `value` is needed. Images are not sent. A redirect is
an error, because following it would hand the headers to another host. So is a reply of more than `MAX_REPLY_BYTES`.
"""

from collections.abc import Mapping
from typing import Any

from ovt_ray.core.http import post_json_async
from ovt_ray.core.types import Outcome, Problem, Score
from reward.protocol import as_score


class Endpoint:
    """Scores the completions of a problem by one request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> None:
        """`headers` are added to each request, for example an authorization; a request takes at most `timeout_s`, reply included."""
        self._url = url
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})

    async def score_batch(self, problem: Problem, texts: list[str], num_tokens: list[int]) -> list[Score]:
        """Return the endpoint's scores. Raises Unreachable, Refused, or ValueError for an answer without them."""
        fields = ("id", "question", "answer", "choices", "source", "precision", "unit")
        about = {name: getattr(problem, name) for name in fields} | {"kind": problem.kind.value}
        body = {"problem": about, "texts": texts, "num_tokens": num_tokens}
        return scores_of(await post_json_async(self._url, body, self._headers, deadline_s=self._timeout_s))


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
