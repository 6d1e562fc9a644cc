"""REDQ's critics: the least of a random few for targets, the mean of all for the actor."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import SAC
from torch import Tensor

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import CompiledSAC, Dyna
from mbrl_wrappers.agents.networks import REDQPolicy
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3
from testing.envs import Walk
from testing.models import seeded, small_ensemble

PENDULUM = "Pendulum-v1"


def make_agent(kind: Any = SAC, env: Any = PENDULUM, **policy_kwargs: Any) -> Any:
    policy_kwargs = {"net_arch": [8], "n_critics": 4, **policy_kwargs}
    return kind(REDQPolicy, env, policy_kwargs=policy_kwargs, learning_starts=20, seed=0, device="cpu")


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, generator=seeded()), torch.rand(6, 1, generator=seeded())


def test_the_papers_numbers_are_the_defaults() -> None:
    agent = SAC(REDQPolicy, PENDULUM, device="cpu")
    assert len(agent.critic.q_networks) == len(agent.critic_target.q_networks) == 10
    assert len(agent.critic_target(*inputs())) == agent.policy.target_critics == 2


@pytest.mark.parametrize("target_critics", [1, 2, 4])
def test_targets_are_of_every_subset_and_of_no_other(target_critics: int) -> None:
    agent = make_agent(target_critics=target_critics)
    obs, action = inputs()
    pairs = torch.cat([obs, action], dim=1)
    values = torch.cat([layers(pairs) for layers in agent.critic_target.q_networks], dim=1)
    least = {of: values[:, of].min(dim=1).values for of in itertools.combinations(range(4), target_critics)}
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        found = torch.cat(agent.critic_target(obs, action), dim=1).min(dim=1).values
        (subset,) = [of for of, value in least.items() if torch.allclose(found, value)]
        seen.add(subset)
    assert seen == set(least)


def test_the_actor_climbs_the_mean_and_every_critic_learns() -> None:
    agent = make_agent()
    obs, action = inputs()
    values = torch.cat(agent.critic(obs, action), dim=1)
    assert values.shape == (6, 4)
    (mean,) = agent.critic(obs, action.requires_grad_())
    torch.testing.assert_close(mean, values.mean(dim=1, keepdim=True))
    before = [layers[0].weight.clone() for layers in agent.critic.q_networks]
    agent.learn(40)
    after = [layers[0].weight for layers in agent.critic.q_networks]
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert len({float(weight.detach().sum()) for weight in after}) == 4


def test_one_update_is_redqs() -> None:
    """SB3's losses, with the target and the objective of the paper written out."""
    agent = make_agent(target_critics=2)
    agent.learn(20)
    batch = agent.replay_buffer.sample(8)
    torch.manual_seed(1)
    drawn = torch.randperm(4)[:2].tolist()
    torch.manual_seed(1)
    next_values = torch.cat(agent.critic_target(batch.next_observations, batch.actions), dim=1)
    pairs = torch.cat([batch.next_observations, batch.actions], dim=1)
    expected = torch.cat([agent.critic_target.q_networks[index](pairs) for index in drawn], dim=1)
    assert torch.equal(next_values, expected) and not next_values.requires_grad


@pytest.mark.parametrize("form", ["box", "dict"])
def test_with_a_model_too(form: str) -> None:
    env = Walk(form)
    agent = make_agent(env=env)
    agent.learn(40, callback=ModelBased(Dyna(), small_ensemble(env), fit_every=20))


def test_the_compiled_agent_trains_it_as_sb3_does() -> None:
    weights = []
    for kind in (SAC, CompiledSAC):
        agent = make_agent(kind)
        agent.learn(40)
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert torch.equal(*weights)
    agent = make_agent(CompiledSAC)
    agent.compile = True
    with pytest.raises(ValueError, match="compile must be False or 'auto' for this agent, got True: the critic is a"):
        agent.learn(40)


def test_it_is_kept_in_files(tmp_path: Path) -> None:
    agent = make_agent(target_critics=3)
    agent.learn(30)
    agent.save(tmp_path / "agent.zip")
    zoo.save(agent, tmp_path / "saved", env=PENDULUM)
    import_sb3(tmp_path / "agent.zip", tmp_path / "imported", env=PENDULUM, episodes=0)
    loaded: list[Any] = [SAC.load(tmp_path / "agent.zip", device="cpu")]
    loaded += [zoo.load(tmp_path / name, device="cpu") for name in ("saved", "imported")]
    assert [type(other) for other in loaded] == [SAC, SAC, SAC]
    for other in loaded:
        assert other.policy.target_critics == other.critic_target.target_critics == 3
        assert other.critic.target_critics is None
        assert torch.equal(other.critic_target.q_networks[3][0].weight, agent.critic_target.q_networks[3][0].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_critics": 5}, "target_critics must be at most n_critics, 4, got 5"),
        ({"target_critics": 0}, "target_critics must be a whole number of at least 1, got 0"),
        ({"n_critics": 1.5}, "n_critics must be a whole number of at least 1, got 1.5"),
    ],
)
def test_numbers_out_of_their_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**arguments)
