"""Planners against closed forms, known optima and what they must never do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.envs.imagined import add_batch_axis
from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.models.action_returns import TrajectoryReturns
from mbrl_wrappers.planners import CEM, ICEM, MPPI, PLANNERS, Objective, Plan, Planner, PlannerState, RandomShooting
from mbrl_wrappers.planners.actions import ActionSet
from mbrl_wrappers.planners.noise import coloured_noise, truncated_normal
from mbrl_wrappers.spaces import FlatSpace
from testing.models import seeded

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32))
LOW, HIGH = torch.tensor(BOX.low), torch.tensor(BOX.high)
MIDDLE, HALF = (LOW + HIGH) / 2, (HIGH - LOW) / 2
UNIT = spaces.Box(-1.0, 1.0, (1,), np.float32)  # searched in its own units
CATEGORIES = spaces.Discrete(4)
TWO_PARTS = spaces.MultiDiscrete([3, 2])

SMALL: dict[str, dict[str, Any]] = {
    "RS": {"population": 64},
    "CEM": {"population": 64, "num_elites": 8, "iterations": 4},
    "iCEM": {"population": 64, "num_elites": 8, "iterations": 3},
    "MPPI": {"population": 64},
    "Gradient": {"population": 6, "iterations": 40},
}
REFITTED = ["CEM", "iCEM"]
WARM = ["CEM", "iCEM", "MPPI"]
FOR_CATEGORIES = ["RS", "CEM", "iCEM"]
CASES = [
    *[pytest.param(name, BOX, id=name) for name in SMALL],
    *[pytest.param(name, CATEGORIES, id=f"{name}-Discrete") for name in FOR_CATEGORIES],
    *[pytest.param(name, TWO_PARTS, id=f"{name}-MultiDiscrete") for name in FOR_CATEGORIES],
]


def make(name: str, space: spaces.Space = BOX, **kwargs: Any) -> Any:
    return PLANNERS[name](space, **{"horizon": 4, **SMALL[name], **kwargs})


def searched(actions: Tensor) -> Tensor:
    """Turn actions of BOX into units of the search, -1 and 1 being the bounds."""
    return (actions - MIDDLE) / HALF


def near(target: Any, weight: Any = 1.0) -> Objective:
    """Prefer actions near a target, ``[H, A]`` or ``[B, 1, H, A]``; all returns are negative."""
    return lambda actions: -100.0 - (weight * (actions - target).square()).sum((-1, -2))


class Recorded:
    """An objective that remembers what it was asked."""

    def __init__(self, objective: Callable[[Tensor], Tensor]) -> None:
        self.objective = objective
        self.asked: list[Tensor] = []
        self.said: list[Tensor] = []

    def __call__(self, actions: Tensor) -> Tensor:
        self.asked.append(actions.clone())
        self.said.append(self.objective(actions))
        return self.said[-1].clone()


def search(planner: Planner, objective: Objective, batch: int = 1, seed: int = 0, state: Any = None) -> Plan:
    return planner.plan(objective, planner.initial_state(batch) if state is None else state, seeded(seed))


def best_of(plan: Plan) -> Tensor:
    return plan.candidates[torch.arange(len(plan.candidates)), plan.returns.argmax(1)]


def assert_legal(space: spaces.Space, actions: Tensor) -> None:
    """Check that flat actions ``[..., A]`` are of the space, to the last bit."""
    flat = actions.flatten(0, -2)
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound).flatten() for bound in (space.low, space.high))
        assert ((flat >= low) & (flat <= high)).all()
    else:
        blocks = ActionSet(space).blocks
        assert ((flat == 0) | (flat == 1)).all()
        assert all((flat[:, first:end].sum(1) == 1).all() for first, end in blocks)


def moved(planner: Any, batch: int = 3) -> PlannerState:
    """Return a state in which no tensor is as at the start, in any row."""
    state = planner.initial_state(batch)
    target = torch.linspace(0.2, 0.8, batch)[:, None, None, None]
    for step in range(2):
        state = planner.plan(near(target), state, seeded(step)).state
    return state


# -- returns that are not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_returns_that_are_not_finite_rank_last_even_among_negative_ones(name, space, bad):
    planner = make(name, space)
    middle = planner.action_set.start(1)[0]
    border = MIDDLE[0] if isinstance(space, spaces.Box) else middle[0]

    def half_bad(actions: Tensor) -> Tensor:
        # The first action's first column decides: beyond the border nothing is finite.
        is_bad = actions[:, :, 0, 0] > border
        return torch.where(is_bad, bad, -1000.0 - actions.square().sum((-1, -2)))

    objective, state = Recorded(half_bad), planner.initial_state(2)
    for step in range(3):
        plan = planner.plan(objective, state, seeded(step))
        state = plan.state
        assert (~objective.said[0].isfinite()).any()
        beyond = plan.candidates[:, :, 0, 0] > border
        assert (plan.returns[beyond] == -math.inf).all() and (plan.weights[beyond] == 0).all()
        assert (plan.actions[:, 0, 0] <= border + 1e-6).all()
        assert (plan.predicted_return < -999).all() and plan.predicted_return.isfinite().all()
        torch.testing.assert_close(plan.weights.sum(1), torch.ones(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "space"), CASES)
def test_where_no_return_is_finite_the_plan_is_legal_and_the_search_goes_on(name, space, bad):
    planner = make(name, space)
    plan = search(planner, lambda actions: torch.full(actions.shape[:2], bad), batch=2)
    assert_legal(space, plan.actions)
    assert (plan.predicted_return == -math.inf).all() and (plan.weights == 0).all()
    assert all(torch.isfinite(value).all() for value in plan.state.values() if value.is_floating_point())
    after = search(planner, near(0.5), state=plan.state, batch=2)
    assert after.predicted_return.isfinite().all()


@pytest.mark.parametrize("name", WARM)
def test_where_no_return_is_finite_the_last_plan_is_kept(name):
    planner = make(name)
    state = moved(planner)
    plan = search(planner, lambda actions: torch.full(actions.shape[:2], math.nan), state=state)
    torch.testing.assert_close(searched(plan.actions), state["plan"])


@pytest.mark.parametrize("name", ["RS", "CEM", "iCEM", "MPPI"])
def test_one_environment_that_diverges_leaves_the_others_alone(name):
    planner = make(name)

    def objective(actions: Tensor) -> Tensor:
        returns = near(0.5)(actions)
        returns[1] = math.nan
        return returns

    plan, healthy = search(planner, objective, batch=3), search(planner, near(0.5), batch=3)
    assert plan.predicted_return[1] == -math.inf
    torch.testing.assert_close(plan.actions[[0, 2]], healthy.actions[[0, 2]])


@pytest.mark.parametrize("name", REFITTED)
def test_fewer_finite_returns_than_elites_are_all_the_elites_there_are(name):
    planner = make(name, iterations=1)

    def objective(actions: Tensor) -> Tensor:
        returns = near(0.5)(actions)
        returns[:, 3:] = math.nan
        return returns

    plan = search(planner, objective)
    assert plan.weights[0, :3].tolist() == pytest.approx([1 / 3] * 3) and (plan.weights[0, 3:] == 0).all()
    assert plan.predicted_return.isfinite().all()


# -- what the plan is made of --------------------------------------------------------------------------------


def test_random_shooting_returns_the_best_sequence_and_its_return():
    plan = search(make("RS"), near(0.5), batch=3)
    assert torch.equal(plan.actions, best_of(plan))
    assert torch.equal(plan.predicted_return, plan.returns.amax(1))
    assert plan.weights.sum(1).tolist() == [1.0] * 3 and plan.weights.amax(1).tolist() == [1.0] * 3


def test_the_sequences_of_random_shooting_are_uniform():
    drawn = search(make("RS", population=20_000, horizon=1), near(0.5)).candidates.reshape(-1, 2)
    for column in range(2):
        counts = torch.histc(drawn[:, column], 10, float(LOW[column]), float(HIGH[column]))
        assert (counts - 2000).abs().max() < 250
    drawn = search(RandomShooting(TWO_PARTS, horizon=1, population=20_000), near(0.5)).candidates.reshape(-1, 5)
    assert drawn.mean(0).tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2, abs=0.02)


def test_cem_returns_the_mean_of_the_elites_and_predicts_their_mean_return():
    plan = search(make("CEM", alpha=0.0, min_variance=0.0), near(0.5), batch=3)
    for row in range(3):
        elites = plan.returns[row].argsort(descending=True)[:8]
        torch.testing.assert_close(plan.actions[row], plan.candidates[row, elites].mean(0))
        torch.testing.assert_close(plan.predicted_return[row], plan.returns[row, elites].mean())
        assert sorted(plan.weights[row].nonzero()[:, 0].tolist()) == sorted(elites.tolist())
    torch.testing.assert_close(plan.actions, (plan.weights[..., None, None] * plan.candidates).sum(1))


def test_cem_of_categories_returns_the_likeliest_of_the_elites():
    plan = search(make("CEM", CATEGORIES, alpha=0.0, iterations=1), near(torch.tensor([1.0, 0, 0, 0])), batch=3)
    frequencies = (plan.weights[..., None, None] * plan.candidates).sum(1)
    likelihood = (frequencies[:, None] * plan.candidates).sum(-1).clamp(min=1e-6).log().sum(-1)
    best = likelihood.masked_fill(plan.weights == 0, -torch.inf).amax(1)
    for env in range(3):
        is_plan = (plan.candidates[env] == plan.actions[env]).all(-1).all(-1)
        assert (likelihood[env][is_plan & (plan.weights[env] > 0)] == best[env]).any()
    torch.testing.assert_close(plan.state["plan"][:, :-1], frequencies[:, 1:])


def test_a_plan_of_categories_is_no_mixture_of_good_sequences():
    def same_at_all_steps(actions: torch.Tensor) -> torch.Tensor:
        return (actions.mean(2).amax(-1) == 1).float()

    plan = search(make("CEM", CATEGORIES, alpha=0.0, iterations=1, population=2000), same_at_all_steps, batch=3)
    assert (same_at_all_steps(plan.actions[:, None]) == 1).all()


def test_icem_returns_the_best_sequence_of_its_last_iteration():
    calls = iter(range(9))
    # Every iteration is paid less than the one before, so the best of all sequences is an early one.
    objective = Recorded(lambda actions: near(0.5)(actions) - 1000.0 * next(calls))
    plan = search(make("iCEM"), objective, batch=3)
    assert torch.equal(plan.candidates, objective.asked[-1]) and len(objective.asked) == 3
    assert torch.equal(plan.actions, best_of(plan))
    assert torch.equal(plan.predicted_return, objective.said[-1].gather(1, plan.returns.argmax(1)[:, None])[:, 0])
    assert (plan.predicted_return < -2000).all()


def test_the_last_iteration_of_icem_evaluates_the_mean_too():
    objective = Recorded(near(0.5))
    plan = search(make("iCEM", alpha=0.0, iterations=2, kept_elites=0.0), objective)
    elites = objective.said[0][0].argsort(descending=True)[:8]
    torch.testing.assert_close(plan.candidates[0, -1], objective.asked[0][0, elites].mean(0))


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_plan_has_the_documented_shapes(name, space):
    planner = make(name, space)
    plan, width = search(planner, near(0.5), batch=3), planner.action_set.dim
    population = plan.returns.shape[1]
    assert plan.actions.shape == (3, 4, width) and plan.action.shape == (3, width)
    assert plan.candidates.shape == (3, population, 4, width) and plan.weights.shape == (3, population)
    assert plan.predicted_return.shape == (3,) and torch.equal(plan.action, plan.actions[:, 0])
    torch.testing.assert_close(plan.weights.sum(1), torch.ones(3))
    assert plan.state.keys() == planner.initial_state(3).keys()
    for value, fresh in zip(plan.state.values(), planner.initial_state(3).values(), strict=True):
        assert value.shape == fresh.shape and value.dtype == fresh.dtype


# -- what is sampled -----------------------------------------------------------------------------------------


def test_a_truncated_normal_has_its_closed_form_and_ends_at_two():
    numbers = truncated_normal(200_000, generator=seeded())
    within = math.erf(2**0.5)
    variance = 1 - 4 * math.exp(-2) / (2 * math.pi) ** 0.5 / within
    assert numbers.abs().max() <= 2 and numbers.abs().max() > 1.99
    assert numbers.std().item() == pytest.approx(variance**0.5, rel=0.02)
    assert (numbers.abs() < 1).float().mean().item() == pytest.approx(math.erf(0.5**0.5) / within, rel=0.02)


@pytest.mark.parametrize("mean", [0.0, 0.5, -0.5, 0.9, -0.99])
def test_cem_samples_within_two_standard_deviations_with_the_variance_of_pets(mean):
    planner = CEM(BOX, horizon=3, population=5000, num_elites=10, iterations=1)
    state = {"plan": torch.full((1, 3, 2), mean)}
    drawn = searched(search(planner, near(0.5), state=state).candidates)
    std = min((1 - abs(mean)) / 2, 0.25**0.5)
    assert (drawn - mean).abs().max() <= 2 * std + 1e-6 and (drawn - mean).abs().max() > 1.9 * std
    assert (drawn - mean).std().item() == pytest.approx(0.8796 * std, rel=0.03)
    # Nothing was cut off at a bound: what is within 1% of the range's half that is left is no heap.
    assert ((1 - drawn.abs()) < 0.02 * std).float().mean() < 0.01


@pytest.mark.parametrize("name", ["RS", "CEM", "iCEM", "MPPI"])
@pytest.mark.parametrize("target", [-50.0, 0.3, 50.0])
def test_no_candidate_and_no_plan_ever_leaves_the_bounds(name, target):
    planner = make(name)
    objective = Recorded(near(target))
    state = planner.initial_state(2)
    for step in range(6):
        plan = planner.plan(objective, state, seeded(step))
        state = plan.state
        assert_legal(BOX, plan.actions)
        assert (state["plan"].abs() <= 1).all()
    for asked in objective.asked:
        assert_legal(BOX, asked)


def test_mppi_and_icem_cut_samples_off_at_the_bounds():
    for planner in (make("MPPI", sigma=5.0), make("iCEM", init_std=2.0, iterations=1)):
        drawn = searched(search(planner, near(0.5)).candidates)
        assert (drawn.abs() > 0.999).float().mean() > 0.3


def test_the_noise_of_icem_is_as_wide_as_asked():
    for std in (0.05, 0.2):
        planner = make("iCEM", init_std=std, population=2000, iterations=1, kept_elites=0.0)
        assert searched(search(planner, near(0.5)).candidates).std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("name", FOR_CATEGORIES)
@pytest.mark.parametrize("space", [CATEGORIES, TWO_PARTS], ids=["Discrete", "MultiDiscrete"])
def test_candidates_of_categories_are_one_hot_in_each_part(name, space):
    objective = Recorded(near(0.5))
    plan = search(make(name, space), objective, batch=2)
    for asked in objective.asked:
        assert_legal(space, asked)
    assert_legal(space, plan.actions)


# -- how a distribution is refitted --------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFITTED)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_is_the_share_of_the_old_mean(name, alpha):
    planner = make(name, alpha=alpha, iterations=1)
    start = torch.full((1, 4, 2), 0.4)
    state = {**planner.initial_state(1), "plan": start}
    plan = search(planner, near(0.5), state=state)
    elites = plan.candidates[0, plan.returns[0].argsort(descending=True)[:8]]
    expected = alpha * start[0] + (1 - alpha) * searched(elites).mean(0)
    torch.testing.assert_close(plan.state["plan"][0, :-1], expected[1:])
    if name == "CEM":
        torch.testing.assert_close(searched(plan.actions)[0], expected)


@pytest.mark.parametrize("name", REFITTED)
def test_alpha_is_the_share_of_the_old_chances(name):
    planner = make(name, CATEGORIES, alpha=0.3, iterations=1)
    plan = search(planner, near(0.5))
    frequencies = (plan.weights[..., None, None] * plan.candidates).sum(1)
    torch.testing.assert_close(plan.state["plan"][0, :-1], 0.3 * 0.25 + 0.7 * frequencies[0, 1:])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_is_the_share_of_the_old_variance(alpha):
    objective = Recorded(near(torch.tensor([-0.5, 1.5])))  # the middle: no cap
    planner = CEM(BOX, horizon=1, population=5000, num_elites=100, iterations=2, alpha=alpha)
    search(planner, objective)
    first, second = (searched(asked[0]) for asked in objective.asked)
    elites = first[objective.said[0][0].argsort(descending=True)[:100]]
    mean = (1 - alpha) * elites.mean(0)
    variance = alpha * 0.25 + (1 - alpha) * elites.var(0, unbiased=False)
    noise = (second - mean) / torch.minimum(variance, ((1 - mean.abs()) / 2).square()).sqrt()
    assert noise.abs().max() <= 2 + 1e-3 and noise.std().item() == pytest.approx(0.8796, rel=0.03)


@pytest.mark.parametrize("space", [BOX, CATEGORIES], ids=["Box", "Discrete"])
def test_one_elite_is_enough(space):
    for name in REFITTED:
        planner = make(name, space, num_elites=1, **({"kept_elites": 1.0} if name == "iCEM" else {}))
        state = planner.initial_state(2)
        for step in range(3):
            plan = planner.plan(near(0.5), state, seeded(step))
            state = plan.state
            assert_legal(space, plan.actions)
            assert plan.predicted_return.isfinite().all()
            assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_all_candidates_may_be_elites():
    for name in REFITTED:
        plan = search(make(name, num_elites=64), near(0.5))
        assert_legal(BOX, plan.actions)


# -- when a search ends --------------------------------------------------------------------------------------


def test_cem_ends_once_all_variances_are_small():
    objective = Recorded(near(0.5))
    search(make("CEM", num_elites=1, alpha=0.0, iterations=50), objective)
    assert len(objective.asked) == 1  # one elite has no variance
    counts = []
    for least in (0.0, 0.001, 0.05):
        objective = Recorded(near(0.5))
        plan = search(make("CEM", iterations=12, min_variance=least), objective)
        counts.append(len(objective.asked))
        assert_legal(BOX, plan.actions)
    assert counts[0] == 12 > counts[1] > counts[2] > 1


def test_cem_of_categories_ends_once_they_are_settled():
    objective = Recorded(near(torch.tensor([0.0, 0, 1, 0])))
    plan = search(make("CEM", CATEGORIES, iterations=50, alpha=0.0, num_elites=1), objective)
    assert len(objective.asked) == 1
    plan = search(make("CEM", CATEGORIES, iterations=50, population=300), objective)
    assert len(objective.asked) < 25 and (plan.actions.argmax(-1) == 2).all()


def two_speeds(actions: Tensor) -> Tensor:
    """Rank the first environment by one entry alone, so that the others' variances take long to fall."""
    one_entry = -100 - (actions[..., 0, 0] - 0.5).square()
    return torch.where(torch.arange(len(actions))[:, None] == 0, one_entry, near(0.5)(actions))


