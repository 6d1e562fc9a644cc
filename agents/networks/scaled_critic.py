"""Critics whose outputs are in units of the range of returns, so that raw rewards of any size suit them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy
from torch import Tensor, nn

from mbrl_wrappers.agents.networks.averaged import AveragedActor, AveragedSACPolicy
from mbrl_wrappers.agents.networks.simba import SimBaNetworks, SimBaSACPolicy

QUANTILES = (0.01, 0.99)


class ValueBounds(nn.Module):
    """The range of values that common rewards allow, followed slowly.

    With ``r`` the rewards of a batch, entropy bonus included, the bounds move towards ``quantile(r) / (1 - gamma)`` for
    the quantiles 0.01 and 0.99: the values of such a reward at every step for ever (the code of Kubo et al. 2025). They
    ignore rewards of less than a hundredth of the steps, and terminations, after which the value is 0.
    """

    bounds: Tensor
    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.tensor([-1.0, 1.0]))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def update(self, rewards: Tensor, gamma: float, rate: float) -> None:
        """Move the bounds towards a batch's; the first batch sets them.

        Args:
            rewards: of any shape, entropy bonus included; NaN where they don't count. A batch of NaN changes nothing.
            gamma: discount, below 1.
            rate: share of the distance that the bounds move, in (0, 1].
        """
        # One call per quantile, each a Python number: a CUDA graph can't copy a tensor of quantiles from the CPU.
        found = torch.stack([rewards.flatten().nanquantile(quantile) for quantile in QUANTILES]) / (1 - gamma)
        counts = found.isfinite().all()
        weight = torch.where(self.updates == 0, 1.0, rate) * counts
        self.bounds.add_(weight * (torch.where(counts, found, 0.0) - self.bounds))
        self.updates.add_(counts)

    def value(self, output: Tensor) -> Tensor:
        """Return the value that a network's output stands for: -1 is the lower bound, 1 the upper one."""
        low, high = self.bounds.unbind()
        return output * (high - low) / 2 + (high + low) / 2

    def clamp(self, values: Tensor) -> Tensor:
        """Return values with those outside the bounds moved onto them."""
        low, high = self.bounds.unbind()
        return values.clamp(low, high)


class ScaledCritic(ContinuousCritic):
    """SB3's critics with scaled outputs.

    Args:
        *args: SB3's.
        scale: the scale of the outputs, shared by critics and target critics.
        **kwargs: SB3's.
    """

    def __init__(self, *args: Any, scale: ValueBounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = scale

    def forward(self, obs: Any, actions: Tensor) -> tuple[Tensor, ...]:
        """Return the values ``[B, 1]`` of each critic."""
        return tuple(self.scale.value(output) for output in super().forward(obs, actions))


class _ScaledCritics:
    """A mixin that stands before a policy class of SB3's SAC: its critics and target critics share one scale."""

    critic_kwargs: dict[str, Any]
    device: torch.device

    def _build(self, lr_schedule: Any) -> None:
        self._scales = [ValueBounds()]  # in a list, so that it is a submodule, and saved, of the critics only
        super()._build(lr_schedule)  # type: ignore[misc]

    def make_critic(self, features_extractor: Any = None) -> ScaledCritic:
        """Make critics with this policy's scale."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)  # type: ignore[attr-defined]
        return ScaledCritic(**kwargs, scale=self._scales[0]).to(self.device)


class ScaledMlpPolicy(_ScaledCritics, SACPolicy):
    """SB3's ``MlpPolicy`` with scaled critics."""


class ScaledCnnPolicy(_ScaledCritics, CnnPolicy):
    """SB3's ``CnnPolicy`` with scaled critics."""


class ScaledMultiInputPolicy(_ScaledCritics, MultiInputPolicy):
    """SB3's ``MultiInputPolicy`` with scaled critics."""


class ScaledSimBaPolicy(SimBaNetworks, _ScaledCritics, SACPolicy):
    """:class:`~mbrl_wrappers.agents.networks.simba.SimBaSACPolicy` with scaled critics."""


class ScaledAveragedPolicy(AveragedActor, _ScaledCritics, SACPolicy):
    """:class:`~mbrl_wrappers.agents.networks.averaged.AveragedSACPolicy` with scaled critics."""


_SCALED: dict[type, type] = {
    SACPolicy: ScaledMlpPolicy,
    CnnPolicy: ScaledCnnPolicy,
    MultiInputPolicy: ScaledMultiInputPolicy,
    SimBaSACPolicy: ScaledSimBaPolicy,
    AveragedSACPolicy: ScaledAveragedPolicy,
}


@contextmanager
def scaled_critics(agent: SAC) -> Iterator[None]:
    """Let the policy that an agent makes in this context have :class:`ScaledCritic`.

    Raises:
        ValueError: for a policy that is none of SB3's SAC.
    """
    plain: Any = agent.policy_class
    if plain not in _SCALED:
        raise ValueError(
            "policy must be one of SAC's own, SimBaSACPolicy or AveragedSACPolicy with scaled_critic, got "
            f"{plain.__name__}"
        )
    agent.policy_class = _SCALED[plain]
    try:
        yield
    finally:
        agent.policy_class = plain
