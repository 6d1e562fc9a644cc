"""Time the ensemble beside mbrl-lib's, in one run and in turn; print a table and write it to docs/results.

Takes two minutes, and one more where mbrl-lib has to be installed first (into ``benchmarks/.venv-mbrl-lib``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ensemble import Ours
from peer import Peer
from report import Result, as_json, document, table
from workload import CASES, STEPS_PER_FIT, seconds_per_call

PEAK_SIZE = 2048
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def measure(repetitions: int) -> tuple[list[Result], float]:
    """Time every case on both sides, in turn; return the results and the sgemm peak in FLOP/s."""
    square = torch.randn(PEAK_SIZE, PEAK_SIZE)
    results = [Result(case, [], []) for case in CASES]
    peak = 0.0
    ours = Ours()
    with Peer() as peer:
        for case in CASES:  # a first time for caches and allocators, not counted
            ours.measure(case)
            peer.measure(case)
        for _ in range(repetitions):
            peak = max(peak, 2 * PEAK_SIZE**3 / seconds_per_call(lambda: square @ square, 1))
            for result in results:
                result.ours.append(ours.measure(result.case))
                result.peer.append(peer.measure(result.case))
    return results, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions, and nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    results, peak = measure(3 if quick else 15)
    print(f"sgemm peak, one thread: {peak / 1e9:.1f} GFLOP/s\n\n{table(results, peak)}")
    if not quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "benchmark_ensemble.md").write_text(document(results, peak, PEAK_SIZE, STEPS_PER_FIT))
        (RESULTS / "benchmark_ensemble.json").write_text(as_json(results, peak) + "\n")


if __name__ == "__main__":
    main()