def test_each_environment_stops_when_its_own_search_is_over():
    planner = make("CEM", iterations=15, min_variance=0.01)
    slow, fast, both = Recorded(two_speeds), Recorded(near(0.5)), Recorded(two_speeds)
    alone = search(planner, slow), search(planner, fast)
    together = search(planner, both, batch=2)
    assert len(fast.asked) < len(slow.asked) == len(both.asked)
    for row, plan in enumerate(alone):
        for one, many in zip(fields_of(plan), fields_of(together), strict=True):
            torch.testing.assert_close(many[row], one[0], msg=f"environment {row}")


# -- MPPI ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_the_plan_of_mppi_is_the_mean_weighted_by_exponential_returns(temperature):
    plan = search(make("MPPI", temperature=temperature), near(0.5), batch=3)
    weights = np.exp((plan.returns - plan.returns.amax(1, keepdim=True)).double().numpy() / temperature)
    weights /= weights.sum(1, keepdims=True)
    np.testing.assert_allclose(plan.weights.numpy(), weights, rtol=1e-3, atol=1e-6)
    expected = (weights[..., None, None] * plan.candidates.double().numpy()).sum(1)
    np.testing.assert_allclose(plan.actions.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plan.predicted_return, (weights * plan.returns.numpy()).sum(1), rtol=1e-4)


