"""The cost of an update through a model: its arithmetic, compared with the necessary minimum, and its time.

    python benchmarks/updates.py

Writes docs/results/updates.md. Counted are the multiplications and additions of matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from batches import ENVS, flops, milliseconds, model_widths
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased
from mbrl_wrappers.agents import MAAC, SVG, RealData

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "updates.md"
BATCH, MEMBERS, CRITICS, HORIZON, RANDOM_STEPS = 256, 5, 2, 5, 1_000


# Torch's registry lacks oneDNN's LSTM; back, there are products for its weights and for its inputs.
LSTM_PRODUCTS = {torch.ops.aten.mkldnn_rnn_layer: 1, torch.ops.aten.mkldnn_rnn_layer_backward: 2}


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of matrix products, backward passes included.

    Torch's own counter fails on a module that is called without gradients on inputs that have them.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        if products := LSTM_PRODUCTS.get(func._overloadpacket):
            inputs, of_input, of_memory = args[:3]  # [T, B, F], [4 H, F], [4 H, H]
            self.total += products * 2 * inputs[..., 0].numel() * (of_input.numel() + of_memory.numel())
        return result


@dataclass(frozen=True)
class Network:
    """The least FLOPs of a row through a network, or several, forward and back."""

    widths: tuple[list[int], ...]

    def __init__(self, *widths: list[int]) -> None:
        object.__setattr__(self, "widths", widths)

    @property
    def forward(self) -> int:
        return sum(map(flops, self.widths))

    @property
    def to_input(self) -> int:
        """Forward, and back to the input alone."""
        return 2 * self.forward

    @property
    def to_weights(self) -> int:
        """Forward, and back to the weights alone."""
        return 3 * self.forward - sum(flops(widths[:2]) for widths in self.widths)

    @property
    def to_both(self) -> int:
        """Forward, and back to weights and input."""
        return 3 * self.forward


def networks(env_id: str) -> tuple[Network, Network, Network, Network]:
    """Return model, actor, critic of actions and critic of states."""
    net_arch = ENVS[env_id][1]
    env = gym.make(env_id)
    obs, action = (math.prod(space.shape or ()) for space in (env.observation_space, env.action_space))
    return (
        Network(*model_widths(env_id).values()),
        Network([obs, *net_arch, 2 * action]),
        Network([obs + action, *net_arch, 1]),
        Network([obs, *net_arch, 1]),
    )


def floors(env_id: str) -> dict[str, int]:
    """Return the least FLOPs of each agent's update, from the sizes of the networks."""
    model, actor, q_value, value = networks(env_id)
    forward, to_input, to_weights = (CRITICS * n for n in (q_value.forward, q_value.to_input, q_value.to_weights))
    looks_ahead = actor.to_weights + HORIZON * (actor.to_both + model.to_input) + to_input
    # The last action of a path is what the value judges; its states are met once more for the entropy.
    along_path = actor.to_weights + (HORIZON - 1) * actor.to_both + HORIZON * model.to_input + value.to_input
    return {
        "SAC": BATCH * (actor.to_weights + to_input + actor.forward + forward + to_weights),
        "MAAC": BATCH * (looks_ahead + actor.forward + forward + to_weights),
        "DHMBPO": BATCH * (looks_ahead + forward + HORIZON * to_weights),
        "SVG": BATCH * (along_path + HORIZON * actor.to_weights + actor.forward + value.forward + value.to_weights),
    }


def make(env_id: str, name: str, compile: Any = False, device: str = "cpu", **kwargs: Any) -> Any:
    """Return an agent that has met some random steps, with a fitted model."""
    hidden, net_arch = ENVS[env_id]
    env = gym.make(env_id)
    dynamics = EnsembleDynamics.for_env(
        env, hidden=hidden, num_members=MEMBERS, num_elites=MEMBERS, max_steps=100, seed=0, device=device
    )
    kwargs |= {"policy_kwargs": {"net_arch": net_arch}, "seed": 0, "batch_size": BATCH, "compile": compile}
    kwargs |= {"learning_starts": RANDOM_STEPS - 1, "device": device}
    strategy: Any = Dyna(real_ratio=0.0) if name == "DHMBPO" else RealData()
    if name == "SVG":
        agent: Any = SVG("MlpPolicy", env, horizon=HORIZON, ent_coef=0.01, **kwargs)
    else:
        horizon = 0 if name == "SAC" else HORIZON
        agent = MAAC("MlpPolicy", env, horizon=horizon, expand_critic=name == "DHMBPO", **kwargs)
    return agent.learn(RANDOM_STEPS, callback=ModelBased(strategy, dynamics, fit_every=RANDOM_STEPS))


def counted_flops(agent: Any) -> int:
    """Return those of an update."""
    agent.train(1, BATCH)  # the first one makes the optimizers' states
    with FlopCounter() as counter:
        agent.train(1, BATCH)
    return counter.total


def flops_per_ms() -> float:
    """Return what one thread does in a product of large matrices."""
    square = torch.randn(1024, 1024)
    return 2 * 1024**3 / milliseconds(lambda: square @ square)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    speed = flops_per_ms()
    lines = [
        "# What an update through a model costs",
        "",
        f"One gradient update of {BATCH} rows, horizon {HORIZON}, {MEMBERS} members, {CRITICS} critics (SVG: one, of",
        "states), one thread; the model is fitted between updates and not counted. The floor is what must be computed:",
        "rows times network sizes, forward, and back to where a gradient is needed. Its time is that at the rate of a",
        f"product of large matrices, {speed / 1e6:.0f} GFLOP a second, which small ones do not reach. SAC is MAAC with",
        "a horizon of 0. Times are CPU time, with other work on the second core.",
        "Written by `python benchmarks/updates.py`.",
        "",
        "| env | agent | MFLOP | floor | ratio | ms (median of 30) | compiled | ms of the floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env_id in ENVS:
        for name, least in floors(env_id).items():
            agent = make(env_id, name)
            counted = counted_flops(agent)
            agents = (agent, make(env_id, name, compile=True))
            plain, compiled = (milliseconds(partial(one.train, 1, BATCH)) for one in agents)
            lines.append(
                f"| {env_id} | {name} | {counted / 1e6:.1f} | {least / 1e6:.1f} | {counted / least:.2f} | "
                f"{plain:.1f} | {compiled:.1f} | {least / speed:.1f} |"
            )
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
