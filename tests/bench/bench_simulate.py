"""How many simulated histories a core plays in a second, each of at least 60 slots and 60 transactions.

`python -m tests.bench.bench_simulate [--runs N] [--json]`. CPU time is what counts: one process, one thread, nothing to wait for.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from indexer.simulation.run import SLOTS, simulate
from programs.collector import collect_seldom

HISTORIES_PER_CPU_SECOND_MIN = 100


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    collect_seldom()  # as the command does
    simulate(0)  # imports and caches
    wall, cpu = time.perf_counter(), time.process_time()
    histories = [simulate(seed) for seed in range(1, arguments.runs + 1)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result: dict[str, Any] = {
        "histories": len(histories),
        "histories_per_second": round(len(histories) / wall, 1),
        "histories_per_cpu_second": round(len(histories) / cpu, 1),
        "floor": HISTORIES_PER_CPU_SECOND_MIN,
        "slots_min": min(history.slots for history in histories),
        "transactions_min": min(history.transactions for history in histories),
        "commands_per_history": round(sum(history.requests for history in histories) / len(histories)),
        "us_per_command": round(cpu / sum(history.requests for history in histories) * 1e6, 1),
    }
    assert min(result["slots_min"], result["transactions_min"]) >= SLOTS
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:26} {value}")


if __name__ == "__main__":
    main()