def test_a_cold_mppi_takes_the_best_and_a_hot_one_the_plain_mean():
    cold = search(make("MPPI", temperature=1e-6), near(0.5), batch=3)
    torch.testing.assert_close(cold.actions, best_of(cold))
    torch.testing.assert_close(cold.predicted_return, cold.returns.amax(1))
    hot = search(make("MPPI", temperature=1e8), near(0.5), batch=3)
    torch.testing.assert_close(hot.actions, hot.candidates.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hot.predicted_return, hot.returns.mean(1))


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_sigma_is_the_width_of_what_mppi_draws(sigma):
    plan = search(make("MPPI", sigma=sigma, population=2000), near(0.5))
    assert searched(plan.candidates).std().item() == pytest.approx(sigma, rel=0.05)


def test_a_wider_mppi_moves_further():
    distances = []
    for sigma in (0.05, 0.5):
        plan = search(make("MPPI", sigma=sigma, temperature=0.1), near(HIGH))
        distances.append(searched(plan.actions).mean().item())
    assert distances[1] > 2 * distances[0] > 0


def test_every_iteration_of_mppi_starts_from_the_mean_of_the_last():
    objective = Recorded(near(HIGH))
    plan = search(make("MPPI", sigma=0.05, temperature=0.1, iterations=5, population=500), objective)
    centres = [searched(asked).mean().item() for asked in objective.asked]
    assert len(centres) == 5 and centres == sorted(centres) and centres[-1] > centres[0] + 0.1
    assert torch.equal(plan.candidates, objective.asked[-1])


