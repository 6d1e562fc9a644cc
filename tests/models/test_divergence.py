"""A model that diverges, in numbers that are none or in values that run away: the agent learns on without it."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, ModelBased
from mbrl_wrappers.agents import M2AC, MVE, STEVE, Dyna
from mbrl_wrappers.models.divergence import RealRange, all_finite, has_diverged


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_of_finite_numbers_are_told_from_others(bad: float) -> None:
    rows = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert all_finite(rows).all() and all_finite(rows[..., :0]).all()
    rows[0, torch.arange(4), torch.arange(4)] = bad
    rows[1, 5, :2] = torch.tensor([bad, -bad])
    assert torch.equal(all_finite(rows), torch.isfinite(rows).all(-1)) and not all_finite(rows).all()
    assert not all_finite(torch.full((4,), 1e38))  # a sum that overflows


class Diverging(EnsembleDynamics):
    """Its weights explode in every fit."""

    factor = 1.0

    def fit(self, *args, **kwargs):
        report = super().fit(*args, **kwargs)
        with torch.no_grad():
            for weight in self.network.parameters():
                weight.mul_(self.factor)
        return report


@pytest.mark.parametrize("factor", [1e3, 1e12, float("nan")])
@pytest.mark.parametrize(
    "strategy",
    [
        lambda: Dyna(rollout_length=10, rollouts_per_step=5),
        lambda: M2AC(rollout_length=10, rollouts_per_step=5),
        lambda: MVE(horizon=5),
        lambda: STEVE(horizon=5),
    ],
    ids=["dyna", "m2ac", "mve", "steve"],
)
def test_an_agent_learns_on_with_a_model_that_diverged_and_says_so_once(strategy, factor):
    env = gym.make("Pendulum-v1")
    small = {"hidden": (8,), "max_steps": 5, "num_members": 3, "num_elites": 2}
    dynamics = Diverging.for_env(env, range_margin=None, **small)  # else states can't run away
    dynamics.factor = factor
    arguments = {"learning_starts": 50, "gradient_steps": 1, "batch_size": 32, "policy_kwargs": {"net_arch": [8]}}
    agent = SAC("MlpPolicy", env, seed=0, **arguments)
    with pytest.warns(UserWarning, match=r"the model diverged in \d+ imagined steps at step \d+") as said:
        agent.learn(110, callback=ModelBased(strategy(), dynamics, fit_every=20))
    assert len([warning for warning in said if "diverged" in str(warning.message)]) == 1
    assert agent.logger.name_to_value["imagination/diverged"] > 0
    assert all(weight.abs().max() < 10 for weight in agent.policy.parameters())  # also none that is not finite


def test_what_is_believed_lies_around_what_was_seen():
    believed = RealRange.around(torch.tensor([[-1.0, 5.0], [1.0, 5.0]]))
    obs = torch.tensor(
        [[300.0, 105.0], [302.0, 5.0], [0.0, 106.0], [-301.0, -95.0], [torch.nan, 5.0], [0.0, -torch.inf]]
    )
    assert believed.holds(obs).tolist() == [True, False, False, True, False, False]
    nothing_seen = RealRange.around(torch.zeros(0, 2))
    assert nothing_seen.holds(torch.tensor([[1e30, 0.0], [torch.inf, 0.0]])).tolist() == [True, False]


def test_a_step_has_diverged_where_anything_of_it_is_not_finite_or_not_believed():
    next_obs = torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [0.0, torch.inf], [0.0, 1.0], [500.0, 1.0]])
    reward = torch.tensor([1.0, 1.0, 1.0, torch.nan, 1.0])
    assert has_diverged(next_obs, reward).tolist() == [False, True, True, True, False]
    believed = RealRange.around(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert has_diverged(next_obs, reward, believed).tolist() == [False, True, True, True, True]


def test_bytes_never_run_away():
    frames = torch.tensor([[0, 255, 7], [255, 255, 9]], dtype=torch.uint8)
    assert RealRange.around(frames).holds(torch.tensor([[0, 0, 255], [255, 255, 0]], dtype=torch.uint8)).all()
    assert RealRange.around(frames[:0]).holds(frames).all()
