"""What a GPU gains where updates are recorded, and compiled before that: time, launches and waits.

    python benchmarks/gpu.py

Needs a GPU; docs/results/gpu.md holds what it printed on one. As they are, updates of SAC, TD3 and MBPO are SB3's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any
from unittest.mock import patch

import gymnasium as gym
import torch
from batches import ENVS
from stable_baselines3 import SAC
from torch.profiler import ProfilerActivity, profile
from updates import BATCH, make

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased
from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture
from mbrl_wrappers.agents import SVG, CompiledSAC, CompiledTD3, update_mode
from mbrl_wrappers.imagination import AgentView, BufferDecorator
from mbrl_wrappers.imagination.real_data import real_transitions

ENV = "HalfCheetah-v5"
BLOCK, REPEATS, RANDOM_STEPS = 50, 5, 1_000
FIT_STEPS = 1_000
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")

Work = Callable[[int], Any]  # does so many updates


def seconds(work: Callable[[], Any]) -> float:
    """Return the median time of a piece of work, the GPU's included."""
    found = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return sorted(found)[REPEATS // 2]


def calls(work: Callable[[], Any]) -> tuple[int, int, int]:
    """Return how often a piece of work asks the GPU for something, waits for it, and what the GPU runs."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
    counts = {event.key: event.count for event in profiler.key_averages()}
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events())
    return sum(counts.get(name, 0) for name in LAUNCHES), sum(counts.get(name, 0) for name in WAITS), kernels


RECORDED, COMPILED = {"as it is": False, "captured": "auto"}, {"compiled too": True}


def rows(name: str, make_work: Callable[[Any], Work], ways: dict[str, Any]) -> Iterator[str]:
    """Measure updates in each way; ``make_work`` takes ``compile``."""
    base = 0.0
    for way, compile in ways.items():
        work = make_work(compile)
        work(BLOCK)
        block, alone = (1e3 * seconds(partial(work, count)) / count for count in (BLOCK, 1))
        launches, waits, kernels = calls(partial(work, BLOCK))
        base = base or block
        cells = [f"{block:.2f}", f"{base / block:.1f}", f"{alone:.2f}", f"{launches / BLOCK:.0f}"]
        cells += [f"{1000 * waits / BLOCK:.0f}", f"{kernels / BLOCK:.0f}"]
        yield "| " + " | ".join([name, way, *cells]) + " |"


def model_free(kind: type, compile: Any) -> Work:
    agent = kind("MlpPolicy", gym.make(ENV), device="cuda", learning_starts=RANDOM_STEPS + 1, compile=compile, seed=0)
    agent.learn(RANDOM_STEPS)
    return lambda count: agent.train(count, BATCH)


def mbpo(compile: Any) -> Work:
    env = gym.make(ENV)
    dynamics = EnsembleDynamics.for_env(env, max_steps=100, seed=0, device="cuda")
    agent = CompiledSAC(
        "MlpPolicy", env, device="cuda", learning_starts=RANDOM_STEPS - 1, gradient_steps=0, compile=compile, seed=0
    )
    agent.learn(RANDOM_STEPS, callback=ModelBased(Dyna(), dynamics, fit_every=RANDOM_STEPS))
    return with_imagination(agent)


def with_imagination(agent: Any) -> Work:
    """Let an agent draw as it does while it learns."""
    if not isinstance(agent, SVG):
        agent.replay_buffer = BufferDecorator(agent.replay_buffer, agent.model_based.strategy)
    return lambda count: agent.train(count, BATCH)


def through_a_model(name: str, compile: Any) -> Work:
    return with_imagination(make(ENV, name, compile=compile, device="cuda", gradient_steps=0))


def fit(recorded: bool) -> tuple[float, int]:
    """Return the seconds and steps of a fit of the paper's ensemble of 7, recording included."""
    env = gym.make(ENV)
    agent = SAC("MlpPolicy", env, device="cuda", learning_starts=RANDOM_STEPS + 1).learn(RANDOM_STEPS)
    dynamics = EnsembleDynamics.for_env(env, hidden=ENVS[ENV][0], seed=0, device="cuda", max_steps=FIT_STEPS)
    assert agent.replay_buffer is not None
    transitions = real_transitions(agent.replay_buffer, AgentView(agent, dynamics), dynamics)
    steps = []

    def work() -> None:
        steps.append(dynamics.fit(transitions, torch.Generator().manual_seed(0))["grad_steps"])

    as_it_is = patch.object(GraphCapture, "captured", lambda self, function, works_on: function)
    with nullcontext() if recorded else as_it_is:
        work()
        return seconds(work), round(sum(steps[1:]) / REPEATS)


def hopper(random_steps: int) -> float:
    """Return the seconds that MBPO, as published, takes for 500 env steps behind so many random ones."""
    env = gym.make("Hopper-v5")
    dynamics = EnsembleDynamics.for_env(env, seed=0, device="cuda")
    agent = CompiledSAC(
        "MlpPolicy", env, device="cuda", gradient_steps=20, learning_starts=random_steps, compile=True, seed=0
    )
    model_based = ModelBased(Dyna(rollout_length=(20_000, 100_000, 1, 15)), dynamics)
    agent.learn(random_steps + 250, callback=model_based)
    started = time.perf_counter()
    agent.learn(500, callback=model_based, reset_num_timesteps=False)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def fits() -> str:
    (plain, steps), (recorded, recorded_steps) = fit(False), fit(True)
    return (
        f"A fit of an ensemble of 7 to {RANDOM_STEPS} rows: {plain:.2f} s for {steps} steps, recorded {recorded:.2f} s "
        f"for {recorded_steps} steps, recording included."
    )


def main() -> None:
    torch.set_num_threads(1)
    update_mode.MIN_CAPTURED_UPDATES = 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| | | ms | times as fast | alone: ms | launches | waits per 1,000 | kernels and copies |")
    print("|" + "---|" * 8)
    found = [
        rows("SAC", partial(model_free, CompiledSAC), RECORDED | COMPILED),
        rows("TD3", partial(model_free, CompiledTD3), RECORDED | COMPILED),
        rows("MBPO", mbpo, RECORDED | COMPILED),
        *(rows(name, partial(through_a_model, name), RECORDED) for name in ("MAAC", "DHMBPO", "SVG")),
    ]
    for row in chain(*found):
        print(row, flush=True)
    print(f"\n{fits()}\n", flush=True)
    for random_steps in (1_000, 100_000):
        spent = hopper(random_steps)
        print(
            f"MBPO on Hopper-v5, 20 updates per step: {spent:.1f} s for 500 env steps behind {random_steps:,} random "
            f"ones, fits and rollouts included; 125,000 at that pace: {250 * spent / 60:.0f} minutes.",
            flush=True,
        )


if __name__ == "__main__":
    main()