ELITES = {"num_elites": 6, "min_sigma": 0.1, "sigma": 1.5, "iterations": 3, "temperature": 0.5}


def test_mppi_with_elites_weights_only_these():
    plan = search(make("MPPI", num_elites=6, temperature=0.5), near(0.5), batch=3)
    for row in range(3):
        best = plan.returns[row].topk(6)
        chosen = torch.zeros(64).scatter(0, best.indices, torch.softmax(best.values / 0.5, 0))
        torch.testing.assert_close(plan.weights[row], chosen)


def test_the_noise_of_mppi_follows_the_elites_within_its_limits():
    """Two iterations by hand: the second one draws around the first one's mean with its elites' spread."""
    objective = Recorded(near(MIDDLE))
    planner = make("MPPI", **{**ELITES, "iterations": 2, "population": 4000, "num_elites": 50, "sigma": 0.4})
    search(planner, objective)
    first, second = (searched(asked[0]) for asked in objective.asked)
    best = objective.said[0][0].topk(50)
    weights = torch.softmax(best.values / 0.5, 0)[:, None, None]
    mean = (weights * first[best.indices]).sum(0)
    spread = (weights * (first[best.indices] - mean).square()).sum(0).sqrt().clamp(0.1, 0.4)
    inner = mean.abs() + 3 * spread < 1  # where hardly any sample is cut off
    assert inner.any()
    torch.testing.assert_close(second.mean(0)[inner], mean[inner], rtol=0.1, atol=0.02)
    torch.testing.assert_close(second.std(0)[inner], spread[inner], rtol=0.1, atol=0.0)


def test_the_spread_of_a_plan_is_that_of_its_elites():
    planner = make("MPPI", **ELITES)
    plan = search(planner, near(0.5), batch=2)
    candidates, mean = searched(plan.candidates), searched(plan.actions)
    variance = (plan.weights[..., None, None] * (candidates - mean[:, None]).square()).sum(1)
    torch.testing.assert_close(planner.spread_of(plan), variance.sqrt().clamp(0.1, 1.5), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="min_sigma must be given for a spread that follows"):
        make("MPPI").spread_of(plan)


def test_proposals_are_among_the_candidates_of_every_iteration():
    proposals = MIDDLE + 0.9 * HALF * (2 * torch.rand(2, 5, 4, 2, generator=seeded()) - 1)
    objective, planner = Recorded(near(0.5)), make("MPPI", **ELITES)
    plan = planner.plan(objective, planner.initial_state(2), seeded(), proposals)
    assert len(objective.asked) == 3 and plan.candidates.shape == (2, 64, 4, 2)
    for asked in objective.asked:
        torch.testing.assert_close(asked[:, :5], proposals)


def test_a_perfect_proposal_is_found_at_once():
    target = (MIDDLE + 0.8 * HALF).expand(1, 1, 4, 2)
    planner = make("MPPI", temperature=1e-3, sigma=0.01)
    plan = planner.plan(near(target[:, :1]), planner.initial_state(1), seeded(), target)
    torch.testing.assert_close(plan.actions, target[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 4, 2), (1, 5, 4, 2), (2, 5, 3, 2), (2, 5, 4, 1), (2, 64, 4, 2)])
def test_proposals_of_another_shape_are_named(shape):
    planner = make("MPPI")
    with pytest.raises(ValueError, match=r"proposals must have shape \[2, K, 4, 2\] with K below the population 64"):
        planner.plan(near(0.5), planner.initial_state(2), seeded(), torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_elites": 0}, "num_elites must be a whole number of at least 1, got 0"),
        ({"num_elites": 65}, "num_elites must be at most the population 64, got 65"),
        ({"min_sigma": 0.6}, r"min_sigma must be in \[0, 0.5\], got 0.6"),
    ],
)
def test_bad_elites_of_mppi_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("MPPI", **arguments)


# -- randomness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "space"), CASES)
def test_the_generator_alone_decides_and_moves_on_by_one_number(name, space):
    planner = make(name, space)
    g = seeded(3)
    first = planner.plan(near(0.5), planner.initial_state(2), g)
    torch.rand(7)
    again = planner.plan(near(0.5), planner.initial_state(2), seeded(3))
    for one, two in zip(fields_of(first), fields_of(again), strict=True):
        assert torch.equal(one, two)
    second = planner.plan(near(0.5), planner.initial_state(2), g)
    assert not torch.equal(first.candidates, second.candidates)
    expected = seeded(3)
    torch.randint(2**62, (2,), generator=expected)
    assert torch.equal(g.get_state(), expected.get_state())


def test_without_a_generator_torchs_own_decides():
    planner = make("CEM")
    plans = []
    for _ in range(2):
        torch.manual_seed(5)
        plans.append(planner.plan(near(0.5), planner.initial_state(1)).actions)
    assert torch.equal(*plans)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_given_state_is_not_changed(name, space):
    planner = make(name, space)
    state = moved(planner)
    before = {key: value.clone() for key, value in state.items()}
    search(planner, near(0.5), state=state)
    assert all(torch.equal(state[key], before[key]) for key in before)


def fields_of(plan: Plan) -> list[Tensor]:
    own = [plan.actions, plan.predicted_return, plan.candidates, plan.returns, plan.weights]
    return [*own, *plan.state.values()]


