"""Tree search for one player: in the true simulator, by exact snapshots, and in a model of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.arguments import check_number, check_whole_number
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.envs.snapshots import Snapshots
from mbrl_wrappers.models.world_model import WorldModel
from mbrl_wrappers.planners.tree import Root, Step
from mbrl_wrappers.planners.tree.games import Evaluate
from mbrl_wrappers.planners.tree.records import Array

Generators = Sequence[np.random.Generator]


class SimulatorExpansion:
    """A Gymnasium env as a search sees it: a state is a snapshot of the env, which is played in itself.

    The env is put back after each call, so that its episode goes on as if there had been no search. In a random env
    every step is played with the random numbers that the env itself draws next, so a search foresees the noise, which
    no agent could. A truncation ends an episode for a search too, because no reward is collected beyond it.

    Args:
        env: with Discrete actions, and supported by :class:`~mbrl_wrappers.envs.snapshots.Snapshots`; actions that an
            ``action_masks()`` of it forbids are illegal.
        evaluate: takes the ``B`` observations as a list; default: equal logits, and the return of random play.
        generators: for random play, one for each root.
        rollout_steps: of random play, at most.
        discount: of random play; the search has its own.

    Raises:
        ValueError: for another action space, an env that can't be restored exactly, arguments out of their range, or
            neither ``evaluate`` nor ``generators``.

    Example:
        >>> env = gym.make("CartPole-v1")
        >>> _ = env.reset(seed=0)
        >>> search = TreeSearch(32, zero_sum=False, discount=0.99)  # doctest: +SKIP
        >>> expansion = SimulatorExpansion(env, generators=root_generators(0, 1))  # doctest: +SKIP
        >>> result = search.search(expansion.root(), expansion, root_generators(1, 1), temperature=0)  # doctest: +SKIP
        >>> env.step(result.action[0])  # doctest: +SKIP
    """

    def __init__(
        self,
        env: gym.Env,
        evaluate: Evaluate | None = None,
        generators: Generators | None = None,
        *,
        rollout_steps: int = 50,
        discount: float = 0.99,
    ) -> None:
        self._space = _discrete(env.action_space)
        _check_evaluation(evaluate, generators, rollout_steps, discount)
        self.env = env
        self.evaluate = evaluate
        self.generators = generators
        self.rollout_steps = rollout_steps
        self.discount = discount
        self._snapshots = Snapshots(env)
        self._has_masks = env.has_wrapper_attr("action_masks")

    def root(self, obs: Any = None) -> Root:
        """Return the env's current state, for a search of one root; ``obs`` is for ``evaluate``."""
        legal, value, state = self._legal()[None], np.zeros(1), _objects([self._snapshots.take()])
        if self.evaluate is not None:
            logits, values = self.evaluate([obs])
            return Root(state, logits, values, legal)
        assert self.generators is not None
        value[0] = self._play(self.generators[0])
        self._snapshots.restore(state[0])
        return Root(state, np.zeros(legal.shape), value, legal)

    def __call__(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, Step]:
        """Take a step from each of ``B`` snapshots, see :data:`~mbrl_wrappers.planners.tree.records.Expand`."""
        now = self._snapshots.take()
        try:
            rows = [self._step(row, *pair) for row, pair in enumerate(zip(state, action, strict=True))]
        finally:
            self._snapshots.restore(now)
        states, observations, rewards, ended, values, legal = zip(*rows, strict=True)
        logits, value = np.zeros((len(rows), int(self._space.n))), np.array(values)
        if self.evaluate is not None:
            logits, value = self.evaluate(list(observations))  # type: ignore[assignment]
        return _objects(states), Step(np.array(rewards), np.array(ended), logits, value, np.array(legal))

    def _step(self, row: int, state: Any, action: int) -> tuple[Any, Any, float, bool, float, np.ndarray]:
        self._snapshots.restore(state)
        obs, reward, terminated, truncated, _ = self.env.step(self._space.start + action)
        ended, legal = bool(terminated or truncated), self._legal()
        state, value = self._snapshots.take(), 0.0
        if self.generators is not None and self.evaluate is None:
            value = 0.0 if ended else self._play(self.generators[row])
        return state, obs, scalar_reward(reward), ended, value, legal

    def _play(self, generator: np.random.Generator) -> float:
        """Return the return of random play from the env's state, which it changes."""
        total, factor = 0.0, 1.0
        for draw in generator.random(self.rollout_steps):
            legal = np.flatnonzero(self._legal())
            _, reward, terminated, truncated, _ = self.env.step(self._space.start + legal[int(draw * len(legal))])
            total += factor * scalar_reward(reward)
            factor *= self.discount
            if terminated or truncated:
                break
        return total

    def _legal(self) -> np.ndarray:
        if not self._has_masks:
            return np.ones(int(self._space.n), bool)
        return np.asarray(self.env.get_wrapper_attr("action_masks")(), bool)


