"""Policies of SB3's off-policy agents with SimBa's residual networks (Lee et al. 2025, arXiv:2410.09754)."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

EXPANSION = 4


class ResidualBlock(nn.Module):
    """``x + W2 relu(W1 norm(x))``, four times as wide inside, for ``x [..., D]`` (section 4.2 of the paper).

    Args:
        width: ``D``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, narrow = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)
        for layer in (wide, narrow):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.branch = nn.Sequential(nn.LayerNorm(width), wide, nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., D]``."""
        return x + self.branch(x)


class SimBaNetworks:
    """A mixin before a policy class of SB3: actor and critics are residual networks.

    ``net_arch`` has the width once for the embedding and once more for each residual block: ``{"pi": [128, 128], "qf":
    [512, 512, 512]}`` are the paper's one block for the actor and two for the critics. ``activation_fn`` is not used.
    For the paper's running normalisation of observations, wrap the env in ``VecNormalize(norm_reward=False)``.

    Deviation: heads keep SB3's initial weights.

    Raises:
        ValueError: if a ``net_arch`` is empty or of several widths.

    Example:
        >>> arch = {"pi": [128, 128], "qf": [512, 512, 512]}
        >>> agent = SAC(SimBaSACPolicy, env, policy_kwargs={"net_arch": arch})  # doctest: +SKIP
    """

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            kwargs = {"features_extractor_class": CombinedExtractor, **kwargs}
        super().__init__(observation_space, *args, **kwargs)  # type: ignore[call-arg]

    def make_actor(self, *args: Any, **kwargs: Any) -> Any:
        """Make the actor; SB3's policy calls this, and the next two, before it makes the optimizers."""
        actor = super().make_actor(*args, **kwargs)  # type: ignore[misc]
        hidden = [actor.latent_pi] if hasattr(actor, "latent_pi") else [actor.mu]
        return _with_residual_blocks(actor, hidden, actor.net_arch)

    def make_critic(self, *args: Any, **kwargs: Any) -> Any:
        """Make the critics, or their targets."""
        critic = super().make_critic(*args, **kwargs)  # type: ignore[misc]
        return _with_residual_blocks(critic, critic.q_networks, self.critic_kwargs["net_arch"])  # type: ignore[attr-defined]

    def make_q_net(self) -> Any:
        """Make DQN's network, or its target."""
        network = super().make_q_net()  # type: ignore[misc]
        return _with_residual_blocks(network, [network.q_net], network.net_arch)


def _with_residual_blocks(network: Any, perceptrons: list[Any], widths: list[int]) -> Any:
    """Replace the hidden layers of multilayer perceptrons, parts of ``network``, by residual blocks, in place."""
    if not widths or len(set(widths)) > 1:
        raise ValueError(f"net_arch must be one width, repeated for each residual block, got {widths}")
    for layers in perceptrons:
        embedding, head = layers[0], layers[2 * len(widths) :]  # behind each hidden layer stands its activation
        nn.init.orthogonal_(embedding.weight)
        nn.init.zeros_(embedding.bias)
        blocks = [ResidualBlock(widths[0]) for _ in widths[1:]]
        while len(layers):
            del layers[-1]
        layers.extend([embedding, *blocks, nn.LayerNorm(widths[0]), *head])
    return network.to(network.device)


class SimBaSACPolicy(SimBaNetworks, SACPolicy):
    """SAC's policy of residual networks."""


class SimBaTD3Policy(SimBaNetworks, TD3Policy):
    """TD3's policy of residual networks."""


class SimBaTQCPolicy(SimBaNetworks, TQCPolicy):
    """TQC's policy of residual networks."""


class SimBaDQNPolicy(SimBaNetworks, DQNPolicy):
    """DQN's policy of a residual network."""
