"""Measures the effect of hostile answers on the reward service: whether it runs, accepts, leaks or waits for any of them.

    python -m benchmarks.hostile [NUM_ANSWERS] [SEED]

Scores generated answers (default 20,000) one at a time, half of them as training does and half leniently. Each reward runs in a scoring
process of its own. Each generated answer is wrong, so none may be accepted. The last line is a JSON object.
"""

import json
import sys
from collections.abc import Sequence

from workloads.hostile_answers import hostile_answers
from workloads.survival import REWARDS, HostileTally, survive

NUM_ANSWERS = 20_000
DEADLINE_S = 2.0


def report(tally: HostileTally) -> None:
    """Print the table and the JSON line."""
    print(f"\n{'outcome':<14}{'answers':>9}")
    for outcome, count in tally.outcomes.most_common():
        print(f"{outcome:<14}{count:>9,}")
    print(f"{'killed':<14}{tally.num_killed:>9,}\n\n{tally.num_answers / tally.seconds:,.0f} answers/s, deadline {DEADLINE_S:g} s")
    for line in tally.accepted[:20]:
        print(f"accepted: {line}")
    figures = {
        "num_answers": tally.num_answers,
        "num_accepted": len(tally.accepted),
        "num_past_deadline": tally.num_past_deadline,
        "max_overrun_s": round(tally.max_overrun_s, 3),
        "num_leaked_processes": tally.num_leaked_processes,
        "num_executed": tally.num_executed,
        "seconds": round(tally.seconds, 1),
    }
    print(json.dumps(figures))


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    num = int(arguments[0]) if arguments else NUM_ANSWERS
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    report(survive(hostile_answers(num, seed), REWARDS, DEADLINE_S))


if __name__ == "__main__":
    main(sys.argv[1:])
