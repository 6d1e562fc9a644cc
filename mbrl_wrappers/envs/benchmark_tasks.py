"""Tasks of published comparisons of planners, for Gymnasium.

- :class:`PETSCartpole` of PETS (Chua et al., 2018, arXiv:1805.12114): swing up a pole.
- :class:`MBBLCartPole` and :class:`MBBLInvertedPendulum` of the benchmark of model-based reinforcement
  learning, MBBL (Wang et al., 2019, arXiv:1907.02057): keep a pole upright.

None of them terminates; the time limit that each is registered with truncates an episode. The rewards are
known functions of ``(obs, action, next_obs)``, so a model need not learn them.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.error import DependencyNotInstalled

from mbrl_wrappers.models.cart_poles import (
    MAX_ACTION,
    NUM_TIMESTEPS,
    POLE_LENGTH,
    RAIL_END,
    START_STD,
    TIMESTEP,
    swing_up_reward,
    swing_up_spaces,
    swing_up_step,
)

_ResetResult = tuple[np.ndarray, dict[str, Any]]
_StepResult = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class PETSCartpole(gym.Env[np.ndarray, np.ndarray]):
    """Swing up a pole that hangs from a cart, and hold it over the middle of the rail.

    The "cartpole" of PETS (Chua et al., 2018, arXiv:1805.12114), whose bodies, forces and integrator are
    in :mod:`mbrl_wrappers.models.cart_poles`, with what deviates from the original there.

    - Observation ``[x, cos(theta), sin(theta), x', theta']`` in m, m/s and rad/s. The original emits the
      angle, and its authors feed their model the sine and the cosine in its place.
    - Action ``[a]`` in [-3, 3]: a force of ``100 a`` N on the cart; larger ones are clipped.
    - Reward ``exp(-|tip - (0, 0.6)|^2 / 0.6^2) - 0.01 a^2`` of the state after the step, where the tip is
      at ``(x - 0.6 sin(theta), -0.6 cos(theta))``; ``a`` is not clipped here, as in the original.
    - An episode starts with each of ``x``, ``theta`` and their velocities drawn from ``N(0, 0.1^2)``, and
      is 200 steps of 0.04 s long.

    Args:
        render_mode: None, ``"rgb_array"`` or ``"human"``; both need pygame.

    Attributes:
        state: ``[4]`` position, angle, velocity, angle's velocity, in float64. May be set.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": ["human", "rgb_array"],
        "render_fps": round(1 / (TIMESTEP * NUM_TIMESTEPS)),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = swing_up_spaces()
        self.render_mode = render_mode
        self.state = np.zeros(4)
        self._window: Any = None
        self._clock: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _ResetResult:
        """Let the pole hang near the middle of the rail; no options are known."""
        super().reset(seed=seed)
        self.state = self.np_random.normal(0, START_STD, size=4)
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), {}

    def step(self, action: np.ndarray) -> _StepResult:
        """Push the cart for 0.04 s.

        Raises:
            ValueError: if the action is not one finite number.
        """
        pushed = _only_number(action)
        position, angle, velocity, angle_velocity = self.state.tolist()
        before = (position, angle, velocity, angle_velocity)
        after = swing_up_step(before, min(max(pushed, -MAX_ACTION), MAX_ACTION), math)
        self.state = np.array(after)
        reward = swing_up_reward(after[0], math.cos(after[1]), math.sin(after[1]), pushed, math)
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), reward, False, False, {}

    def _get_obs(self) -> np.ndarray:
        position, angle, velocity, angle_velocity = self.state.tolist()
        return np.array([position, math.cos(angle), math.sin(angle), velocity, angle_velocity], np.float32)

    def render(self) -> np.ndarray | None:
        """Draw the rail, the cart and the pole: ``[240, 600, 3]`` uint8, or in a window."""
        if self.render_mode is None:
            gym.logger.warn("render_mode must be given when the environment is made, got None")
            return None
        pygame = _import_pygame()
        picture = self._draw(pygame)
        if self.render_mode == "rgb_array":
            return pygame.surfarray.array3d(picture).swapaxes(0, 1)
        if self._window is None:
            pygame.display.init()
            self._window = pygame.display.set_mode(picture.get_size())
            self._clock = pygame.time.Clock()
        self._window.blit(picture, (0, 0))
        pygame.event.pump()
        self._clock.tick(self.metadata["render_fps"])
        pygame.display.flip()
        return None

    def _draw(self, pygame: Any) -> Any:
        width, height, scale = 600, 240, 100
        picture = pygame.Surface((width, height))
        picture.fill("white")

        def pixel(x: float, z: float) -> tuple[int, int]:
            return round(width / 2 + scale * x), round(height / 2 - scale * z)

        position, angle = self.state[:2].tolist()
        tip = pixel(position - POLE_LENGTH * math.sin(angle), -POLE_LENGTH * math.cos(angle))
        cart = pygame.Rect(0, 0, 40, 20)
        cart.center = pixel(position, 0)
        pygame.draw.line(picture, "gray", pixel(-RAIL_END, 0), pixel(RAIL_END, 0), width=4)
        pygame.draw.rect(picture, "black", cart, border_radius=10)
        pygame.draw.line(picture, "peru", cart.center, tip, width=10)
        for centre in (cart.center, tip):
            pygame.draw.circle(picture, "peru", centre, radius=5)
        return picture

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            _import_pygame().display.quit()
            self._window = self._clock = None


class _RewardedAnew(gym.Env[np.ndarray, np.ndarray]):
    """An environment of Gymnasium whose reward is another and whose episodes do not terminate.

    MBBL pays for the state that a step starts from, so that the reward is known before the step.
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

    The "CartPole" of MBBL (Wang et al., 2019, arXiv:1907.02057), also that of POPLIN (Wang and Ba, 2019,
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
        to_the_right = _only_number(action) > 0
        position, _, angle, _ = self.state
        self._env.steps_beyond_terminated = None  # CartPole-v1 warns of steps after its end
        obs, _, _, _, info = self._env.step(int(to_the_right))
        return obs, float(np.cos(angle) - 0.01 * position**2), False, False, info


class MBBLInvertedPendulum(_RewardedAnew):
    """Keep the pole of Gymnasium's InvertedPendulum-v5 upright, as the cart may stand anywhere.

    The "InvertedPendulum" of MBBL (Wang et al., 2019, arXiv:1907.02057). Spaces, start states and
    simulation are those of Gymnasium's environment; MBBL's was version 1 of it, of an older MuJoCo.

    - Observation ``[x, theta, x', theta']``; the pole is upright at 0.
    - Reward ``-theta^2`` of the state before the step, as in the original, so the best return is 0.
    - An episode is 100 steps of 0.04 s long, that of the original 101; a fallen pole does not end it.

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
        # made by its id, because the module of its class imports MuJoCo
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
        _only_number(action)
        angle = float(self._env.data.qpos[1])
        obs, _, _, _, _ = self._env.step(action)
        return obs, -(angle**2), False, False, {}


def _only_number(action: Any) -> float:
    """Return the one number of an action, refusing anything else."""
    array = np.asarray(action)
    if array.shape != (1,) or not math.isfinite(array[0]):
        raise ValueError(f"action must be one finite number of shape (1,), got shape {array.shape}: {action}")
    return float(array[0])


def _import_pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled("rendering needs pygame: pip install 'gymnasium[classic-control]'") from error
    return pygame
