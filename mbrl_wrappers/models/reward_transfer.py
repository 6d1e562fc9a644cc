"""A fitted ensemble without what it learned of the reward, so that another one can be given."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_wrappers.models.heads import Heads


def state_without_reward(state: dict[str, Tensor], heads: Heads, is_joint: bool) -> dict[str, Tensor]:
    """Return the state of an ensemble whose reward is given, from that of one which has learned it.

    Args:
        state: of the ensemble.
        heads: the layout of its network of next observations.
        is_joint: whether the last target of that network is the reward.

    Returns:
        The state without the reward's network or, in a joint network, without the reward's columns.
    """
    kept = {
        name: value
        for name, value in state.items()
        if name.split(".")[0] not in ("reward_network", "reward_normalizer", "reward_fn")
    }
    if not is_joint:
        return kept
    # Of each component's targets, ``[K, T]`` side by side, all but the last; twice, as means and as log-variances.
    of_gaussians = torch.arange(heads.gaussians).reshape(heads.components, heads.targets)[:, :-1].flatten()
    rest = torch.arange(2 * heads.gaussians, sum(heads.widths))
    columns = torch.cat([of_gaussians, heads.gaussians + of_gaussians, rest])
    last = max(int(name.split(".")[2]) for name in kept if name.startswith("network.weights."))
    taken = {
        f"network.weights.{last}": columns,
        f"network.biases.{last}": columns,
        "network.max_logvar": of_gaussians,
        "network.min_logvar": of_gaussians,
        "target_normalizer.mean": torch.arange(heads.targets - 1),
        "target_normalizer.std": torch.arange(heads.targets - 1),
    }
    return {name: value[..., taken[name].to(value.device)] if name in taken else value for name, value in kept.items()}
