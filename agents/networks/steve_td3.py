"""TD3's policy as the code of STEVE has it: the actor climbs all critics, and pays for actions near the bounds."""

from __future__ import annotations

import sys
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from mbrl_wrappers.arguments import check_number

# In float32 the largest number below 1, where the inverse of tanh is still finite.
_LARGEST = 1 - 2**-24


class MeanCritic(ContinuousCritic):
    """SB3's critics, whose mean the actor climbs, less a penalty on actions near the bounds.

    SB3's TD3 asks ``q1_forward`` for the actor's objective.

    Args:
        *args: SB3's.
        action_penalty: ``c`` of :class:`STEVETD3Policy`.
        **kwargs: SB3's.
    """

    def __init__(self, *args: Any, action_penalty: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_penalty = action_penalty

    def q1_forward(self, obs: Any, actions: Tensor) -> Tensor:
        """Return ``mean_i Q_i(s, a) - c mean_j u_j^2`` with ``a = tanh(u)``, ``[B, 1]``, for actions ``[B, A]``."""
        value = torch.cat(self.forward(obs, actions), dim=1).mean(dim=1, keepdim=True)
        before_tanh = torch.atanh(actions.clamp(-_LARGEST, _LARGEST))
        return value - self.action_penalty * before_tanh.square().mean(dim=1, keepdim=True)


class STEVETD3Policy(TD3Policy):
    """SB3's TD3 policy with the actor's objective of Buckman et al.'s code (2018).

    It is ``J = E[ mean_i Q_i(s, a) - c mean_j u_j^2 ]`` with ``a = tanh(u)``; SB3's is ``E[ Q_1(s, a) ]``, with which
    actors saturate: at the bounds tanh passes no gradient back. To be given in the place of ``"MlpPolicy"``.

    Deviation: ``u`` is computed from ``a``. Where float32 has ``a`` exactly at a bound, from about ``|u| = 9`` on, the
    penalty has no gradient either.

    Args:
        observation_space: of the env.
        *args: SB3's.
        action_penalty: ``c``, at least 0.
        **kwargs: SB3's.

    Raises:
        ValueError: for a negative penalty.

    Example:
        >>> agent = TD3(STEVETD3Policy, env, policy_kwargs={"n_critics": 4})  # doctest: +SKIP
        >>> agent.learn(5_000, callback=ModelBased(STEVE()))                  # doctest: +SKIP
    """

    def __init__(
        self, observation_space: spaces.Space, *args: Any, action_penalty: float = 0.001, **kwargs: Any
    ) -> None:
        check_number("action_penalty", action_penalty, 0, sys.float_info.max)
        self.action_penalty = action_penalty
        if isinstance(observation_space, spaces.Dict):
            kwargs = {"features_extractor_class": CombinedExtractor, **kwargs}
        super().__init__(observation_space, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "action_penalty": self.action_penalty}

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Make the critics; SB3's policy calls this for them and for their targets."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return MeanCritic(**kwargs, action_penalty=self.action_penalty).to(self.device)
