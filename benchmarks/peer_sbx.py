"""SBX's side: the updates of its SAC (Stable-Baselines3 in JAX), in an environment of its own (see ``peer.py``).

Reads the name of a case per line and answers with seconds per call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sbx import SAC
from stable_baselines3.common.logger import configure
from workload import ACTION_DIM, BATCH_SIZE, CASES, OBS_DIM, Update, make_rows, seconds_per_call


class Spaces(gym.Env[Any, Any]):
    """No more of an env than an agent needs to be built."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBS_DIM,))
    action_space = spaces.Box(-1, 1, (ACTION_DIM,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(OBS_DIM, np.float32), {}


def update_call(case: Update) -> Callable[[], object]:
    """Return ``train`` for ``case.calls`` gradient steps, compiled by its first call; batches are drawn too."""
    policy = {"net_arch": [case.units, case.units]}
    agent = SAC("MlpPolicy", Spaces(), buffer_size=10_000, policy_kwargs=policy, seed=0)
    rows = make_rows(10_000)
    for obs, action, next_obs, reward in zip(
        *(column.numpy()[:, None] for column in (rows.obs, rows.action, rows.next_obs, rows.reward)), strict=True
    ):
        agent.replay_buffer.add(obs, next_obs, action, reward, np.zeros(1), [{}])
    agent.set_logger(configure(None, []))
    agent._setup_learn(1)
    return lambda: agent.train(case.calls, BATCH_SIZE)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the library prints must not look like an answer
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cases = {case.name: case for case in CASES if isinstance(case, Update)}
    calls = {name: update_call(case) for name, case in cases.items()}
    for line in sys.stdin:
        name = line.strip()
        # Loss values are read at the end of ``train``, so nothing is left to be worked out behind the clock's back.
        print(seconds_per_call(calls[name], 1) / cases[name].calls, file=answers)


if __name__ == "__main__":
    main()