@pytest.mark.parametrize(("name", "space"), CASES)
def test_a_plan_does_not_depend_on_the_other_environments(name, space):
    own = {"iterations": 12, "min_variance": 0.02} if name == "CEM" else {}
    planner = make(name, space, **own)
    width = planner.action_set.dim
    targets = torch.rand(8, 1, 4, width, generator=seeded(1)) * 3 - 1
    weights = torch.rand(8, 1, 4, width, generator=seeded(2)) ** 3
    together, alone = planner.initial_state(8), planner.initial_state(1)
    for step in range(5):
        many = planner.plan(near(targets, weights), together, seeded(step))
        one = planner.plan(near(targets[3:4], weights[3:4]), alone, seeded(step))
        for part, of_one in zip(fields_of(many), fields_of(one), strict=True):
            torch.testing.assert_close(part[3:4], of_one, rtol=1e-4, atol=1e-5)
        together, alone = many.state, one.state


# -- known optima --------------------------------------------------------------------------------------------

THOROUGH: dict[str, dict[str, Any]] = {
    "RS": {"population": 20_000, "horizon": 1},
    "CEM": {"population": 300, "num_elites": 30, "iterations": 60, "min_variance": 0.0, "horizon": 2},
    "iCEM": {"population": 300, "num_elites": 30, "iterations": 15, "noise_exponent": 0.0, "horizon": 2},
    "MPPI": {"population": 400, "iterations": 40, "sigma": 0.2, "temperature": 0.05, "horizon": 2},
}


@pytest.mark.parametrize("name", THOROUGH)
@pytest.mark.parametrize("optimum", ["inside", "at a bound", "at the other bound", "beyond a bound"])
def test_a_known_optimum_is_found(name, optimum):
    planner = make(name, **THOROUGH[name])
    target = {
        "inside": torch.tensor([0.3, -0.4]),
        "at a bound": torch.tensor([1.0, -1.0]),
        "at the other bound": torch.tensor([-1.0, 1.0]),
        "beyond a bound": torch.tensor([1.5, 0.2]),
    }[optimum]
    found = search(planner, lambda actions: near(target)(searched(actions)), batch=2)
    assert (searched(found.actions) - target.clamp(-1, 1)).abs().max() < 0.12
    assert_legal(BOX, found.actions)


@pytest.mark.parametrize(
    ("name", "space", "horizon", "options"),
    [
        ("RS", CATEGORIES, 2, {"population": 500}),
        ("RS", TWO_PARTS, 2, {"population": 1000}),
        ("CEM", CATEGORIES, 8, {"population": 300, "num_elites": 30, "iterations": 10}),
        ("CEM", TWO_PARTS, 8, {"population": 300, "num_elites": 30, "iterations": 10}),
        ("iCEM", CATEGORIES, 8, {"population": 300, "num_elites": 30, "iterations": 10}),
        ("iCEM", TWO_PARTS, 8, {"population": 300, "num_elites": 30, "iterations": 10}),
    ],
)
def test_the_best_sequence_of_categories_is_found(name, space, horizon, options):
    planner = make(name, space, horizon=horizon, **options)
    best = planner.action_set.draw((horizon,), seeded(4))
    plan = search(planner, lambda actions: (actions * best).sum((-1, -2)), batch=2)
    assert torch.equal(plan.actions, best.expand(2, -1, -1))
    settled = plan.state["plan"][:, :-1] * best[1:]
    if name in REFITTED:
        assert (settled.sum(-1) > 0.9 * len(planner.action_set.blocks)).all()


@pytest.mark.parametrize("name", REFITTED)
def test_categories_that_a_search_had_settled_on_can_be_left(name):
    planner = make(name, CATEGORIES, population=200, iterations=10)
    state = search(planner, near(torch.tensor([1.0, 0, 0, 0]))).state
    plan = search(planner, near(torch.tensor([0.0, 0, 0, 1])), state=state)
    assert (plan.actions.argmax(-1) == 3).all()


def closed_form_cost(A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, x: np.ndarray, horizon: int) -> float:
    """Return the least cost of ``horizon`` steps from ``x``, by Riccati's recursion."""
    P = np.zeros_like(Q)
    for _ in range(horizon):
        gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P = Q + A.T @ P @ (A - B @ gain)
    return float(x @ P @ x)


@pytest.mark.parametrize("start", [(1.0, 0.0), (-0.5, 0.8)])
def test_cem_reaches_the_closed_form_of_a_linear_quadratic_system(start):
    A, B = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.5]])
    Q, R, horizon = np.eye(2), 0.1 * np.eye(1), 8
    evaluate = TrajectoryReturns(KnownDynamics.linear_quadratic(A, B, Q, R, action_bound=5.0), num_particles=1)
    obs = torch.tensor([start])
    planner = CEM(
        evaluate.dynamics.action_space, horizon=horizon, population=400, num_elites=40, iterations=25, min_variance=0.0
    )
    plan = search(planner, lambda actions: evaluate(obs, actions))
    best = closed_form_cost(A, B, Q, R, np.array(start), horizon)
    cost = -evaluate(obs, plan.actions[:, None]).item()
    assert best * (1 - 1e-4) <= cost <= best * 1.01
    assert -plan.predicted_return.item() == pytest.approx(best, rel=0.02)


def test_replanning_with_a_warm_start_finds_what_one_search_cannot():
    """A receding plan is improved from step to step."""
    target = torch.linspace(-0.8, 0.8, 8)[:, None]
    planner = CEM(UNIT, horizon=8, population=40, num_elites=8, iterations=1)
    state, errors = planner.initial_state(1), []
    for step in range(8):
        plan = search(planner, near(target), state=state, seed=step)
        errors.append((plan.actions[0] - target).square().mean().item())
        state = {"plan": torch.cat([plan.actions[:, :1], plan.state["plan"][:, :-1]], dim=1)}  # the same steps again
    assert errors[-1] < 0.5 * errors[0]


