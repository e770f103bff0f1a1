"""Measures the cost of verifying an answer, against math-verify and MathRuler called directly, and the overhead of the service.

    python -m benchmarks.reward

The answers are the judged set (`workloads/judged`). Every verifier scores each answer once, in one process on one core. They
take turns, block by block. The table also shows the share that each judges right. The judged set has far more near misses in LaTeX than
benchmarks have. Answers per second are therefore of a mixture with the shares of kinds in four benchmarks (`SHARES`), and are also printed
by kind. Like its users, the benchmark keeps the time limits of math-verify. The service then scores the same 1,000 completions as the bare
function. The last line is a JSON object.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, quantiles

import ray

from ovt_ray.core.config.run import RewardConfig
from reward.accuracy import score_lenient
from reward.pool import RewardPool
from reward.protocol import Answer, Part
from reward.service.scoring import ScoringPool
from workloads.judged_answers import FILES, Case, read_cases

BLOCK = 100
"""Number of answers that a verifier scores before the next verifier's turn."""
BATCH = 1000
DEADLINE_S = 5.0
MEMORY_GB = 4.0

SHARES = {"number": 0.39, "choice": 0.31, "yesno": 0.26, "latex": 0.03, "text": 0.007, "list": 0.003}
"""Shares of the kinds of answers in MathVista (testmini), MathVision, TabMWP (test) and HallusionBench, each with a weight of a quarter."""

Verifier = Callable[[Case], bool]
"""Function that returns whether an answer is right."""


@dataclass(slots=True, kw_only=True)
class VerifierTiming:
    """The time of a verifier for each answer, and its agreement with the judges."""

    milliseconds: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """Kinds of the problems, in the same order."""
    num_right: int = 0
    num_false_accepts: int = 0

    def add(self, verifier: Verifier, case: Case) -> None:
        """Time an answer."""
        start = time.perf_counter()
        accepted = verifier(case)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        self.kinds.append(case.problem.kind.value)
        is_correct = case.verdict == "correct"
        self.num_right += accepted == is_correct
        self.num_false_accepts += accepted and not is_correct

    def mean_ms(self, kind: str) -> float:
        """Return the mean latency of answers of a kind."""
        return fmean(taken for taken, of in zip(self.milliseconds, self.kinds, strict=True) if of == kind)

    @property
    def per_s(self) -> float:
        """Answers per second on one core, for the benchmarks' mixture."""
        return 1000 / sum(share * self.mean_ms(kind) for kind, share in SHARES.items())

    @property
    def p99_ms(self) -> float:
        """99 % quantile of the latency."""
        return quantiles(self.milliseconds, n=100)[98]


