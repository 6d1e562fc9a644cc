"""SAC's policy with the critics of REDQ (Chen et al. 2021, arXiv:2101.05982)."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from mbrl_wrappers.arguments import check_whole_number


class REDQCritic(ContinuousCritic):
    """SB3's critics, of which targets take the least of a random few, and the actor the mean of all.

    SB3's SAC takes the least of what the critics return. So target critics return ``target_critics`` of their values,
    drawn anew at each call, and critics return their mean where the actions have a gradient: for the actor's loss.

    Attributes:
        target_critics: how many values are returned; None for all, as critics that are no targets do.
    """

    target_critics: int | None = None

    def forward(self, obs: Any, actions: Tensor) -> tuple[Tensor, ...]:
        """Return values ``[B, 1]``."""
        if self.target_critics is not None:
            drawn = torch.randperm(len(self.q_networks))[: self.target_critics].tolist()
            with torch.no_grad():
                features = self.extract_features(obs, self.features_extractor)
                pairs = torch.cat([features, actions], dim=1)
                return tuple(self.q_networks[index](pairs) for index in drawn)
        values = super().forward(obs, actions)
        return (torch.stack(values).mean(0),) if actions.requires_grad else values


class REDQPolicy(SACPolicy):
    """SB3's SAC policy with REDQ's critics: an ensemble that bears many updates per env step.

    Give it in the place of ``"MlpPolicy"``, with ``gradient_steps=20`` for the paper's ratio.

    Deviation: SB3's SAC updates its actor as often as its critics, REDQ after the last of the updates of an env step.

    Args:
        observation_space: of the env.
        *args: SB3's.
        n_critics: of the ensemble, ``N``; 10 in the paper.
        target_critics: of how many of them, drawn at each update, targets take the least value, ``M``; at most
            ``n_critics``.
        **kwargs: SB3's.

    Raises:
        ValueError: for numbers out of their range.

    Example:
        >>> SAC(REDQPolicy, "Hopper-v5", gradient_steps=20).learn(100_000)  # doctest: +SKIP
    """

    def __init__(
        self, observation_space: spaces.Space, *args: Any, n_critics: int = 10, target_critics: int = 2, **kwargs: Any
    ) -> None:
        check_whole_number("n_critics", n_critics)
        check_whole_number("target_critics", target_critics)
        if target_critics > n_critics:
            raise ValueError(f"target_critics must be at most n_critics, {n_critics}, got {target_critics}")
        self.target_critics = target_critics
        if isinstance(observation_space, spaces.Dict):
            kwargs = {"features_extractor_class": CombinedExtractor, **kwargs}
        super().__init__(observation_space, *args, **{**kwargs, "n_critics": n_critics})

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.critic_target, REDQCritic)
        self.critic_target.target_critics = self.target_critics

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "target_critics": self.target_critics}

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Make the critics; SB3's policy calls this for them and for their targets."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return REDQCritic(**kwargs).to(self.device)