# -- coloured noise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 31])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_coloured_noise_has_mean_zero_and_unit_variance_at_every_step(steps, exponent):
    noise = coloured_noise(10_000, 2, steps=steps, exponent=exponent, generator=seeded())
    assert noise.shape == (10_000, 2, steps)
    assert noise.flatten(0, 1).mean(0).abs().max() < 0.04
    assert (noise.flatten(0, 1).var(0) - 1).abs().max() < 0.05


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_power_falls_with_the_frequency_to_the_exponent(exponent):
    noise = coloured_noise(4000, steps=64, exponent=exponent, generator=seeded())
    power = torch.fft.rfft(noise).abs().square().mean(0)[1:-1]
    frequencies = torch.arange(1, 32).float()
    slope = np.polyfit(frequencies.log().numpy(), power.log().numpy(), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_noise_of_exponent_zero_is_white_and_of_two_is_not():
    def correlation(exponent: float) -> float:
        noise = coloured_noise(20_000, steps=10, exponent=exponent, generator=seeded())
        return float((noise[:, 1:] * noise[:, :-1]).mean())

    assert abs(correlation(0.0)) < 0.02 and correlation(2.0) > 0.5


def test_the_sequences_of_icem_are_smoother_than_white_ones():
    roughness = []
    for exponent in (0.0, 3.0):
        planner = make("iCEM", noise_exponent=exponent, horizon=20, population=500, iterations=1, init_std=0.2)
        drawn = searched(search(planner, near(0.5)).candidates[:, :500])
        roughness.append((drawn[:, :, 1:] - drawn[:, :, :-1]).std().item())
    assert roughness[1] < 0.3 * roughness[0]


def test_coloured_categories_last_longer_and_are_as_frequent():
    changes = []
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for exponent in (0.0, 2.0):
        planner = make("iCEM", CATEGORIES, noise_exponent=exponent, horizon=20, population=4000, iterations=1)
        # Searches start halfway back to even chances.
        state = {**planner.initial_state(1), "plan": (2 * chances - 0.25).expand(1, 20, 4)}
        drawn = search(planner, near(0.5), state=state).candidates[0, :4000]
        torch.testing.assert_close(drawn.mean((0, 1)), chances, rtol=0, atol=0.02)
        changes.append(1 - (drawn[:, 1:] * drawn[:, :-1]).sum(-1).mean().item())
    assert changes[0] == pytest.approx(1 - chances.square().sum().item(), abs=0.02)
    assert changes[1] < 0.6 * changes[0]


# -- what iCEM keeps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "numbers"), [(1.25, [100, 80, 64, 51]), (1.0, [100] * 4), (10.0, [100, 20, 20, 20])])
def test_the_population_of_icem_shrinks_but_not_below_two_for_each_elite(decay, numbers):
    objective = Recorded(near(0.5))
    planner = make("iCEM", population=100, num_elites=10, iterations=4, population_decay=decay, kept_elites=0.3)
    search(planner, objective)
    sizes = [asked.shape[1] for asked in objective.asked]
    assert sizes == [number + 3 for number in numbers[:-1]] + [numbers[-1] + 3 + 1]  # kept ones, and the mean


def test_icem_evaluates_kept_elites_again():
    objective = Recorded(near(0.5))
    search(make("iCEM", kept_elites=0.5, iterations=4), objective, batch=2)
    for iteration in range(3):
        for row in range(2):
            returns = objective.said[iteration][row].clone()
            if iteration == 0:
                returns[-4:] = -math.inf  # nothing was kept yet
            best = objective.asked[iteration][row, returns.argsort(descending=True)[:4]]
            end = -1 if iteration == 2 else None
            kept = objective.asked[iteration + 1][row, -4 - (iteration == 2) : end]
            torch.testing.assert_close(kept, best)


def test_icem_carries_elites_over_by_one_step():
    planner = make("iCEM", kept_elites=0.5)
    fresh = planner.initial_state(2)
    assert fresh["elites"].shape == (2, 4, 4, 2) and not fresh["has_elites"].any()
    plan = search(planner, near(0.5), batch=2)
    assert plan.state["has_elites"].all()
    for row in range(2):
        best = plan.candidates[row, plan.returns[row].argsort(descending=True)[:4]]
        torch.testing.assert_close(plan.state["elites"][row, :, :-1], searched(best)[:, 1:])
    objective = Recorded(near(0.5))
    search(planner, objective, state=plan.state)
    torch.testing.assert_close(searched(objective.asked[0][:, -4:]), plan.state["elites"])


def test_icem_has_no_elites_before_the_first_plan():
    planner = make("iCEM", iterations=1, kept_elites=0.5)
    state = {**planner.initial_state(1), "plan": torch.full((1, 4, 2), 0.9)}
    # The best of all would be the middle, which is what stands in the place of elites that there are not.
    plan = search(planner, lambda actions: near(0.0)(searched(actions)), state=state)
    assert (plan.returns[0, 64:68] == -math.inf).all() and (plan.weights[0, 64:68] == 0).all()
    assert searched(plan.actions).abs().max() > 0.05


def test_icem_evaluates_the_likeliest_categories_last():
    objective = Recorded(near(torch.tensor([0.0, 0.2, 0.7, 0.1])))
    planner = make("iCEM", CATEGORIES, kept_elites=0.0, alpha=0.0, iterations=2)
    search(planner, objective)
    elites = objective.asked[0][0, objective.said[0][0].argsort(descending=True)[:8]]
    assert torch.equal(objective.asked[1][0, -1].argmax(-1), elites.mean(0).argmax(-1))
    assert_legal(CATEGORIES, objective.asked[1][0])


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_kept_elites_hold_what_few_sequences_of_categories_reach(exponent):
    # A walk of 40 steps is paid until it leaves [-2, 2] for the first time: most drawn ones do.
    def steps_inside(actions: Tensor) -> Tensor:
        inside = (place + (2 * actions[..., 0] - 1).cumsum(-1)).abs() <= 2
        return inside.to(actions).cumprod(-1).sum(-1)

    lengths = {}
    for share in (0.0, 0.5):
        planner = ICEM(
            spaces.Discrete(2), horizon=40, population=20, num_elites=4, iterations=2, kept_elites=share,
            noise_exponent=exponent,
        )  # fmt: skip
        state, place, predicted = planner.initial_state(1), 0.0, []
        for step in range(60):
            plan = planner.plan(steps_inside, state, seeded(step))
            state, place = plan.state, place + 2 * plan.action[0, 0].item() - 1
            predicted.append(plan.predicted_return.item())
        lengths[share] = sum(predicted) / len(predicted)
    assert lengths[0.5] > lengths[0.0] + 1


def test_kept_elites_make_the_next_plan_better():
    # One sequence in a thousand is good; only who keeps it has it again.
    target = torch.tensor([[0.9], [-0.9], [0.9], [-0.9], [0.9], [-0.9]])
    returns = {}
    for share in (0.0, 1.0):
        planner = ICEM(UNIT, horizon=6, population=20, num_elites=4, iterations=2, kept_elites=share, alpha=0.9)
        state, total = planner.initial_state(16), 0.0
        for step in range(10):
            target = -target  # what is best moves on with the plan
            plan = planner.plan(near(target), state, seeded(step))
            state, total = plan.state, total + plan.predicted_return.mean().item()
        returns[share] = total
    assert returns[1.0] > returns[0.0] + 1


def test_icem_without_kept_elites():
    planner = make("iCEM", kept_elites=0.0)
    state = planner.initial_state(2)
    assert state["elites"].shape == (2, 0, 4, 2)
    for step in range(2):
        plan = planner.plan(near(0.5), state, seeded(step))
        state = plan.state
    assert torch.equal(plan.actions, best_of(plan))


# -- state ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WARM)
def test_the_next_search_starts_one_step_later(name):
    planner = make(name, **({"alpha": 0.0, "min_variance": 0.0} if name == "CEM" else {}))
    plan = search(planner, near(0.5))
    if name != "iCEM":  # whose plan is no mean
        torch.testing.assert_close(plan.state["plan"][:, :-1], searched(plan.actions)[:, 1:])
        assert (plan.state["plan"][:, -1] == 0).all()
    else:
        assert torch.equal(plan.state["plan"][:, -1], plan.state["plan"][:, -2])


def test_the_first_search_starts_in_the_middle():
    for name in WARM:
        assert (make(name).initial_state(2)["plan"] == 0).all()
    start = make("CEM", TWO_PARTS).initial_state(2)["plan"]
    assert start.shape == (2, 4, 5) and torch.allclose(start[0, 0], torch.tensor([1 / 3] * 3 + [1 / 2] * 2))


@pytest.mark.parametrize(("name", "space"), CASES)
def test_reset_forgets_exactly_the_ended_environments(name, space):
    planner = make(name, space)
    state = moved(planner)
    fresh = planner.initial_state(3)
    if name != "RS":
        assert all((state[key][row] != fresh[key][row]).any() for key in state for row in range(3))
    before = {key: value.clone() for key, value in state.items()}
    after = planner.reset(state, torch.tensor([False, True, False]))
    assert after.keys() == state.keys()
    for key in state:
        assert torch.equal(after[key][1], fresh[key][1])
        assert torch.equal(after[key][[0, 2]], before[key][[0, 2]])
        assert torch.equal(state[key], before[key])
    everyone = planner.reset(state, torch.ones(3, dtype=torch.bool))
    assert all(torch.equal(everyone[key], fresh[key]) for key in fresh)


@pytest.mark.parametrize("name", WARM)
def test_a_proposal_is_the_first_action_that_the_search_starts_from(name):
    options = {"CEM": {"iterations": 1}, "iCEM": {"iterations": 1, "init_std": 0.05}, "MPPI": {"sigma": 0.05}}[name]
    planner = make(name, population=2000, **options)
    state = moved(planner, batch=2)
    before = {key: value.clone() for key, value in state.items()}
    proposals = torch.tensor([[-1.4, 0.6], [0.4, 2.4]])
    proposed = planner.propose(state, proposals)
    for key in state:
        assert torch.equal(state[key], before[key])
        if key != "plan":
            assert torch.equal(proposed[key], before[key])
    torch.testing.assert_close(proposed["plan"][:, 0], searched(proposals))
    assert torch.equal(proposed["plan"][:, 1:], before["plan"][:, 1:])
    drawn = search(planner, near(0.5), state=proposed).candidates[:, :2000, 0]
    assert (searched(drawn.mean(1)) - searched(proposals)).abs().max() < 0.06


@pytest.mark.parametrize("name", REFITTED)
def test_a_proposed_category_is_drawn_more_often(name):
    planner = make(name, CATEGORIES, iterations=1, population=4000)
    state = planner.propose(planner.initial_state(1), torch.tensor([[0.0, 0, 1, 0]]))
    drawn = search(planner, near(0.5), state=state).candidates[0, :4000, 0].mean(0)
    assert drawn.tolist() == pytest.approx([0.125, 0.125, 0.625, 0.125], abs=0.03)


@pytest.mark.parametrize("name", WARM)
@pytest.mark.parametrize("bound", [-2.0, 1.0])
def test_a_bad_proposal_at_a_bound_can_be_left(name, bound):
    options = {"sigma": 0.3, "temperature": 0.05, "iterations": 5} if name == "MPPI" else {"iterations": 5}
    planner = make(name, population=200, **options)
    state = planner.propose(planner.initial_state(1), torch.tensor([[bound, 1.5]]))
    plan = search(planner, near(MIDDLE), state=state)
    assert abs(searched(plan.action)[0, 0]) < 0.75


def test_random_shooting_takes_no_proposals():
    planner = make("RS")
    with pytest.raises(ValueError, match="planner must start from a proposal to be given one, got RandomShooting"):
        planner.propose(planner.initial_state(1), torch.zeros(1, 2))


# -- the actions that are searched ---------------------------------------------------------------------------

BOXES = {
    "asymmetric": BOX,
    "two axes": spaces.Box(-3.0, 7.0, (2, 2), np.float32),
    "double": spaces.Box(-0.1, 0.7, (3,), np.float64),
    "tiny": spaces.Box(1.0, 1.0 + 1e-5, (1,), np.float32),
    "large": spaces.Box(-1e30, 1e30, (1,), np.float32),
    "Dict": spaces.Dict(a=spaces.Box(-1.0, 2.0, (1,), np.float32), b=spaces.Box(5.0, 6.0, (2,), np.float32)),
}


@pytest.mark.parametrize("space", BOXES.values(), ids=BOXES)
def test_units_of_the_search_and_back(space):
    actions = ActionSet(space)
    assert not actions.discrete and actions.dim == spaces.flatdim(space)
    numbers = torch.rand(50, actions.dim, generator=seeded()) * 2 - 1
    ends = torch.tensor([-1.0, 1.0])[:, None].expand(2, actions.dim)
    low, high = actions.to_env(ends)
    flat = spaces.flatten_space(space)
    np.testing.assert_array_equal(low, flat.low.astype(np.float32))
    np.testing.assert_array_equal(high, flat.high.astype(np.float32))
    there = actions.to_env(numbers)
    assert ((there >= low) & (there <= high)).all()
    torch.testing.assert_close(
        actions.from_env(there), numbers, rtol=1e-4, atol=1e-4 if space != BOXES["tiny"] else 0.1
    )
    torch.testing.assert_close(actions.to_env(actions.start(1))[0], (low + high) / 2)


def test_what_lies_outside_is_brought_inside():
    actions = ActionSet(BOX)
    assert_legal(BOX, actions.to_env(torch.tensor([[-7.0, 7.0], [1.0000001, -1.0000001]])))
    assert actions.from_env(torch.tensor([[-50.0, 50.0]])).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("name", ["RS", "CEM", "iCEM", "MPPI"])
def test_a_range_of_zero_has_one_action(name):
    space = spaces.Box(np.array([0.7, -1.0], np.float32), np.array([0.7, 1.0], np.float32))
    planner = make(name, space)
    fixed = torch.tensor([[0.7, 0.5]])
    assert planner.action_set.from_env(fixed).isfinite().all()
    state = planner.initial_state(1) if name == "RS" else planner.propose(planner.initial_state(1), fixed)
    plan = search(planner, near(0.5), state=state)
    assert_legal(space, plan.actions)
    assert (plan.actions[..., 0] == fixed[0, 0]).all()


WHOLE = {
    "int64": spaces.Box(-2, 5, (2,), np.int64),
    "uint8": spaces.Box(0, 255, (1,), np.uint8),
    "int8 of the whole range": spaces.Box(-128, 127, (1,), np.int8),
    "bool": spaces.Box(0, 1, (3,), np.bool_),
    "one value": spaces.Box(np.array([3, 0]), np.array([3, 2]), dtype=np.int64),
    "beside floats": spaces.Dict(a=spaces.Box(-1.0, 1.0, (1,), np.float32), b=spaces.Box(1, 4, (1,), np.int32)),
}


@pytest.mark.parametrize("space", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("name", ["RS", "CEM", "iCEM", "MPPI"])
def test_whole_numbers_are_searched_and_lie_in_the_space(name, space):
    planner = make(name, space)
    codec = FlatSpace(space)
    action = codec.encode(add_batch_axis(space.sample()))
    state = planner.initial_state(1) if name == "RS" else planner.propose(planner.initial_state(1), action)
    plan = search(planner, near(0.5), state=state)
    for flat in (plan.actions[0], plan.candidates.flatten(0, 2)):
        decoded = codec.decode_numpy(flat)
        assert torch.equal(codec.encode(decoded), flat)  # nothing was left to round or cut off
    torch.testing.assert_close(planner.action_set.to_env(planner.action_set.from_env(action)), action)


@pytest.mark.parametrize("space", [space for space in WHOLE.values() if isinstance(space, spaces.Box)])
def test_each_whole_number_has_an_equal_share(space):
    actions = ActionSet(space)
    drawn = actions.to_env(actions.draw((200_000,), seeded()))
    for column, (low, high) in enumerate(zip(space.low.tolist(), space.high.tolist(), strict=True)):
        counts = torch.bincount((drawn[:, column] - int(low)).long(), minlength=int(high) - int(low) + 1)
        expected = len(drawn) / len(counts)
        assert len(counts) == int(high) - int(low) + 1
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_numbers_are_turned_into_categories_by_their_chances():
    actions = ActionSet(spaces.MultiDiscrete([3, 2]))
    assert actions.discrete and actions.blocks == [(0, 3), (3, 5)]
    chances = torch.tensor([0.2, 0.5, 0.3, 0.0, 1.0])
    chosen = actions.choose(chances, torch.tensor([[0.1, 0.0], [0.3, 0.5], [0.69, 0.5], [0.71, 0.999]]))
    assert chosen[:, :3].argmax(-1).tolist() == [0, 1, 1, 2]
    assert chosen[:, 3:].argmax(-1).tolist() == [1] * 4
    assert_legal(TWO_PARTS, chosen)


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), r"action_space must be bounded to be searched, got Box\(-inf"),
        (spaces.Box(0.0, np.inf, (1,), np.float32), "action_space must be bounded to be searched, got Box"),
        (spaces.Box(-np.inf, np.inf, (1,), np.int64), "action_space must be bounded to be searched, got Box.*int64"),
        (spaces.Box(-3e38, 3e38, (1,), np.float32), "action_space must be bounded to be searched, got Box"),
        (spaces.Dict(a=BOX, b=spaces.Box(0, np.inf, (1,), np.float64)), "action_space must be bounded .*, got Dict"),
        (spaces.MultiBinary(3), "action_space must be .* or of Boxes, got MultiBinary"),
        (
            spaces.Dict(a=spaces.Box(-1.0, 1.0, (1,), np.float32), b=spaces.Discrete(3)),
            "action_space must not mix .*, got Dict",
        ),
    ],
)
def test_spaces_that_cannot_be_searched_are_named(name, space, message):
    with pytest.raises(ValueError, match=message):
        make(name, space)


