"""Models of frames that learn nothing, to compare a learned one with: nothing moves, and the rules of Sokoban."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_device
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.models.base import DynamicsModel
from mbrl_wrappers.models.described import DescribedBySettings
from mbrl_wrappers.models.env_specs import spaces_and_id
from mbrl_wrappers.tasks.grids import SokobanGames
from mbrl_wrappers.types import Prediction

Kind = TypeVar("Kind", bound="_FixedFrames")


class _FixedFrames(DescribedBySettings, DynamicsModel):
    """A model of frames without anything to learn."""

    takes_images: ClassVar[bool] = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space)
        check_device("device", device)
        self.settings: dict[str, Any] = {"seed": seed}
        self.to(device)

    @classmethod
    def for_env(cls: type[Kind], env: Any, **kwargs: Any) -> Kind:
        """Build a model for an environment.

        Args:
            env: an env id, a Gymnasium env, or a Stable-Baselines3 VecEnv.
            **kwargs: the constructor's arguments.
        """
        observation_space, action_space, _ = spaces_and_id(env)
        return cls(observation_space, action_space, **kwargs)

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Learn nothing: keep start states, and count the rows whose next frame and reward are foreseen.

        Returns:
            ``rows``, ``frame_accuracy`` and ``reward_accuracy``.

        Raises:
            ValueError: as :meth:`WorldModel.fit`.
        """
        transitions = experience.rows().to(self.device)
        self._check_transitions(transitions)
        said = self.predict(transitions.obs, transitions.action)
        right = (said.next_obs == transitions.next_obs).all(-1).double().mean()
        paid = ((said.reward - transitions.reward).abs() < 1e-4).double().mean()
        self._keep_start_states(transitions.obs, generator)
        return {"rows": float(len(transitions)), "frame_accuracy": float(right), "reward_accuracy": float(paid)}


class CopyDynamics(_FixedFrames):
    """The copy model of I2A (Weber et al. 2017): the next frame is the frame, and nothing is paid.

    An agent with it has the networks of one that imagines, and sees nothing in them that it does not see anyway.

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        seed: not used.
        device: of the model's tensors.
    """

    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Return the observation; see :meth:`DynamicsModel.predict`. Its uncertainty is 0."""
        for name, rows in (("obs", obs), ("action", action)):
            self._flatten(rows, name)  # refuses another width
        nothing = torch.zeros(obs.shape[:-1], dtype=self.dtype, device=self.device)
        return Prediction(obs, nothing, torch.zeros_like(nothing, dtype=torch.bool), nothing)


class SokobanDynamics(_FixedFrames):
    """The rules of Sokoban as a model: a frame shows all that matters, so every prediction is right.

    There is no such model of MiniPacman, whose frames do not show where ghosts look.

    Args:
        observation_space: that of :class:`~mbrl_wrappers.tasks.grids.Sokoban`.
        action_space: the same.
        seed: not used.
        device: of the model's tensors; the rules themselves run on the CPU.

    Raises:
        ValueError: for other spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(observation_space, action_space, seed=seed, device=device)
        shape, has_noop = observation_space.shape or (), action_space == spaces.Discrete(5)
        try:
            self._games = SokobanGames(1, size=shape[-1], num_boxes=1, noop=has_noop)
        except (IndexError, ValueError):
            raise ValueError(f"observation_space must be Sokoban's, got {observation_space}") from None
        for name, given in (("observation_space", observation_space), ("action_space", action_space)):
            if getattr(self._games, name) != given:
                raise ValueError(f"{name} must be Sokoban's {getattr(self._games, name)}, got {given}")

    @torch.no_grad()
    def predict(
        self,
        obs: Tensor,
        action: Tensor,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Take the true step; see :meth:`DynamicsModel.predict`. Its uncertainty is 0.

        Raises:
            ValueError: for another width, or frames that are none of Sokoban.
        """
        batch = obs.shape[:-1]
        frames, actions = self._flatten(obs, "obs").cpu().numpy(), self._flatten(action, "action").argmax(-1)
        games = self._games_for(len(frames))
        games.put_frames(frames)
        step = games.step(actions.cpu().numpy())
        reward = torch.as_tensor(step.reward, dtype=self.dtype, device=self.device).reshape(batch)
        terminated = torch.as_tensor(step.terminated, device=self.device).reshape(batch)
        next_obs = torch.as_tensor(games.boards.reshape(frames.shape).copy(), device=self.device)
        return Prediction(next_obs.reshape(obs.shape), reward, terminated, torch.zeros_like(reward))

    def _games_for(self, count: int) -> SokobanGames:
        """Return games for so many frames; those of the last call, if there were as many."""
        if self._games.num_games != count:
            one = self._games
            self._games = SokobanGames(count, size=one.size, num_boxes=1, noop=one.action_space.n == 5)
        return self._games
