"""Our side, and Stable-Baselines3's where it has one: the cases run on the library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from updates import FlopCounter
from workload import (
    ACTION_DIM,
    BATCH_SIZE,
    BINS,
    CASES,
    GROUPS,
    HIDDEN,
    HORIZON,
    LAYERS,
    LEARNING_RATE,
    LENGTH,
    NUM_ELITES,
    NUM_LAYERS,
    NUM_MEMBERS,
    NUM_PARTICLES,
    OBS_DIM,
    PLAN_ITERATIONS,
    SEQUENCES,
    STEPS_PER_FIT,
    WEIGHT_DECAY,
    Case,
    Fit,
    Latent,
    Plan,
    Rows,
    Step,
    Update,
    make_rows,
    make_sequences,
    seconds_per_call,
)

from mbrl_wrappers.agents import TDMPC2, CompiledSAC, Dreamer
from mbrl_wrappers.models import MDNRNN, RSSM, EnsembleDynamics, ImplicitModel, TrajectoryReturns
from mbrl_wrappers.models.fit import FitData, FitSettings, fit_ensemble
from mbrl_wrappers.models.mdn_rnn import Encoded

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (OBS_DIM,))
ACTION_SPACE = spaces.Box(-1, 1, (ACTION_DIM,))


def build_model() -> EnsembleDynamics:
    """Build the ensemble of the benchmark: learned reward, known termination (HalfCheetah never ends).

    The reward is an output of the network of next observations, as in mbrl-lib, so that both compute the same thing.
    """
    return EnsembleDynamics(
        OBSERVATION_SPACE,
        ACTION_SPACE,
        num_members=NUM_MEMBERS,
        num_elites=NUM_ELITES,
        hidden=[HIDDEN] * NUM_LAYERS,
        joint=True,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        termination_fn="HalfCheetah-v5",
    )


def fit_call() -> Callable[[], object]:
    """Return a call of ``fit_ensemble`` that takes ``STEPS_PER_FIT`` gradient steps, drawing its batches too."""
    network = build_model().network
    rows = make_rows(STEPS_PER_FIT * BATCH_SIZE)
    data = FitData(
        torch.cat([rows.obs, rows.action], dim=1),
        torch.cat([rows.next_obs - rows.obs, rows.reward[:, None]], dim=1),
        torch.zeros(len(rows.obs), 0),
        torch.ones(OBS_DIM + 1),
        torch.zeros(0),
    )
    holdout = data[torch.arange(1)]
    settings = FitSettings(
        learning_rate=LEARNING_RATE,
        weight_decay=[WEIGHT_DECAY] * (NUM_LAYERS + 1),
        batch_size=BATCH_SIZE,
        patience=5,
        min_epoch_steps=STEPS_PER_FIT,
        max_steps=STEPS_PER_FIT,
        beta_nll=0.0,
        holdout_metric="mse",
        averaging=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    return lambda: fit_ensemble(network, data, holdout, settings, generator)


def predict_call(model: EnsembleDynamics, case: Step) -> Callable[[], object]:
    """Return a call of ``predict`` that samples one step."""
    rows = make_rows(case.rows)
    generator = torch.Generator().manual_seed(0)
    return torch.no_grad()(lambda: model.predict(rows.obs, rows.action, generator=generator))


def plan_call(model: EnsembleDynamics, case: Plan) -> Callable[[], object]:
    """Return the evaluations of one plan, every particle with a random member at every step."""
    evaluate = TrajectoryReturns(model, num_particles=NUM_PARTICLES, propagation="TS1")
    obs, actions = make_rows(1).obs, make_sequences(case)[None]
    generator = torch.Generator().manual_seed(0)
    return lambda: [evaluate(obs, actions, generator) for _ in range(PLAN_ITERATIONS)]


class Spaces(gym.Env[Any, Any]):
    """No more of an env than an agent needs to be built."""

    observation_space, action_space = OBSERVATION_SPACE, ACTION_SPACE

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(OBS_DIM, np.float32), {}


def update_call(kind: type[SAC], case: Update, **options: Any) -> Callable[[], object]:
    """Return ``train`` for ``case.calls`` gradient steps of an agent with 10,000 transitions; batches are drawn too."""
    policy = {"net_arch": [case.units, case.units]}
    agent = kind("MlpPolicy", Spaces(), buffer_size=10_000, policy_kwargs=policy, seed=0, device="cpu", **options)
    _prepare(agent, make_rows(10_000))
    return lambda: agent.train(case.calls, BATCH_SIZE)


def _prepare(agent: Any, rows: Rows) -> None:
    """Give an agent transitions, and let it begin to learn."""
    for obs, action, next_obs, reward in zip(
        *(column.numpy()[:, None] for column in (rows.obs, rows.action, rows.next_obs, rows.reward)), strict=True
    ):
        agent.replay_buffer.add(obs, next_obs, action, reward, np.zeros(1), [{}])
    agent.set_logger(configure(None, []))
    agent._setup_learn(1)


def world_models_call(case: Latent) -> Callable[[], object]:
    """Return a gradient step of V or of M, at the paper's sizes, or steps of a dream."""
    frames = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    model = MDNRNN(frames, ACTION_SPACE, latent=32, memory=case.units, units=case.units)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step_down(losses: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    if case.what == "vision":
        obs = torch.randint(256, (100, model.obs_codec.dim), dtype=torch.uint8)
        return lambda: step_down(model.vision_loss(obs))
    if case.what == "memory":
        shape = (16, 256)
        of, action = torch.randn(*shape, 2, 32), torch.randn(*shape, ACTION_DIM)
        no = torch.zeros(shape, dtype=torch.bool)
        real = Encoded(of, action, torch.randn(shape), no, no)
        return lambda: step_down(model.memory_loss(real))
    start = model.state_of(torch.randn(256, sum(model.state_widths)))
    action = torch.rand(256, ACTION_DIM)

    def dream() -> None:
        state = start
        with torch.no_grad():
            for _ in range(10):
                state, _ = model.step(state, action)

    return dream


def latent_call(case: Latent) -> Callable[[], object]:
    """Return an update of Dreamer or TD-MPC2, or a plan of the latter's; their steps are of one episode."""
    if case.what in ("vision", "memory", "dream"):
        return world_models_call(case)
    rows = make_rows(2_000)
    rows = dataclasses.replace(rows, next_obs=rows.obs.roll(-1, dims=0))
    arguments: dict[str, Any] = {"buffer_size": 2_000, "seed": 0, "device": "cpu"}
    if case.what == "dreamer":
        sizes: dict[str, Any] = {"units": case.units, "bins": BINS, "layers": LAYERS}
        dreams = RSSM(OBSERVATION_SPACE, ACTION_SPACE, deter=case.units, latent=[GROUPS, GROUPS], **sizes)
        ratio = SEQUENCES * LENGTH  # an update for each step
        dreamer = Dreamer(
            "MlpPolicy", Spaces(), dynamics=dreams, policy_kwargs=sizes, batch_size=SEQUENCES, sequence_length=LENGTH,
            horizon=HORIZON, imagination_starts=case.starts, replay_ratio=ratio, **arguments,
        )  # fmt: skip
        _prepare(dreamer, rows)
        return lambda: dreamer.train(1, SEQUENCES)
    latent = ImplicitModel(OBSERVATION_SPACE, ACTION_SPACE, latent=case.units, units=case.units, episodic=False)
    arguments |= {"policy_kwargs": {"units": case.units}, "compile": True}
    agent = TDMPC2("MlpPolicy", Spaces(), dynamics=latent, **arguments)
    _prepare(agent, rows)
    agent.num_timesteps = 1
    agent.train(1, BATCH_SIZE)  # values of 0 would make all sequences alike
    if case.what == "tdmpc2":
        return lambda: agent.train(1, BATCH_SIZE)
    obs = make_rows(1).obs
    return lambda: agent._act(obs, agent._initial_state(1), 0)  # as while learning


class Side:
    """The cases of one side by name, ready to be timed."""

    def __init__(self, calls: dict[str, Callable[[], object]]) -> None:
        self._calls = calls

    def serves(self, case: Case) -> bool:
        """Tell whether the side has this case."""
        return case.name in self._calls

    def counted(self, case: Case) -> float:
        """Return the FLOPs of matrix products that a call of a case computes."""
        with torch.compiler.set_stance("force_eager"), FlopCounter() as counter:
            self._calls[case.name]()
        return counter.total

    def measure(self, case: Case) -> float:
        """Return seconds per call of a case."""
        if isinstance(case, Fit | Update):  # one call is many of them
            return seconds_per_call(self._calls[case.name], 1) / case.calls
        return seconds_per_call(self._calls[case.name], case.calls)


def ours() -> Side:
    """Build every case on this library."""
    model = build_model()
    calls: dict[str, Callable[[], object]] = {}
    for case in CASES:
        if isinstance(case, Fit):
            calls[case.name] = fit_call()
        elif isinstance(case, Step):
            calls[case.name] = predict_call(model, case)
        elif isinstance(case, Plan):
            calls[case.name] = plan_call(model, case)
        elif isinstance(case, Update):
            calls[case.name] = update_call(CompiledSAC, case, compile=True)
        elif isinstance(case, Latent):
            calls[case.name] = latent_call(case)
    return Side(calls)


def sb3() -> Side:
    """Build the cases that plain Stable-Baselines3 has."""
    return Side({case.name: update_call(SAC, case) for case in CASES if isinstance(case, Update)})