@pytest.mark.parametrize("space", [CATEGORIES, TWO_PARTS])
def test_mppi_has_no_categories(space):
    with pytest.raises(ValueError, match=r"action_space must be of Boxes for .*, got .*Discrete.*: use iCEM"):
        MPPI(space)


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        *[(name, "horizon", 0, "horizon must be a whole number of at least 1, got 0") for name in SMALL],
        *[(name, "horizon", 2.5, "horizon must be a whole number of at least 1, got 2.5") for name in SMALL],
        *[(name, "population", 0, "population must be a whole number of at least 1, got 0") for name in SMALL],
        *[(name, "num_elites", 65, "num_elites must be at most the population 64, got 65") for name in REFITTED],
        *[(name, "num_elites", 0, "num_elites must be a whole number of at least 1, got 0") for name in REFITTED],
        *[(name, "iterations", 0, "iterations must be a whole number of at least 1, got 0") for name in WARM],
        *[(name, "alpha", 1.5, r"alpha must be in \[0, 1\], got 1.5") for name in REFITTED],
        ("CEM", "alpha", math.nan, r"alpha must be in \[0, 1\], got nan"),
        ("CEM", "min_variance", -0.1, r"min_variance must be in \[0, 1\], got -0.1"),
        ("iCEM", "init_std", -1, r"init_std must be in \[0, 2\], got -1"),
        ("iCEM", "noise_exponent", -1, r"noise_exponent must be in \[0, 10\], got -1"),
        ("iCEM", "population_decay", 0.9, r"population_decay must be in \[1, 1e\+06\], got 0.9"),
        ("iCEM", "kept_elites", 1.1, r"kept_elites must be in \[0, 1\], got 1.1"),
        ("MPPI", "sigma", 0, r"sigma must be in \(0, 1e\+09\], got 0"),
        ("MPPI", "temperature", 0.0, r"temperature must be in \(0, 1e\+09\], got 0.0"),
    ],
)
def test_arguments_out_of_range_are_named_with_their_value(name, argument, value, message):
    with pytest.raises(ValueError, match=message):
        make(name, **{argument: value})


