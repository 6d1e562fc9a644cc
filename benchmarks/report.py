"""From samples to a table, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peer import PEER
from workload import Case


@dataclass(frozen=True)
class Result:
    """A case with its samples, all in seconds per call.

    Attributes:
        case: what was measured.
        ours: one number per repetition.
        peer: taken in turn with ``ours``.
    """

    case: Case
    ours: list[float]
    peer: list[float]

    @property
    def ratio(self) -> float:
        """Our median over the peer's."""
        return statistics.median(self.ours) / statistics.median(self.peer)

    def share(self, samples: list[float], peak: float) -> float:
        """Return the needed FLOPs per second, at the median time, as a share of the peak."""
        return self.case.flops / statistics.median(samples) / peak


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads_used": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _milliseconds(samples: list[float]) -> str:
    return f"{1e3 * statistics.median(samples):.4g} ({1e3 * min(samples):.4g})"


def _verdict(result: Result) -> str:
    if result.case.target is None:
        return "-"
    return f"{'pass' if result.ratio <= result.case.target else 'FAIL'} (at most {result.case.target}x)"


def table(results: list[Result], peak: float) -> str:
    """Return the Markdown table; times are milliseconds, median and minimum."""
    head = (
        f"| one call | ours: median (min) ms | {PEER}: median (min) ms | ratio | target "
        "| MFLOP needed | ours, share of peak | peer, share of peak |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for result in results:
        cells = (
            result.case.name,
            _milliseconds(result.ours),
            _milliseconds(result.peer),
            f"{result.ratio:.2f}x",
            _verdict(result),
            f"{result.case.flops / 1e6:,.4g}",
            f"{result.share(result.ours, peak):.0%}",
            f"{result.share(result.peer, peak):.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_DOCUMENT = """\
# Benchmark of the ensemble

`make bench` (or `python benchmarks/run.py`) measures and writes this page.

Machine: {cpu}, {cores} cores, {vector_instructions}; Python {python}, torch {torch}; one thread on each side.
Peak: {peak:.1f} GFLOP/s, the best single-thread float32 product of two {size} x {size} matrices by `torch.mm` in this
run. {repetitions} repetitions; in each, every case is measured once on our side and once in mbrl-lib's process, in
turn, so both meet the same load. Times are CPU time, page faults included: with one thread, what the clock shows on a
machine with nothing else to do. Both sides use the same torch.

{table}

- The model: 7 members (5 elites), 4 x 200 SiLU, 17 observations, 6 actions, learned reward, no learned termination.
- Gradient step: ours is a fit of {steps} steps over {steps}, drawing the batches included; mbrl-lib's is the body of
  `ModelTrainer.train`'s loop (`update`), its batches drawn beforehand.
- Imagined step: ours is `EnsembleDynamics.predict` without gradients; mbrl-lib's is `ModelEnv.step(sample=True)` with
  `propagation="random_model"` and tensors in and out. It takes at least one row per elite, so its "1 row" has 5.
- MFLOP: the matrix products that the result needs (one member per row; for a gradient step forward and backward).
- A share above 100% is no error: the peak is that of `torch.mm`, and oneDNN's products pass it on some processors.
"""


def document(results: list[Result], peak: float, peak_size: int, steps: int) -> str:
    return _DOCUMENT.format(
        **machine(),
        peak=peak / 1e9,
        size=peak_size,
        repetitions=len(results[0].ours),
        steps=steps,
        table=table(results, peak),
    )


def as_json(results: list[Result], peak: float) -> str:
    rows = [
        {
            "case": result.case.name,
            "flops": result.case.flops,
            "target": result.case.target,
            "ratio": result.ratio,
            "seconds": {"ours": result.ours, PEER: result.peer},
        }
        for result in results
    ]
    return json.dumps({"machine": machine(), "sgemm_peak_flops": peak, "results": rows}, indent=1)
