"""Planning by gradient: exact where the optimum is known, through models, and refused where there is no gradient."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_wrappers import MPCAction
from mbrl_wrappers.agents import PETS
from mbrl_wrappers.envs import SimulatorReturns
from mbrl_wrappers.models import KnownDynamics, TrajectoryReturns
from mbrl_wrappers.planners import CEM, GradientPlanner
from testing.models import seeded, small_ensemble

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


def test_it_climbs_to_the_optimum_of_a_system_with_a_closed_form() -> None:
    # x' = x + u, cost x^2 + u^2: the last action is 0, the others follow from Riccati's recursion.
    model = KnownDynamics.linear_quadratic([[1.0]], [[1.0]], [[1.0]], [[1.0]], action_bound=2.0)
    horizon, start = 5, torch.tensor([[1.0], [-0.5]])
    cost, gains = 0.0, []
    for _ in range(horizon):
        gains.append(cost / (1 + cost))
        cost = 1 + cost / (1 + cost)
    expected, state = [], start
    for gain in reversed(gains):
        expected.append(-gain * state)
        state = state + expected[-1]
    evaluate = TrajectoryReturns(model, num_particles=1)
    planner = GradientPlanner(model.action_space, horizon=horizon, iterations=150, learning_rate=0.05)
    plan = planner.plan(lambda actions: evaluate(start, actions, seeded()), planner.initial_state(2), seeded())
    assert torch.allclose(plan.actions, torch.stack(expected, 1), atol=2e-2)
    assert torch.allclose(plan.predicted_return, -cost * start[:, 0].square(), atol=1e-3)


def test_the_gradient_finds_the_top_of_the_hill_that_a_search_has_found() -> None:
    target = torch.tensor([0.513, 0.777])

    def objective(actions: torch.Tensor) -> torch.Tensor:
        return -(actions - target).square().sum((-1, -2))

    search = {"population": 20, "num_elites": 4, "iterations": 2}
    cem = CEM(BOX, horizon=3, **search)
    both = GradientPlanner(BOX, horizon=3, population=1, iterations=60, learning_rate=0.05, after_cem=search)
    found = [planner.plan(objective, planner.initial_state(1), seeded()).actions for planner in (cem, both)]
    errors = [float((actions - target).abs().max()) for actions in found]
    assert errors[1] < 1e-2 < errors[0]


def test_the_bounds_are_kept_while_climbing() -> None:
    seen = []

    def objective(actions: torch.Tensor) -> torch.Tensor:
        seen.append(actions.detach())
        return 100 * actions.sum((-1, -2))

    planner = GradientPlanner(BOX, horizon=2, population=3, iterations=30, learning_rate=1.0)
    plan = planner.plan(objective, planner.initial_state(1), seeded())
    assert all(
        (actions >= torch.tensor(BOX.low)).all() and (actions <= torch.tensor(BOX.high)).all() for actions in seen
    )
    assert torch.equal(plan.actions, torch.tensor(BOX.high).expand(1, 2, 2))


def test_sequences_whose_gradient_is_not_finite_stay_and_the_others_climb() -> None:
    def objective(actions: torch.Tensor) -> torch.Tensor:
        bad = torch.zeros(actions.shape[:2])
        bad[:, 1] = torch.nan
        return -(actions - 0.5).square().sum((-1, -2)) + bad * actions.sum((-1, -2))

    planner = GradientPlanner(BOX, horizon=2, population=3, iterations=100, learning_rate=0.05)
    plan = planner.plan(objective, planner.initial_state(1), seeded())
    assert torch.allclose(plan.actions, torch.full((1, 2, 2), 0.5), atol=1e-2)
    assert plan.returns[0, 1] == -torch.inf and plan.weights[0].tolist()[1] == 0


@pytest.mark.parametrize("propagation", ["TSinf", "TS1", "expectation", "DS", "MM"])
def test_a_learned_model_has_a_gradient_for_every_propagation(propagation: Any) -> None:
    model = small_ensemble("Pendulum-v1")
    evaluate = TrajectoryReturns(model, num_particles=4, propagation=propagation)
    actions = torch.zeros(1, 3, 4, 1, requires_grad=True)
    evaluate(torch.ones(1, 3), actions, seeded()).sum().backward()
    assert actions.grad is not None and (actions.grad[:, :, :-1] != 0).all()
    assert not evaluate(torch.ones(1, 3), actions.detach(), seeded()).requires_grad


def test_agents_and_wrappers_plan_with_it() -> None:
    kwargs: dict[str, Any] = {"horizon": 4, "population": 3, "iterations": 2}
    agent = PETS(
        "MlpPolicy", "Pendulum-v1", planner="Gradient", planner_kwargs=kwargs, learning_starts=20, train_freq=20,
        dynamics=small_ensemble("Pendulum-v1"), device="cpu", seed=0,
    )  # fmt: skip
    agent.learn(25)
    env = gym.make("Pendulum-v1")
    wrapped = MPCAction(env, agent.dynamics, GradientPlanner(env.action_space, **kwargs), seed=0)
    wrapped.reset(seed=0)
    assert np.isfinite(wrapped.step(env.action_space.sample())[4]["mpc"]["predicted_return"])


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 2]), spaces.Box(0, 5, (2,), np.int64)])
def test_actions_without_a_gradient_are_refused(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"action_space must be of Boxes of floats for a gradient, got .*: use iCEM"):
        GradientPlanner(space)


def test_a_simulator_is_refused() -> None:
    env = gym.make("Pendulum-v1")
    planner = GradientPlanner(env.action_space, horizon=3, population=2)
    wrapped = MPCAction(env, SimulatorReturns(env), planner)
    wrapped.reset(seed=0)
    with pytest.raises(ValueError, match="objective must be differentiable with respect to the actions"):
        wrapped.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("argument", "value"), [("iterations", 0), ("population", 0), ("learning_rate", 0.0), ("sigma", -0.1)]
)
def test_arguments_out_of_range_are_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be"):
        GradientPlanner(BOX, **{argument: value})
