"""The cart-pole swing-up of PETS (Chua et al., 2018, arXiv:1805.12114), for Gymnasium and as torch functions.

Episodes never terminate and are truncated by the registered time limit. The reward is a function of ``next_obs`` and
the action.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from torch import Tensor

from mbrl_wrappers.tasks.checks import only_number
from mbrl_wrappers.tasks.swing_up import (
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
from mbrl_wrappers.tasks.task import Physics, Task, never, normal_rows

_ResetResult = tuple[np.ndarray, dict[str, Any]]
_StepResult = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class PETSCartpole(gym.Env[np.ndarray, np.ndarray]):
    """Swing up a pole that hangs from a cart, and hold it over the middle of the rail.

    The "cartpole" of PETS (Chua et al., 2018, arXiv:1805.12114). :mod:`mbrl_wrappers.tasks.swing_up` describes its
    bodies, forces and integrator, and the deviations from the original.

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
        state: ``[4]`` position, angle, velocity, angular velocity, in float64. May be set.
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
        pushed = only_number(action)
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


def _import_pygame() -> Any:
    try:
        import pygame
    except ImportError as error:
        raise DependencyNotInstalled("rendering needs pygame: pip install 'gymnasium[classic-control]'") from error
    return pygame


def _pets_cartpole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    position, cos, sin = next_obs[..., :3].unbind(-1)
    return swing_up_reward(position, cos, sin, action[..., 0].to(obs.dtype), torch)


def _swing_up_step(obs: Tensor, action: Tensor) -> Tensor:
    """Push the cart that a pole hangs from; ``obs`` is (x, cos, sin, x', theta')."""
    position, cos, sin, velocity, angle_velocity = obs.unbind(-1)
    pushed = action[:, 0].to(obs.dtype).clamp(-MAX_ACTION, MAX_ACTION)
    state = swing_up_step((position, torch.atan2(sin, cos), velocity, angle_velocity), pushed, torch)
    return _swing_up_obs(*state)


def _swing_up_obs(position: Tensor, angle: Tensor, velocity: Tensor, angle_velocity: Tensor) -> Tensor:
    return torch.stack([position, angle.cos(), angle.sin(), velocity, angle_velocity], dim=-1)


def _starts() -> Tensor:
    return _swing_up_obs(*normal_rows(START_STD, 4).unbind(-1))


TASKS = {
    "mbrl_wrappers/PETSCartpole-v0": Task(
        never, _pets_cartpole_reward, physics=Physics(swing_up_spaces, _swing_up_step, _starts)
    ),
}
