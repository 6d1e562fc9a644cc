"""Time the library, mbrl-lib, Stable-Baselines3, SBX and sheeprl in turn; print tables and write them to docs/results.

Takes ten minutes, and some more where the peers have to be installed first (into ``benchmarks/.venv-*``).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from ours import ours, sb3
from peer import MBRL_LIB, SBX, SHEEPRL, Peer
from report import OURS, Result, Run, as_json, document, table
from workload import CASES, STEPS_PER_FIT, seconds_per_call

PEAK_SIZE = 2048
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def measure(repetitions: int, threads: int, only: str) -> Run:
    """Time every case whose name holds ``only`` on all sides, in turn."""
    torch.set_num_threads(threads)
    square = torch.randn(PEAK_SIZE, PEAK_SIZE)
    peak = 0.0
    with ExitStack() as stack:
        cases = [case for case in CASES if only in case.name]
        peers = [peer for peer in (MBRL_LIB, SBX, SHEEPRL) if any(peer.serves(case) for case in cases)]
        sides: dict[str, Any] = {OURS: ours(), "SB3": sb3()}
        sides |= {peer.name: stack.enter_context(Peer(peer, threads)) for peer in peers}
        served = [(case, [name for name, side in sides.items() if side.serves(case)]) for case in cases]
        for case, names in served:  # a first time for caches, allocators and compilers, not counted
            for name in names:
                sides[name].measure(case)
        results = [
            Result(
                dataclasses.replace(case, flops=sides[OURS].counted(case)) if math.isnan(case.flops) else case,
                {name: [] for name in names},
            )
            for case, names in served
        ]
        for _ in range(repetitions):
            peak = max(peak, 2 * PEAK_SIZE**3 / seconds_per_call(lambda: square @ square, 1))
            for result in results:
                for name, samples in result.seconds.items():
                    samples.append(sides[name].measure(result.case))
    return Run(threads, peak, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, a table for each")
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--only", default="", help="cases whose name holds this, printed and not written")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    runs = []
    for threads in arguments.threads:
        runs.append(measure(arguments.repetitions, threads, arguments.only))
        print(f"{threads} threads, sgemm peak {runs[-1].peak / 1e9:.1f} GFLOP/s\n\n{table(runs[-1])}\n", flush=True)
    if not (arguments.dry or arguments.only):
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "benchmark.md").write_text(document(runs, PEAK_SIZE, STEPS_PER_FIT))
        (RESULTS / "benchmark.json").write_text(as_json(runs) + "\n")


if __name__ == "__main__":
    main()
