"""Chains by a model behind an OpenAI-compatible server, such as `vllm serve`.

    GET  {url}/models            200 {"data": [{"id": "the model"}, ...]}
    POST {url}/chat/completions  {"model", "messages", "n", "temperature", "max_tokens", "seed"}
                                 200 {"choices": [{"message": {"content", "reasoning"}}, ...]}

Images go as data URLs, PNG, scaled to `model.max_pixels`. A reply is untrusted text, and judged like any other chain.
"""

import base64
import io
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.config.traces import EndpointConfig
from ovt_ray.core.errors import ConfigError, StageError
from ovt_ray.core.http import Refused, Unreachable, get_json, post_json
from ovt_ray.core.prompts import load_image, shown_text
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Problem
from ovt_ray.distillation.chains import Chains, Verifier

CHECK_S = 30.0
"""Longest wait for the list of models."""
MAX_WAIT_S = 60.0
"""Longest wait between two attempts."""
MAX_UNANSWERED_IN_A_ROW = 16
"""Number of problems without an answer, one after another, that ends the stage: the server does not understand the requests."""
THINK, END_THINK = "<think>", "</think>"

logger = logging.getLogger(__name__)


def check_endpoint(config: EndpointConfig, key: str) -> None:
    """Raise ConfigError naming the config's `key` unless the server answers and lists the model."""
    try:
        listed = get_json(f"{config.url.rstrip('/')}/models", _headers(config, key), CHECK_S)
    except (Unreachable, Refused, ValueError) as error:
        raise ConfigError(f"{key}.url: {config.url!r} does not answer ({error}); start the server, or correct the address") from error
    rows = listed.get("data") if isinstance(listed, dict) else None
    names = [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if config.model not in names:
        raise ConfigError(f"{key}.model: {config.url!r} has no model {config.model!r}; it lists {', '.join(names)[:300] or 'none'}")


def chains_by_endpoint(
    verifier: Verifier, problems: Sequence[Problem], section: DistilConfig, *, max_pixels: int, seed: int
) -> Generator[Chains]:
    """Yield the scored chains of the model behind the endpoint, in the order in which it answers; a problem may stay without any."""
    asked = answers(problems, section, max_pixels=max_pixels, seed=seed)
    for problem, texts, scores in verifier.score_texts(asked):
        yield Chains(problem=problem, responses=tuple(texts), scores=scores)


def answers(problems: Sequence[Problem], section: DistilConfig, *, max_pixels: int, seed: int) -> Iterator[tuple[Problem, list[str]]]:
    """Yield each problem with at most `num_chains` texts, in the order in which the endpoint answers.

    What the server refuses, or answers with nonsense, at every attempt stays without texts and is counted as unanswered. Raises
    StageError if the server cannot be reached, or leaves many problems in a row unanswered.
    """
    assert section.endpoint is not None, "the config wants one for this source"
    asker = _Asker(section.endpoint, section.num_chains, section.temperature, max_pixels, seed)
    num_in_a_row = 0
    for problem, result in _side_by_side(asker.texts, problems, section.endpoint.concurrency):
        if isinstance(result, Unreachable):
            raise StageError(f"{section.endpoint.url}: {result}; the same command goes on with what is left to ask") from result
        if isinstance(result, Exception):
            raise result
        num_in_a_row = 0 if result.texts else num_in_a_row + 1
        if num_in_a_row == MAX_UNANSWERED_IN_A_ROW:
            raise StageError(
                f"{section.endpoint.url}: {num_in_a_row} problems in a row stay unanswered, the last because {result.fault}; "
                "mend the server, or correct the endpoint's url, key or limits, and the same command goes on"
            )
        yield problem, result.texts


@dataclass(frozen=True, slots=True)
class _Answered:
    texts: list[str]
    fault: str
    """Why the last request failed; empty where none did."""


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks the server about one problem."""

    config: EndpointConfig
    num_chains: int
    temperature: float
    max_pixels: int
    seed: int

    def texts(self, problem: Problem) -> _Answered:
        """Return the texts for a problem, or fewer after the last attempt. Raises Unreachable if the last attempt got no answer."""
        texts: list[str] = []
        fault, num_failures = "", 0
        messages = [{"role": "user", "content": content(problem, self.config.instruction, self.max_pixels)}]
        while len(texts) < self.num_chains and num_failures < self.config.num_attempts:
            if num_failures:
                time.sleep(min(MAX_WAIT_S, 2.0 ** (num_failures - 1)))
            try:  # a server that knows no `n` answers one at a time
                texts += read_texts(self._post(problem, messages, len(texts)))[: self.num_chains - len(texts)]
            except Refused as error:
                return _Answered(texts, str(error))
            except (Unreachable, ValueError) as error:
                fault, num_failures = str(error), num_failures + 1
                logger.debug("problem %s: attempt %d of %d failed: %s", problem.id, num_failures, self.config.num_attempts, fault)
                if isinstance(error, Unreachable) and num_failures == self.config.num_attempts:
                    raise
        return _Answered(texts, fault)

    def _post(self, problem: Problem, messages: list[dict[str, Any]], num_before: int) -> Any:
        body = {
            "model": self.config.model,
            "messages": messages,
            "n": self.num_chains - num_before,
            "temperature": self.temperature,
            "max_tokens": self.config.max_tokens,
            "seed": stable_seed(self.seed, problem.id, num_before) % 2**31,
        }
        address = f"{self.config.url.rstrip('/')}/chat/completions"
        return post_json(address, body, _headers(self.config, "endpoint"), self.config.deadline_s)


def content(problem: Problem, instruction: str, max_pixels: int) -> list[dict[str, Any]]:
    """Return a user's message: the images, then question, choices and instruction."""
    parts: list[dict[str, Any]] = []
    for source in problem.images:
        file = io.BytesIO()
        load_image(source, max_pixels, problem.id).save(file, format="PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [*parts, {"type": "text", "text": f"{shown_text(problem)}\n{instruction}"}]


def read_texts(reply: Any) -> list[str]:
    """Return the texts of a reply. Raises ValueError if it has none; choices without text are left out."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list):
        raise ValueError('it did not answer {"choices": [...]}')
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    texts = [text for message in messages if isinstance(message, dict) and (text := _text(message))]
    if not texts:
        raise ValueError("none of its choices has a text")
    return texts


def _text(message: dict[str, Any]) -> str:
    """Return what a model wrote, its thinking between tags.

    A server that parses reasoning sends it apart from the content. A chat template that opens the thinking leaves out the opening tag.
    """
    reasoning = next((part for name in ("reasoning", "reasoning_content") if (part := _string(message.get(name)))), "")
    text = _string(message.get("content"))
    if reasoning:
        return f"{THINK} {reasoning.strip()} {END_THINK} {text}"
    return f"{THINK} {text}" if END_THINK in text and THINK not in text else text


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _headers(config: EndpointConfig, key: str) -> dict[str, str]:
    if config.api_key_env is None:
        return {}
    secret = os.environ.get(config.api_key_env, "").strip()
    if not (secret.isascii() and secret.isprintable() and secret):  # the client's error would show the key that it refuses
        raise ConfigError(f"{key}.api_key_env: the driver's environment has no key under {config.api_key_env!r}: set it, or leave it out")
    return {"Authorization": f"Bearer {secret}"}


def _side_by_side(
    ask: Callable[[Problem], _Answered], problems: Sequence[Problem], num_threads: int
) -> Iterator[tuple[Problem, _Answered | Exception]]:
    """Yield each problem with what `ask` returns or raises, as they come. Threads are daemons: an interrupted run waits for none."""
    left: queue.SimpleQueue[Problem] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Problem, _Answered | Exception]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            try:
                problem = left.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((problem, ask(problem)))
            except Exception as error:  # raised where the answers are read
                done.put((problem, error))

    for problem in problems:
        left.put(problem)
    for _ in range(min(num_threads, len(problems))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in problems:
            yield done.get()
    finally:
        stopped.set()
