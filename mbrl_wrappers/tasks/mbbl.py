"""Tasks of the benchmark of model-based reinforcement learning, MBBL (Wang et al., 2019, arXiv:1907.02057).

In both, a pole is to be kept upright. Their episodes never terminate and are truncated by the registered time limit.
The reward is a function of ``obs``, the state before the step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from torch import Tensor

from mbrl_wrappers.tasks import cart_pole
from mbrl_wrappers.tasks.checks import only_number
from mbrl_wrappers.tasks.task import Physics, Task, never

_ResetResult = tuple[np.ndarray, dict[str, Any]]
_StepResult = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class _RewardedAnew(gym.Env[np.ndarray, np.ndarray]):
    """A Gymnasium environment with MBBL's reward, whose episodes do not terminate.

    MBBL rewards the state before the step, so that the reward is known in advance.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.render_mode = env.render_mode
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _ResetResult:
        """Start an episode as Gymnasium's environment does."""
        super().reset(seed=seed)
        self._env.np_random = self.np_random
        return self._env.reset(options=options)

    def render(self) -> Any:
        """Draw as Gymnasium's environment does."""
        return self._env.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self._env.close()


class MBBLCartPole(_RewardedAnew):
    """Keep the pole of Gymnasium's CartPole-v1 upright and the cart in the middle, for ever.

    The "CartPole" of MBBL (Wang et al., 2019, arXiv:1907.02057), also used by POPLIN (Wang and Ba, 2019,
    arXiv:1906.08649).

    - Observation ``[x, x', theta, theta']``, unbounded: neither the cart's position nor the pole's angle,
      0 where it is upright, ends an episode.
    - Action ``[a]`` in [-1, 1], of which only the sign counts: 10 N to the right where ``a > 0``, 10 N to
      the left where ``a <= 0``.
    - Reward ``cos(theta) - 0.01 x^2`` of the state before the step, as in the original.
    - An episode is 200 steps of 0.02 s long, so the best return is just below 200. The original stops
      after step 201, which explains returns above 200 in the literature.

    Args:
        render_mode: None, ``"rgb_array"`` or ``"human"``; both need pygame.

    Attributes:
        state: ``[4]`` the observation in float64. May be set.
    """

    metadata = CartPoleEnv.metadata

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(CartPoleEnv(render_mode=render_mode))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    @property
    def state(self) -> np.ndarray:  # noqa: D102
        return self._env.state

    @state.setter
    def state(self, state: np.ndarray) -> None:
        self._env.state = state

    def step(self, action: np.ndarray) -> _StepResult:
        """Push the cart for 0.02 s.

        Raises:
            ValueError: if the action is not one finite number.
        """
        to_the_right = only_number(action) > 0
        position, _, angle, _ = self.state
        self._env.steps_beyond_terminated = None  # CartPole-v1 warns of steps after its end
        obs, _, _, _, info = self._env.step(int(to_the_right))
        return obs, float(np.cos(angle) - 0.01 * position**2), False, False, info


class MBBLInvertedPendulum(_RewardedAnew):
    """Keep the pole of Gymnasium's InvertedPendulum-v5 upright; the cart may stand anywhere.

    The "InvertedPendulum" of MBBL (Wang et al., 2019, arXiv:1907.02057). Spaces, start states and
    simulation are Gymnasium's; MBBL used version 1 of the environment, with an older MuJoCo.

    - Observation ``[x, theta, x', theta']``; the pole is upright at 0.
    - Reward ``-theta^2`` of the state before the step, as in the original, so the best return is 0.
    - An episode is 100 steps of 0.04 s long, in the original 101; a fallen pole does not end it.

    Args:
        render_mode: as InvertedPendulum-v5 has it.

    Raises:
        DependencyNotInstalled: if MuJoCo is not installed.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        # Made by its id, since importing its class would import MuJoCo, which is optional.
        super().__init__(gym.make("InvertedPendulum-v5", render_mode=render_mode).unwrapped)

    def _get_obs(self) -> np.ndarray:
        return self._env._get_obs()

    def set_state(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Set ``[x, theta]`` and ``[x', theta']``."""
        self._env.set_state(positions, velocities)

    def step(self, action: np.ndarray) -> _StepResult:
        """Push the cart for 0.04 s; actions outside [-3, 3] are clipped.

        Raises:
            ValueError: if the action is not one finite number.
        """
        only_number(action)
        angle = float(self._env.data.qpos[1])
        obs, _, _, _, _ = self._env.step(action)
        return obs, -(angle**2), False, False, {}


def _mbbl_cart_pole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return obs[..., 2].cos() - 0.01 * obs[..., 0].square()


def _mbbl_inverted_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -obs[..., 1].square()


def _signed_cart_pole_step(obs: Tensor, action: Tensor) -> Tensor:
    """Push the cart to the right where the action is positive, to the left elsewhere; its gradient is 0."""
    return cart_pole.pushed(obs, 2 * (action[:, 0] > 0).to(obs.dtype) - 1)


def _spaces() -> tuple[spaces.Space, spaces.Space]:
    return spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


TASKS = {
    "mbrl_wrappers/MBBLCartPole-v0": Task(
        never, _mbbl_cart_pole_reward, physics=Physics(_spaces, _signed_cart_pole_step, cart_pole.starts)
    ),
    "mbrl_wrappers/MBBLInvertedPendulum-v0": Task(never, _mbbl_inverted_pendulum_reward),
}