def main() -> None:
    """Print both tables, and the figures as JSON."""
    cases = [case for path in FILES for case in read_cases(path)]
    timings = measure_verifiers(cases)
    report_verifiers(timings)
    seconds = measure_service(cases[:: max(1, len(cases) // BATCH)][:BATCH])
    report_service(seconds)
    ours, theirs, ruler = timings["ovt_ray"], timings["math-verify"], timings["MathRuler"]
    figures = {
        "median_ms": median(ours.milliseconds),
        "p99_ms": ours.p99_ms,
        "answers_per_s": ours.per_s,
        "throughput_over_math_verify": ours.per_s / theirs.per_s,
        "throughput_over_mathruler": ours.per_s / ruler.per_s,
        "accuracy": ours.num_right / len(cases),
        "false_accepts": ours.num_false_accepts / len(cases),
        "math_verify_accuracy": theirs.num_right / len(cases),
        "mathruler_accuracy": ruler.num_right / len(cases),
        "service_over_function": seconds["Ray service"] / seconds["bare function"],
        "service_overhead_ms_per_answer": 1000 * (seconds["Ray service"] - seconds["bare function"]) / BATCH,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def measure_verifiers(cases: Sequence[Case]) -> dict[str, VerifierTiming]:
    """Return each verifier's timing over all cases."""
    verifiers: dict[str, Verifier] = {"ovt_ray": by_ovt_ray, "math-verify": by_math_verify(), "MathRuler": by_mathruler()}
    timings = {name: VerifierTiming() for name in verifiers}
    for verifier in verifiers.values():
        verifier(warm_up(cases))  # so that no answer's time includes imports and the caches of parsers
    for begin in range(0, len(cases), BLOCK):
        for name, verifier in verifiers.items():
            for case in cases[begin : begin + BLOCK]:
                timings[name].add(verifier, case)
    return timings


def warm_up(cases: Sequence[Case]) -> Case:
    """Return a case that goes all the way to a computer algebra system."""
    return next(case for case in cases if case.problem.kind == "latex" and case.verdict == "correct" and "sqrt" in case.problem.answer)


def by_ovt_ray(case: Case) -> bool:
    """Return the verdict of this project."""
    return case.score().value == 1


def by_math_verify() -> Verifier:
    """Return math-verify as its README calls it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return lambda case: verify(parse(case.problem.answer), parse(text_of(case)))


def by_mathruler() -> Verifier:
    """Return MathRuler's grader, applied to the content of the box if there is a box."""
    from mathruler.grader import extract_boxed_content, grade_answer

    def accepts(case: Case) -> bool:
        text = text_of(case)
        boxed = extract_boxed_content(text)
        return grade_answer(text if boxed == "None" else boxed, case.problem.answer)

    return accepts


def text_of(case: Case) -> str:
    """Return the input of the other verifiers: the extracted answer, or the whole response."""
    return case.answer if case.answer is not None else case.response or ""


def measure_service(cases: Sequence[Case]) -> dict[str, float]:
    """Return the seconds of 1,000 completions by the bare function, in a scoring process, and through Ray."""
    seconds = {}
    start = time.perf_counter()
    for case in cases:
        score_lenient(case.problem, text_of(case))
    seconds["bare function"] = time.perf_counter() - start
    parts = [Part(name="reward.accuracy:score_lenient")]
    pool = ScoringPool(parts, num_processes=1, deadline_s=DEADLINE_S, memory_gb=MEMORY_GB)
    seconds["scoring process"] = time_twice(
        lambda: [pool.submit(case.problem, [Answer.of_text(0, text_of(case))]) for case in cases], lambda future: future.result()
    )
    pool.close()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    config = RewardConfig.model_validate({"parts": [{"name": parts[0].name}], "deadline_s": DEADLINE_S, "max_error_share": 1.0})
    service = RewardPool(config)
    seconds["Ray service"] = time_twice(lambda: [service.submit_texts(case.problem, [text_of(case)]) for case in cases], service.collect)
    service.close()
    ray.shutdown()
    return seconds


def time_twice(submit: Callable[[], list], collect: Callable) -> float:
    """Return the seconds of the second round. The first round includes the processes' imports."""
    for _ in range(2):
        start = time.perf_counter()
        for pending in submit():
            collect(pending)
    return time.perf_counter() - start


def report_verifiers(timings: dict[str, VerifierTiming]) -> None:
    """Print a line per verifier."""
    print(f"\n{'verifier':<14}{'answers/s':>10}{'median ms':>11}{'p99 ms':>9}{'right':>9}{'false accepts':>15}")
    for name, timing in timings.items():
        num = len(timing.milliseconds)
        shares = f"{timing.num_right / num:>9.2%}{timing.num_false_accepts / num:>15.2%}"
        print(f"{name:<14}{timing.per_s:>10,.0f}{median(timing.milliseconds):>11.3f}{timing.p99_ms:>9.2f}{shares}")
    print(f"\n{'mean ms':<14}" + "".join(f"{kind:>9}" for kind in SHARES))
    for name, timing in timings.items():
        print(f"{name:<14}" + "".join(f"{timing.mean_ms(kind):>9.3f}" for kind in SHARES))


def report_service(seconds: dict[str, float]) -> None:
    """Print a line per way of scoring the same completions."""
    print(f"\n{BATCH:,} completions, one by one")
    for name, value in seconds.items():
        print(f"{name:<18}{value:>8.3f} s")


if __name__ == "__main__":
    os.environ.setdefault("RAY_worker_niceness", "0")
    main()