class ModelExpansion:
    """A model as a search sees it: its states are those of :class:`~mbrl_wrappers.models.world_model.WorldModel`.

    Steps are the model's means, so that a search of one root does not depend on the others. A prediction that is not
    finite ends the search with an error.

    Args:
        model: of an env with Discrete actions.
        evaluate: takes ``model.features(state) [B, F]``; default: equal logits, and the return of random play.
        generators: for random play, one for each root.
        rollout_steps: of random play, at most.
        discount: of random play; the search has its own.

    Raises:
        ValueError: for another action space, arguments out of their range, or neither ``evaluate`` nor ``generators``.
    """

    def __init__(
        self,
        model: WorldModel,
        evaluate: Evaluate | None = None,
        generators: Generators | None = None,
        *,
        rollout_steps: int = 50,
        discount: float = 0.99,
    ) -> None:
        self._num_actions = int(_discrete(model.action_space).n)
        _check_evaluation(evaluate, generators, rollout_steps, discount)
        self.model = model
        self.evaluate = evaluate
        self.generators = generators
        self.rollout_steps = rollout_steps
        self.discount = discount

    @torch.no_grad()
    def root(self, obs: Tensor) -> Root:
        """Return the states in which episodes begin, by observations ``[B, D]``."""
        state = self.model.begin(obs)
        return Root(state, *self._evaluate(state, len(obs)), np.ones((len(obs), self._num_actions), bool))

    @torch.no_grad()
    def __call__(self, state: Any, action: np.ndarray) -> tuple[Any, Step]:
        """Imagine a step, see :data:`~mbrl_wrappers.planners.tree.records.Expand`."""
        state, prediction = self.model.step(state, self._one_hot(action), deterministic=True)
        logits, value = self._evaluate(state, len(action))
        legal = np.ones((len(action), self._num_actions), bool)
        return state, Step(prediction.reward, prediction.terminated, logits, value, legal)

    def _one_hot(self, action: np.ndarray) -> Tensor:
        index = torch.as_tensor(action, device=self.model.device)
        return torch.nn.functional.one_hot(index, self._num_actions).to(self.model.dtype)

    def _evaluate(self, state: Any, size: int) -> tuple[Array, Array]:
        if self.evaluate is not None:
            return self.evaluate(self.model.features(state))
        return np.zeros((size, self._num_actions)), self._play(state)

    def _play(self, state: Any) -> Tensor:
        """Return the returns ``[B]`` of random play in the model."""
        assert self.generators is not None
        draws = np.array(
            [generator.integers(self._num_actions, size=self.rollout_steps) for generator in self.generators]
        )
        total = torch.zeros(len(draws), device=self.model.device)
        factor = torch.ones_like(total)
        for action in draws.T:
            state, prediction = self.model.step(state, self._one_hot(action), deterministic=True)
            total += factor * prediction.reward
            factor = torch.where(prediction.terminated, 0.0, factor * self.discount)
            if not factor.any():
                break
        return total


def _discrete(space: gym.Space) -> spaces.Discrete:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"action_space must be Discrete for a tree search, got {space}")
    return space


def _check_evaluation(
    evaluate: Evaluate | None, generators: Generators | None, rollout_steps: int, discount: float
) -> None:
    check_whole_number("rollout_steps", rollout_steps)
    check_number("discount", discount, 0, 1)
    if (evaluate is None) == (generators is None):
        raise ValueError("either evaluate or generators must be given, for values by a network or by random play")


def _objects(values: Sequence[Any]) -> np.ndarray:
    """Return an array ``[B]`` of any objects."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
