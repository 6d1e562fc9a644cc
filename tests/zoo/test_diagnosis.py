"""The diagnosis of models that are right, wrong in a known way, or too sure of themselves."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers.agents import MAAC, STEVE, SVG
from mbrl_wrappers.envs import collect_transitions
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics, KnownDynamics
from mbrl_wrappers.zoo.analysis.diagnosis import diagnose, trusted_steps
from mbrl_wrappers.zoo.analysis.findings import Diagnosis
from mbrl_wrappers.zoo.analysis.gradients import gradient_norms
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.errors import ZooError
from testing.envs import Line
from testing.models import line_model

NOISE = 0.1
FEW: dict[str, Any] = {"steps": 400, "horizon": 10}


# ``x' = 0.9 x + 0.3 u + noise``, reward 1; an episode ends beyond 1.
Drift = functools.partial(
    Line, start=0.5, slope=0.9, speed=0.3, noise=NOISE, bound=10.0, reward=lambda x: 0 * x[..., 0] + 1,
    ends=lambda x: x[..., 0] > 1, limit=math.inf,
)  # fmt: skip


def drift(**wrong: Any) -> KnownDynamics:
    return line_model(Drift(), **wrong)


class Mixed(gym.Env):
    """Observations of two kinds, which random actions drive."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-1.0, 1.0, (2,), np.float32), "room": spaces.Discrete(3), "flags": spaces.MultiBinary(2)}
    )
    action_space = spaces.Discrete(2)

    def _observe(self) -> dict[str, Any]:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.left = 20
        return self._observe(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.left -= 1
        return self._observe(), float(action), False, self.left == 0, {}


def sac(env: Any, policy: str = "MlpPolicy") -> SAC:
    return SAC(policy, env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu")


def test_the_true_pendulum_is_trusted_throughout():
    env = gym.make("Pendulum-v1")
    d = diagnose(sac(gym.make("Pendulum-v1")), KnownDynamics.for_env("Pendulum-v1"), env, steps=400)
    assert len(d.error) == 30 and all(row.high < 1e-3 for row in d.error)
    assert d.trusted_steps == 30 and d.is_trusted_throughout
    assert d.calibration is None  # it has no spread to predict
    assert d.reward.given and d.reward.rmse < 1e-3 and 1 < d.reward.unit < 10
    assert (d.termination.given, d.termination.passes) == (True, 400)
    assert d.exploitation.steps == 100 and len(d.exploitation.real) == 20
    assert max(map(abs, d.exploitation.gaps)) < 0.1 and -1500 < np.mean(d.exploitation.real) < -50
    assert len(set(d.exploitation.real)) == 20


def test_a_model_that_promises_too_much_is_not_trusted():
    right = KnownDynamics.for_env("Pendulum-v1")
    wrong = KnownDynamics(
        right.observation_space,
        right.action_space,
        lambda obs, action: -obs,
        lambda obs, action, next_obs: 0 * obs[:, 0],
    )
    d = diagnose(sac(gym.make("Pendulum-v1")), wrong, gym.make("Pendulum-v1"), **FEW)
    assert d.trusted_steps == 0 and not d.is_trusted_throughout and d.error[0].median > 0.5
    assert d.exploitation.imagined == [0.0] * 20
    assert d.exploitation.mean == -np.mean(d.exploitation.real) > 50
    assert d.reward.rmse > 1


def test_the_spread_of_an_honest_model_is_that_of_its_errors():
    d = diagnose(sac(Drift()), drift(), TimeLimit(Drift(), 50), steps=1200, horizon=2)
    assert d.calibration is not None
    for predicted, observed in d.calibration.spread:
        assert observed == pytest.approx(predicted, rel=0.25)
    for nominal, observed in d.calibration.coverage:
        assert observed == pytest.approx(nominal, abs=0.04)


def test_a_model_that_is_too_sure_shows_half_the_spread():
    d = diagnose(sac(Drift()), drift(noise_std=NOISE / 2), TimeLimit(Drift(), 50), steps=1200, horizon=2)
    assert d.calibration is not None
    ratios = [observed / predicted for predicted, observed in d.calibration.spread]
    assert np.mean(ratios) == pytest.approx(2.0, rel=0.1)
    # Half of 1.645 standard deviations: the 90% interval holds what lies within 0.82 of them.
    assert dict(d.calibration.coverage)[0.9] == pytest.approx(math.erf(1.645 / 2 / math.sqrt(2)), abs=0.04)


def test_ends_are_counted_by_what_was_said_of_them():
    never = drift(termination_fn=None)
    blind = diagnose(sac(Drift()), never, TimeLimit(Drift(), 50), steps=500, horizon=2).termination
    assert not blind.given and blind.hits == blind.false_alarms == 0 and blind.misses > 0
    assert blind.misses + blind.passes == 500
    always = drift(termination_fn=lambda obs, action, next_obs: next_obs[..., 0] > -100)
    eager = diagnose(sac(Drift()), always, TimeLimit(Drift(), 50), steps=500, horizon=2).termination
    assert (eager.given, eager.hits, eager.false_alarms) == (True, blind.misses, blind.passes)


def test_to_miss_an_end_is_to_be_exploited():
    never = drift(termination_fn=None, step_fn=lambda obs, action: 0 * obs, noise_std=0.0)
    gap = diagnose(sac(Drift()), never, TimeLimit(Drift(), 500), **FEW).exploitation
    assert gap.steps == 100 and gap.imagined == [100.0] * 20
    assert min(gap.real) < 100 and gap.mean == pytest.approx(100 - np.mean(gap.real))


def test_a_time_limit_ends_both_halves_of_the_gap():
    never = drift(termination_fn=None)
    calm = TimeLimit(Drift(), 7)
    gap = diagnose(sac(Drift()), never, calm, steps=50, horizon=2).exploitation
    assert set(gap.imagined) == {7.0} and set(gap.real) <= {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}


def learned() -> EnsembleDynamics:
    dynamics = EnsembleDynamics.for_env(Drift(), hidden=(8,), max_steps=100, seed=0)
    dynamics.fit(collect_transitions(Drift(), dynamics, 300, seed=0), torch.Generator().manual_seed(0))
    return dynamics


def test_uncertainty_is_measured_along_imagined_rollouts():
    d = diagnose(sac(Drift()), learned(), Drift(), **FEW)
    assert d.uncertainty is not None
    assert [row.steps_ahead for row in d.uncertainty] == list(range(1, 11))
    assert all(0 < row.low < row.median < row.high < math.inf for row in d.uncertainty)
    assert d.horizon_weights is None  # the agent is no STEVE
    assert Diagnosis.from_json(d.to_json()) == d
    assert diagnose(sac(Drift()), drift(), Drift(), **FEW).uncertainty is None  # there is one member


def test_the_weights_of_steve_are_those_of_its_targets():
    agent, dynamics = sac(Drift()), learned()
    agent.learning_starts = 20
    agent.learn(60, callback=ModelBased(STEVE(2), dynamics, seed=0))
    d = diagnose(agent, dynamics, Drift(), **FEW)
    assert d.horizon_weights is not None
    assert len(d.horizon_weights) == 3
    assert sum(d.horizon_weights) == pytest.approx(1.0)
    assert all(weight > 0 for weight in d.horizon_weights)
    assert Diagnosis.from_json(d.to_json()) == d


def test_a_diagnosis_from_before_is_read():
    content = json.loads(diagnose(sac(Drift()), drift(), Drift(), **FEW).to_json())
    for name in ("uncertainty", "horizon_weights", "gradient_norms"):
        del content[name]
    old = Diagnosis.from_json(json.dumps(content))
    assert old.uncertainty is old.horizon_weights is old.gradient_norms is None


@pytest.mark.parametrize(("kind", "first"), [(MAAC, 0), pytest.param(SVG, 1, marks=pytest.mark.slow)])
def test_gradients_are_measured_by_horizon(kind, first):
    agent = kind("MlpPolicy", Drift(), policy_kwargs={"net_arch": [8]}, learning_starts=20, seed=0)
    agent.learn(30, callback=ModelBased(agent.default_strategy(), learned(), seed=0))
    weights = copy.deepcopy(agent.policy.state_dict())
    d = diagnose(agent, agent.model_based.dynamics, Drift(), **FEW)
    assert d.gradient_norms is not None
    assert [row.steps_ahead for row in d.gradient_norms] == list(range(first, 21))
    assert all(0 <= row.low <= row.median <= row.high < math.inf for row in d.gradient_norms)
    assert Diagnosis.from_json(d.to_json()) == d
    assert all(torch.equal(value, weights[name]) for name, value in agent.policy.state_dict().items())
    assert diagnose(sac(Drift()), learned(), Drift(), **FEW).gradient_norms is None  # nor does SAC take any


def test_the_gradient_of_a_first_action_is_the_sum_of_what_it_changes():
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    dynamics = KnownDynamics(space, Drift().action_space, lambda x, u: x + 3 * u, lambda x, u, x2: x2[:, 0])
    agent = MAAC("MlpPolicy", Drift(), policy_kwargs={"net_arch": [8]}, ent_coef=0.0, gamma=0.5, seed=0)
    for parameter in agent.policy.parameters():  # actions do not depend on states, and the critic says 0
        parameter.data.zero_()

    norms = gradient_norms(agent, dynamics, torch.linspace(-1, 1, 7)[:, None])

    assert norms is not None
    assert [row.median for row in norms[:4]] == pytest.approx([0, 3, 3 * 1.5, 3 * 1.75])
    assert norms[20].low == norms[20].high == pytest.approx(6, abs=1e-4)


def test_the_gradients_of_starts_that_diverge_are_left_out():
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def step(x, u):
        return (x + u) / (x < 5).float()

    dynamics = KnownDynamics(space, Drift().action_space, step, lambda x, u, x2: x2[:, 0])
    agent = MAAC("MlpPolicy", Drift(), policy_kwargs={"net_arch": [8]}, seed=0)
    norms = gradient_norms(agent, dynamics, torch.tensor([[0.0], [9.0]]))
    alone = gradient_norms(agent, dynamics, torch.tensor([[9.0]]))
    assert norms is not None and alone is not None
    assert 0 < norms[1].low == norms[1].high < math.inf
    assert alone[1].median == math.inf


def test_only_a_median_below_the_threshold_is_trusted():
    def rows(*medians: float) -> list[HorizonError]:
        return [HorizonError(step, 0.0, median, 9.0) for step, median in enumerate(medians, start=1)]

    assert trusted_steps(rows(0.1, 0.2, 0.3, 0.1)) == 2  # what comes down again is not trusted
    assert trusted_steps(rows(0.1, 0.2)) == 2
    assert trusted_steps(rows(0.25)) == 0
    assert trusted_steps(rows(0.1, math.nan)) == 1
    assert trusted_steps(rows(0.1, 0.6, 0.9), threshold=0.8) == 2


def test_a_model_that_runs_off_is_written_and_read():
    explosive = drift(step_fn=lambda obs, action: obs * 1e30, termination_fn=None, noise_std=0.0)
    d = diagnose(sac(Drift()), explosive, TimeLimit(Drift(), 50), steps=200, horizon=5)
    assert d.error[-1].median == math.inf and d.trusted_steps == 0
    assert b"Infinity" not in d.to_json() and b"NaN" not in d.to_json()
    assert Diagnosis.from_json(d.to_json()) == d


def test_agent_and_process_are_as_before():
    agent = sac(gym.make("Pendulum-v1"))
    agent.policy.set_training_mode(True)
    agent.action_space.seed(5)
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002 - it is what must not change
    random.seed(3)
    weights = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    seeds = list(agent.get_env()._seeds)

    def draws() -> tuple:
        state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        values = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        random.setstate(state[2])
        return values

    before = draws()
    first = diagnose(agent, KnownDynamics.for_env("Pendulum-v1"), gym.make("Pendulum-v1"), steps=210, horizon=5)
    assert draws() == before
    assert agent.policy.training and agent.get_env()._seeds == seeds
    assert all(torch.equal(value, weights[name]) for name, value in agent.policy.state_dict().items())
    sample = agent.action_space.sample()
    agent.action_space.seed(5)
    assert sample == agent.action_space.sample()
    torch.manual_seed(77)
    again = diagnose(agent, KnownDynamics.for_env("Pendulum-v1"), gym.make("Pendulum-v1"), steps=210, horizon=5)
    assert again == first
    assert (
        diagnose(agent, KnownDynamics.for_env("Pendulum-v1"), gym.make("Pendulum-v1"), steps=210, horizon=5, seed=1)
        != first
    )


def test_discrete_actions_and_observations_of_all_kinds():
    cart_pole = gym.make("CartPole-v1")
    d = diagnose(
        DQN("MlpPolicy", cart_pole, seed=0), KnownDynamics.for_env("CartPole-v1"), gym.make("CartPole-v1"), **FEW
    )
    assert d.is_trusted_throughout and d.exploitation.mean == 0 and d.termination.misses == 0 < d.termination.hits

    agent = DQN("MultiInputPolicy", Mixed(), policy_kwargs={"net_arch": [8]}, seed=0)
    model = EnsembleDynamics(
        Mixed.observation_space, Mixed.action_space, num_members=2, num_elites=2, hidden=[8], max_steps=10
    )
    d = diagnose(agent, model, Mixed(), steps=60, horizon=4)
    assert d.calibration is not None and len(d.calibration.spread) == 10
    assert not d.reward.given and d.exploitation.steps == 100
    assert Diagnosis.from_json(d.to_json()) == d


def test_the_agent_sees_what_its_normalizer_makes_of_observations():
    venv: Any = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    venv.obs_rms.mean = np.array([0.0, 0.0, 100.0])
    agent, plain = sac(venv), sac(gym.make("Pendulum-v1"))
    plain.policy.load_state_dict(agent.policy.state_dict())
    model = KnownDynamics.for_env("Pendulum-v1")
    normalized, raw = (diagnose(a, model, gym.make("Pendulum-v1"), steps=210, horizon=5) for a in (agent, plain))
    assert normalized.error != raw.error and normalized.exploitation.real != raw.exploitation.real
    assert max(map(abs, normalized.exploitation.gaps)) < 0.1  # the same in imagination


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"diagnosis\.json is not JSON"),
        ("[]", r"diagnosis\.json must hold a JSON object, got list"),
        ("{}", "a diagnosis must have the format_version 1, got None"),
        ('{"format_version": 1}', "text must be a diagnosis as JSON"),
        ('{"format_version": 1, "seed": "x"}', "text must be a diagnosis as JSON"),
    ],
)
def test_what_is_no_diagnosis_is_refused(text, message):
    with pytest.raises(ZooError, match=message):
        Diagnosis.from_json(text)


def test_another_version_is_refused():
    with pytest.raises(ZooError, match="must have the format_version 1, got 2"):
        Diagnosis.from_json('{"format_version": 2}')


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        diagnose(sac(Drift()), drift(), Drift(), steps=0)