@pytest.mark.parametrize(("name", "space"), CASES)
@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda actions: torch.zeros(len(actions)), r"got \(2,\) of torch.float32"),
        (lambda actions: torch.zeros(*actions.shape[:2], 1), r"got \(2, \d+, 1\) of torch.float32"),
        (lambda actions: torch.zeros(actions.shape[:2]).T, r"got \(\d+, 2\) of torch.float32"),
        (lambda actions: torch.zeros(actions.shape[:2]).long(), r"got \(2, \d+\) of torch.int64"),
        (lambda actions: np.zeros(actions.shape[:2]), r"got array\("),
        (lambda actions: None, "got None"),
    ],
    ids=["batch only", "an axis more", "transposed", "whole numbers", "NumPy", "nothing"],
)
def test_an_objective_that_returns_something_else_is_named(name, space, returned, found):
    with pytest.raises(ValueError, match=r"objective must return a floating tensor of shape \(2, \d+\), " + found):
        search(make(name, space), returned, batch=2)


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_a_batch_that_there_is_not_is_named(batch):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, got {batch}"):
        make("CEM").initial_state(batch)


@pytest.mark.parametrize(("name", "space"), CASES)
def test_an_objective_in_double_precision_leaves_the_dtype_of_plans(name, space):
    plan = search(make(name, space), lambda actions: near(0.5)(actions).double())
    assert plan.actions.dtype == plan.state["plan"].dtype == torch.float32
