"""How the time of 1,000 env steps grows with the observation, the ensemble, the batch and the number of envs.

    python benchmarks/growth.py

MBPO(SAC) on an env of made-up dynamics that takes no time of its own, 100 env steps after 100 that are not counted,
times ten: 10 updates per env step, 400 rollouts per env step, a fit of 200 gradient steps every 100 env steps.
Writes docs/results/growth.md, growth.csv and growth.svg.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS
from gymnasium import spaces
from report import machine
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased
from mbrl_wrappers.agents import CompiledSAC
from mbrl_wrappers.zoo.report.plots import COLORS, new_figure, save_figure
from mbrl_wrappers.zoo.storage.tables import write_rows

ENV_STEPS, UPDATES_PER_STEP = 100, 10


@dataclass(frozen=True)
class Setting:
    """What is varied, one field at a time; the defaults are HalfCheetah's and the paper's."""

    obs_dim: int = 17
    num_members: int = 7
    batch_size: int = 256
    num_envs: int = 1


@dataclass(frozen=True)
class Growth:
    """One row of the table: seconds by the clock per 1,000 env steps, one thread."""

    varied: str
    value: int
    total: float
    fit: float
    imagine: float
    rest: float


AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "obs_dim": ("observation size", (4, 17, 45, 111, 376)),
    "num_members": ("members of the ensemble", (1, 3, 7, 15)),
    "batch_size": ("batch size of the agent", (64, 256, 1024)),
    "num_envs": ("envs in parallel", (1, 4, 16)),
}


class Drift(gym.Env[Any, Any]):
    """A point that drifts with the action."""

    def __init__(self, obs_dim: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.action_space = spaces.Box(-1, 1, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._obs = self.np_random.normal(size=self.observation_space.shape).astype(np.float32)
        return self._obs, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._obs = 0.9 * self._obs + 0.1 * action.mean()
        return self._obs, float(self._obs[0]), False, False, {}


def measure(setting: Setting) -> tuple[float, float, float]:
    """Return seconds per 1,000 env steps: in all, of fitting and of imagining."""
    env = DummyVecEnv([lambda: Drift(setting.obs_dim)] * setting.num_envs)
    dynamics = EnsembleDynamics(
        env.observation_space,
        env.action_space,
        num_members=setting.num_members,
        num_elites=min(5, setting.num_members),
        max_steps=200,
        patience=1_000_000,
        termination_fn="HalfCheetah-v5",
    )
    agent = CompiledSAC(
        "MlpPolicy",
        env,
        learning_starts=ENV_STEPS // 2,
        batch_size=setting.batch_size,
        gradient_steps=UPDATES_PER_STEP * setting.num_envs,
        buffer_size=10_000,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
        compile=True,
        device="cpu",
    )
    callback = ModelBased(Dyna(), dynamics, fit_every=ENV_STEPS)
    agent.learn(ENV_STEPS, callback=callback)  # compiles
    start = time.perf_counter()
    steps = agent.num_timesteps
    agent.learn(ENV_STEPS, callback=callback, reset_num_timesteps=False)
    scale = 1000 / (agent.num_timesteps - steps)
    logged = agent.logger.name_to_value
    fit, imagine = logged["dynamics/fit_seconds"], logged["imagination/seconds"]
    return scale * (time.perf_counter() - start), scale * fit, scale * imagine


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (_, values) in AXES.items():
        for value in values:
            total, fit, imagine = measure(dataclasses.replace(Setting(), **{name: value}))
            rows.append(Growth(name, value, *(round(s, 2) for s in (total, fit, imagine, total - fit - imagine))))
            print(rows[-1], flush=True)
    write_rows(RESULTS / "growth.csv", rows)
    (RESULTS / "growth.md").write_text(document(rows))
    draw(rows)


def document(rows: list[Growth]) -> str:
    where = machine()
    lines = [
        "# Time of 1,000 env steps",
        "",
        f"MBPO(CompiledSAC, 2 x 256) at {UPDATES_PER_STEP} updates and 400 rollouts per env step, a fit of 200",
        f"gradient steps every {ENV_STEPS} env steps; 17 observations, 7 members of 4 x 200, batch 256 and one env but",
        "for what is varied. Seconds per 1,000 env steps, one thread: in all, of fitting, of imagining; the rest is",
        "the agent's. Compiling is not counted. The default setting stands in each group: what differs there is noise.",
        f"Machine: {where['cpu']}, {where['vector_instructions']}, torch {where['torch']}.",
        "Written by `python benchmarks/growth.py`.",
        "",
        "![Time of 1,000 env steps](growth.svg)",
        "",
        "| varied | value | in all | fitting | imagining | the rest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {AXES[r.varied][0]} | {r.value} | {r.total:.0f} | {r.fit:.0f} | {r.imagine:.1f} | {r.rest:.0f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def draw(rows: list[Growth]) -> None:
    figure, axes = new_figure(2, "MBPO: seconds per 1,000 env steps on one CPU thread", rows=2)
    for ax, (name, (label, _)) in zip(axes, AXES.items(), strict=True):
        own = [row for row in rows if row.varied == name]
        for color, part in zip(COLORS, ("total", "rest", "fit", "imagine"), strict=False):
            words = {"total": "in all", "rest": "agent", "fit": "fitting", "imagine": "imagining"}
            ax.plot([r.value for r in own], [getattr(r, part) for r in own], "o-", color=color, label=words[part])
        ax.set_xlabel(label)
        ax.set_ylabel("seconds")
        ax.set_ylim(bottom=0)
        ax.legend(loc="best")
    save_figure(figure, RESULTS / "growth.svg")


if __name__ == "__main__":
    main()
