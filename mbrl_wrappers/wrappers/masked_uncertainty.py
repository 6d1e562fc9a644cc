"""Trust in a model as a wrapper around the environment that is imagined in it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

from mbrl_wrappers.envs.imagined import ImaginedEnv
from mbrl_wrappers.envs.vector_env import ImaginedVectorEnv
from mbrl_wrappers.models.trust import OnMask, Trust
from mbrl_wrappers.models.uncertainty import Measure


class MaskedUncertainty(gym.Wrapper[Any, Any, Any, Any]):
    """Masks, truncates or penalises imagined steps that the model is not sure of.

    ``info`` of a step holds ``"uncertainty"``, ``"masked"`` and ``"penalty"``; the penalty is already subtracted from
    the reward. The imagined env itself masks the steps, because it calls the model; the wrapper sets its ``trust``
    during a step and resets it afterwards. For Stable-Baselines3 give :class:`~mbrl_wrappers.envs.ImaginedVecEnv` a
    ``trust`` instead.

    Args:
        env: an :class:`~mbrl_wrappers.envs.ImaginedEnv` of an ensemble, with any wrappers.
        threshold: of the uncertainty; see :func:`~mbrl_wrappers.models.trust.calibrated_threshold`.
        measure, on_mask, penalty: see :class:`~mbrl_wrappers.models.trust.Trust`.

    Raises:
        ValueError: for any other env, a model with too few members, or a value out of its range.

    Example:
        >>> env = MaskedUncertainty(ImaginedEnv(dynamics), threshold=2.0, on_mask="truncate")  # doctest: +SKIP
    """

    def __init__(
        self,
        env: gym.Env,
        *,
        threshold: float,
        measure: str | Measure = "one_versus_rest",
        on_mask: OnMask = "mask",
        penalty: float = 0.001,
    ) -> None:
        super().__init__(env)
        imagined = env.unwrapped
        if not isinstance(imagined, ImaginedEnv):
            raise ValueError(f"env must be an ImaginedEnv, got {imagined!r}")
        self._episodes = imagined.episodes
        self._trust = Trust(measure, threshold=threshold, on_mask=on_mask, penalty=penalty)
        self._episodes.check_trust(self._trust)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, of which the model may not be sure."""
        with self._episodes.trusting(self._trust):
            return self.env.step(action)


class VectorMaskedUncertainty(VectorWrapper):
    """:class:`MaskedUncertainty` for a vector env, where the most certain share of each batch can be trusted instead.

    Args:
        env: an :class:`~mbrl_wrappers.envs.ImaginedVectorEnv` of an ensemble, with any wrappers.
        keep_rate, threshold, measure, on_mask, penalty: see :class:`~mbrl_wrappers.models.trust.Trust`.

    Raises:
        ValueError: as :class:`MaskedUncertainty`.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        keep_rate: float | None = None,
        threshold: float | None = None,
        measure: str | Measure = "one_versus_rest",
        on_mask: OnMask = "mask",
        penalty: float = 0.001,
    ) -> None:
        super().__init__(env)
        imagined = env.unwrapped
        if not isinstance(imagined, ImaginedVectorEnv):
            raise ValueError(f"env must be an ImaginedVectorEnv, got {imagined!r}")
        self._episodes = imagined.episodes
        self._trust = Trust(measure, keep_rate, threshold, on_mask, penalty)
        self._episodes.check_trust(self._trust)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step, of which the model may not be sure."""
        with self._episodes.trusting(self._trust):
            return self.env.step(actions)
