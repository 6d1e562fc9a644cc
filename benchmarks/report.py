"""From samples to a table, as Markdown and JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from workload import ARITHMETIC, Case

OURS = "ours"
SIDES = (OURS, "mbrl-lib", "SB3", "SBX", "sheeprl")


@dataclass(frozen=True)
class Result:
    """A case with its samples.

    Attributes:
        case: what was measured.
        seconds: of one call, by side, one number per repetition; taken in turn.
    """

    case: Case
    seconds: dict[str, list[float]]

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])

    @property
    def peer(self) -> str:
        """The main peer."""
        return next(iter(self.case.targets))

    def ratio(self, side: str, peak: float) -> float:
        """Our median over a side's."""
        theirs = self.case.flops / peak if side == ARITHMETIC else self.median(side)
        return self.median(OURS) / theirs

    def share(self, side: str, peak: float) -> float:
        """Return the needed FLOPs per second, at the median time, as a share of the peak."""
        return self.case.flops / self.median(side) / peak


@dataclass(frozen=True)
class Run:
    """All cases with one number of threads.

    Attributes:
        threads: on each side.
        peak: FLOP/s of a large product of matrices in the same run.
        results: one per case.
    """

    threads: int
    peak: float
    results: list[Result]


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _milliseconds(result: Result, side: str) -> str:
    if side not in result.seconds:
        return "-"
    return f"{1e3 * result.median(side):.4g} ({1e3 * min(result.seconds[side]):.4g})"


def _verdict(result: Result, side: str, target: float | None, peak: float) -> str:
    ratio = result.ratio(side, peak)
    if target is None:
        return f"{ratio:.2f}x {side}"
    return f"{ratio:.2f}x {side} ({'pass' if ratio <= target else 'MISSED'}: at most {target:.2f}x)"


def table(run: Run) -> str:
    """Return the Markdown table; times are milliseconds, median and minimum."""
    heads = ("one call", *SIDES, "ours by the peer's (aim)", "GFLOP needed", "share of peak: ours", "the peer's")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for result in run.results:
        cells = (
            result.case.name,
            *(_milliseconds(result, side) for side in SIDES),
            "; ".join(_verdict(result, side, target, run.peak) for side, target in result.case.targets.items()),
            f"{result.case.flops / 1e9:.3g}",
            f"{result.share(OURS, run.peak):.0%}",
            "-" if result.peer == ARITHMETIC else f"{result.share(result.peer, run.peak):.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_DOCUMENT = """\
# Benchmark: compared with mbrl-lib, Stable-Baselines3, SBX and sheeprl

`make bench` (or `python benchmarks/run.py`) measures and writes this page.

Machine: {cpu}, {cores} cores, {vector_instructions}; Python {python}, torch {torch}, mbrl-lib 0.2.0,
stable-baselines3 {sb3}. In each of {repetitions} repetitions every case is measured once on each side, in turn, so
all meet the same load; mbrl-lib, SBX (0.28.0, JAX) and sheeprl (0.8.4) have a process and an environment of their own.
All sides use the same torch. Times are milliseconds, median and (minimum).

{sections}
- The model: 7 members (5 elites), 4 x 200 SiLU, 17 observations, 6 actions, no learned termination, the learned reward
  an output of the same network as in mbrl-lib (`joint=True`), so that both compute the same thing.
- Gradient step: ours is a fit of {steps} steps over {steps}, drawing the batches included; mbrl-lib's is the body of
  `ModelTrainer.train`'s loop (`update`), its batches drawn beforehand.
- Imagined step: ours is `EnsembleDynamics.predict` without gradients; mbrl-lib's is `ModelEnv.step(sample=True)` with
  `propagation="random_model"` and tensors in and out. It takes at least one row per elite, so its "1 row" has 5.
- Plan: population x horizon x particles x iterations of CEM, the evaluations alone. Ours is `TrajectoryReturns` with
  TS1; mbrl-lib's is `ModelEnv.evaluate_action_sequences`.
- SAC update: batch 256 from a replay buffer of 10,000 rows, learned entropy coefficient. Ours is `CompiledSAC`, which
  is compared with SB3's `SAC` and with SBX's, in calls of 20 updates; mbrl-lib's is the SAC that its MBPO trains.
- Dreamer update, TD-MPC2 update and plan: everything that an agent does for one, the drawing of sequences from 2,000
  steps included: model, imagination, heads, optimizers; 17 observations, 6 actions. Dreamer is version 3 with 41 bins,
  latents of 16 x 16, a horizon of 15 and 256 imagination starts; sheeprl's imagines from all states of a batch, and is
  compared with ours where it does too. Its networks have our sizes, its batch is at hand, its metrics are off, and
  neither is compiled. TD-MPC2 is, and has the size 0.6M and 101 bins, its plan 24 proposals. The arithmetic is the
  time of the products that such a call computes, counted, at the peak.
- World Models: losses, gradients and Adam's step of V (latents of 32) and of M (five components), on data at hand;
  a dream's step is one of 256 dreams, reward and end included. The arithmetic as above.
- GFLOP: the matrix products that the result needs (one member per row; for a gradient step forward and backward).
- A share above 100% is no error: the peak is that of `torch.mm`, and oneDNN's products pass it on some processors.
"""

_SECTION = """\
## {threads}

Peak: {peak:.1f} GFLOP/s, the best float32 product of two {size} x {size} matrices by `torch.mm` in this run. {clock}

{table}
"""
_CPU_TIME = (
    "Times are CPU time, page faults included: with one thread, what the clock shows on a machine with nothing else "
    "to do."
)
_CLOCK_TIME = "Times are the clock's."


def document(runs: list[Run], peak_size: int, steps: int) -> str:
    sections = [
        _SECTION.format(
            threads=f"{run.threads} thread{'s' if run.threads > 1 else ''}",
            peak=run.peak / 1e9,
            size=peak_size,
            clock=_CPU_TIME if run.threads == 1 else _CLOCK_TIME,
            table=table(run),
        )
        for run in runs
    ]
    return _DOCUMENT.format(
        **machine(),
        sb3=importlib.metadata.version("stable-baselines3"),
        repetitions=len(runs[0].results[0].seconds[OURS]),
        steps=steps,
        sections="\n".join(sections),
    )


def as_json(runs: list[Run]) -> str:
    def rows(run: Run) -> list[dict[str, Any]]:
        return [
            {
                "case": result.case.name,
                "flops": result.case.flops,
                "targets": dict(result.case.targets),
                "ratios": {side: result.ratio(side, run.peak) for side in result.case.targets},
                "seconds": result.seconds,
            }
            for result in run.results
        ]

    by_threads = [{"threads": run.threads, "sgemm_peak_flops": run.peak, "results": rows(run)} for run in runs]
    return json.dumps({"machine": machine(), "runs": by_threads}, indent=1)
