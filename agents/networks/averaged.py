"""Policies that act by a running average of the actor's weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor


class AveragedActor:
    """A mixin before a policy class of SB3's SAC or TD3, which averages the actor.

    After ``n`` updates the average moves towards the actor by ``max(1 - averaging, 9 / (n + 10))``: first it is over a
    ninth of all updates, so that the initial weights are soon forgotten. Deterministic predictions, those of an
    evaluation, are the average's; sampled ones, those of learning, the actor's own. So an agent learns the same, bit
    for bit, but what it has learned depends less on the last few updates.

    Args:
        observation_space: of the env.
        *args: SB3's.
        averaging: in [0, 1): how much of the average stays at each update of the actor, in the long run. 0.999 averages
            over some 1,000 updates.
        **kwargs: SB3's.

    Raises:
        ValueError: for ``averaging`` out of its range.
    """

    actor: Any
    num_averaged: Tensor

    def __init__(self, observation_space: spaces.Space, *args: Any, averaging: float = 0.999, **kwargs: Any) -> None:
        if not 0 <= averaging < 1:
            raise ValueError(f"averaging must be in [0, 1), got {averaging}")
        self.averaging = averaging
        if isinstance(observation_space, spaces.Dict):
            kwargs = {"features_extractor_class": CombinedExtractor, **kwargs}
        super().__init__(observation_space, *args, **kwargs)  # type: ignore[call-arg]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        with torch.random.fork_rng(devices=[]):  # the initial weights are not used
            self.average_actor: Any = self.make_actor()  # type: ignore[attr-defined]
        self.average_actor.load_state_dict(self.actor.state_dict())
        self.average_actor.requires_grad_(False)
        self.average_actor.set_training_mode(False)
        self.register_buffer("num_averaged", torch.zeros((), device=self.device))  # type: ignore[attr-defined]
        self._follow_updates()

    def _follow_updates(self) -> None:
        self.actor.optimizer.register_step_post_hook(_Follow(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; torch's optimizers lose their hooks where they are copied."""
        super().__setstate__(state)  # type: ignore[misc]
        self._follow_updates()

    @torch.no_grad()
    def follow_actor(self) -> None:
        """Move the average towards the actor; called after each step of the actor's optimizer."""
        weight = (9 / (self.num_averaged + 10)).clamp(min=1 - self.averaging)
        averages, values = list(self.average_actor.parameters()), list(self.actor.parameters())
        distances = torch._foreach_sub(values, averages)
        torch._foreach_mul_(distances, weight)
        torch._foreach_add_(averages, distances)
        for average, value in zip(self.average_actor.buffers(), self.actor.buffers(), strict=True):
            average.copy_(value)  # statistics are averages themselves
        self.num_averaged += 1

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        actor = self.average_actor if deterministic else self.actor
        return actor._predict(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "averaging": self.averaging}  # type: ignore[misc]


class _Follow:
    """What an actor's optimizer calls after each step."""

    is_capturable = True  # its tensors stay where they are

    def __init__(self, policy: AveragedActor) -> None:
        self._policy = policy

    def __call__(self, *args: Any) -> None:
        self._policy.follow_actor()


class AveragedSACPolicy(AveragedActor, SACPolicy):
    """SAC's policy with an averaged actor; see :class:`AveragedActor`.

    Example:
        >>> SAC(AveragedSACPolicy, "Hopper-v5", policy_kwargs={"averaging": 0.999}).learn(100_000)  # doctest: +SKIP
    """


class AveragedTD3Policy(AveragedActor, TD3Policy):
    """TD3's policy with an averaged actor; see :class:`AveragedActor`."""
