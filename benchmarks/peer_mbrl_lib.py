"""The peer's side: the cases run on mbrl-lib 0.2.0, in an environment of its own (see ``peer.py``).

Reads the name of a case per line and answers with seconds per call.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from mbrl.env.termination_fns import no_termination
from mbrl.models import GaussianMLP, ModelEnv, ModelTrainer, OneDTransitionRewardModel
from mbrl.third_party.pytorch_sac_pranz24.sac import SAC
from mbrl.types import TransitionBatch
from mbrl.util.replay_buffer import BootstrapIterator, ReplayBuffer
from workload import (
    ACTION_DIM,
    BATCH_SIZE,
    CASES,
    HIDDEN,
    LEARNING_RATE,
    NUM_ELITES,
    NUM_LAYERS,
    NUM_MEMBERS,
    NUM_PARTICLES,
    OBS_DIM,
    PLAN_ITERATIONS,
    STEPS_PER_FIT,
    WEIGHT_DECAY,
    Case,
    Fit,
    Latent,
    Plan,
    Step,
    Update,
    make_rows,
    make_sequences,
    seconds_per_call,
)


def build_model() -> OneDTransitionRewardModel:
    """Build what its MBPO recipe builds, with learned bounds as ours; its normaliser in float32 as ours."""
    network = GaussianMLP(
        OBS_DIM + ACTION_DIM,
        OBS_DIM + 1,
        "cpu",
        num_layers=NUM_LAYERS,
        ensemble_size=NUM_MEMBERS,
        hid_size=HIDDEN,
        propagation_method="random_model",
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(network, normalize=True, learned_rewards=True, num_elites=NUM_ELITES)
    model.set_elite(range(NUM_ELITES))
    return model


def fit_call() -> Callable[[], object]:
    """Return one pass of ``ModelTrainer.train``'s loop body; its batches are drawn beforehand."""
    model = build_model()
    trainer = ModelTrainer(model, optim_lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rows = make_rows(STEPS_PER_FIT * BATCH_SIZE)
    never = np.zeros(len(rows.obs), dtype=bool)
    columns = [column.numpy() for column in (rows.obs, rows.action, rows.next_obs, rows.reward)]
    drawn = BootstrapIterator(
        TransitionBatch(*columns, never, never),
        BATCH_SIZE,
        NUM_MEMBERS,
        permute_indices=False,
        rng=np.random.default_rng(0),
    )
    batches = itertools.cycle(list(drawn))
    return lambda: model.update(next(batches), trainer.optimizer)


def model_env(model: OneDTransitionRewardModel) -> ModelEnv:
    spaces = SimpleNamespace(observation_space=None, action_space=None)  # kept by ModelEnv, not used in a step
    return ModelEnv(spaces, model, no_termination, generator=torch.Generator().manual_seed(0))


def step_call(model: OneDTransitionRewardModel, case: Step) -> Callable[[], object]:
    """Return one sampled step of ``ModelEnv``, tensors in and out.

    It takes no fewer rows than there are elites and nothing but multiples of them, so a single state
    is stepped as one row per elite.
    """
    count = max(case.rows, NUM_ELITES)
    rows = make_rows(count)
    env = model_env(model)
    state = env.reset(rows.obs.numpy(), return_as_np=False)
    return lambda: env.step(rows.action, dict(state), sample=True)


def plan_call(model: OneDTransitionRewardModel, case: Plan) -> Callable[[], object]:
    """Return the evaluations of one plan as ``TrajectoryOptimizerAgent`` has them made."""
    env, obs, sequences = model_env(model), make_rows(1).obs[0].numpy(), make_sequences(case)
    return lambda: [
        env.evaluate_action_sequences(sequences, obs, num_particles=NUM_PARTICLES) for _ in range(PLAN_ITERATIONS)
    ]


def update_call(case: Update) -> Callable[[], object]:
    """Return one ``update_parameters`` of the SAC that its MBPO trains, with 10,000 transitions."""
    settings = SimpleNamespace(
        gamma=0.99,
        tau=0.005,
        alpha=0.2,
        policy="Gaussian",
        target_update_interval=1,
        automatic_entropy_tuning=True,
        target_entropy=None,
        hidden_size=case.units,
        device=torch.device("cpu"),
        lr=LEARNING_RATE,
    )
    bound = np.ones(ACTION_DIM, np.float32)
    agent = SAC(OBS_DIM, SimpleNamespace(shape=(ACTION_DIM,), low=-bound, high=bound), settings)
    rows = make_rows(10_000)
    never = np.zeros(len(rows.obs), dtype=bool)
    memory = ReplayBuffer(len(rows.obs), (OBS_DIM,), (ACTION_DIM,), rng=np.random.default_rng(0))
    columns = [column.numpy() for column in (rows.obs, rows.action, rows.next_obs, rows.reward)]
    memory.add_batch(*columns, never, never)
    updates = itertools.count()
    return lambda: agent.update_parameters(memory, BATCH_SIZE, next(updates), reverse_mask=True)


def call_of(case: Case, model: OneDTransitionRewardModel) -> Callable[[], object]:
    if isinstance(case, Fit):
        return fit_call()
    if isinstance(case, Step):
        return step_call(model, case)
    if isinstance(case, Plan):
        return plan_call(model, case)
    assert isinstance(case, Update)
    return update_call(case)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the library prints must not look like an answer
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = build_model()
    cases = {case.name: case for case in CASES if not isinstance(case, Latent)}
    calls = {name: call_of(case, model) for name, case in cases.items()}
    for line in sys.stdin:
        case = cases[line.strip()]
        print(seconds_per_call(calls[case.name], case.calls), file=answers)


if __name__ == "__main__":
    main()
