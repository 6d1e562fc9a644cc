r"""MBPO on an environment of your own: any Gymnasium env will do.

    python examples/mbpo_on_your_env.py

The command line trains on it too, without a change to this library:

    mbrl-zoo train mbpo --env examples.mbpo_on_your_env:Hover -n 1000 \
        --params agent.learning_starts=200 agent.gradient_steps=5 dynamics.max_steps=500
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased


class Hover(gym.Env):
    """Hold a lift at height 0 by its thrust; falling out of [-2, 2] ends the episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Start at a random height, at rest."""
        super().reset(seed=seed)
        self._state = np.array([self.np_random.uniform(-1, 1), 0.0])
        self._steps = 0
        return self._state.astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Integrate for a tenth of a second; gravity is 0.5, full thrust is 2."""
        height, speed = self._state
        speed += 0.1 * (2.0 * float(action[0]) - 0.5)
        height += 0.1 * speed
        self._state = np.array([height, speed])
        self._steps += 1
        reward = 1.0 - height**2 - 0.1 * speed**2
        return self._state.astype(np.float32), reward, bool(abs(height) > 2), self._steps >= 100, {}


def main() -> None:
    """Train for 1,000 steps and evaluate."""
    torch.set_num_threads(1)
    env = Hover()
    agent = SAC("MlpPolicy", env, learning_starts=200, gradient_steps=5, policy_kwargs={"net_arch": [64, 64]}, seed=0)
    dynamics = EnsembleDynamics.for_env(env, hidden=(64, 64), max_steps=500)
    agent.learn(1_000, callback=ModelBased(Dyna(rollouts_per_step=100), dynamics, fit_every=200))
    mean, std = evaluate_policy(agent, Monitor(Hover()), n_eval_episodes=20)
    print(f"return {mean:.1f} ± {std:.1f} of at most 100")


if __name__ == "__main__":
    main()
