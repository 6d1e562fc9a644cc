"""What to train on an env that was examined, and how long that may take."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.zoo.analysis.diagnosis import GAP_STEPS, NUM_STARTS, NUM_STEPS
from mbrl_wrappers.zoo.doctor.checks import shows_images
from mbrl_wrappers.zoo.doctor.findings import Findings
from mbrl_wrappers.zoo.doctor.trial import Trial
from mbrl_wrappers.zoo.doctor.watching import Pace
from mbrl_wrappers.zoo.environment import make_env
from mbrl_wrappers.zoo.training.building import build_agent, training_env
from mbrl_wrappers.zoo.training.command import command_of
from mbrl_wrappers.zoo.training.job import JobSpec
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.recipe import has_entry

LEAST_REWARD_R2 = 0.5
GRADIENT_AHEAD = 5  # imagined steps that dhmbpo's actor and critic look ahead
# Small tasks, which small networks learn as well at a fraction of the time: the settings of MBPO's recipe for
# InvertedPendulum-v5, but for its entropy.
_SMALL_COLUMNS = 8
_SMALL_TRUSTED = 10
_SMALL_REWARD_R2 = 0.9
_SMALL_STEPS = 3000
_SMALL: dict[str, Any] = {
    "agent.learning_starts": 250,
    "agent.gradient_steps": 10,
    "agent.learning_rate": 0.001,
    "agent.policy_kwargs": {"net_arch": [64, 64]},
    "strategy.rollouts_per_step": 100,
    "model_based.fit_every": 125,
    "dynamics.hidden": [64, 64],
    "dynamics.max_steps": 1000,
}
_FEW_STEPS = 64
_TIMED_STEPS = 8


@dataclass(frozen=True)
class Cost:
    """What an agent's training may take, without its control, on one core.

    Attributes:
        seconds: CPU time of the agent and its model, and the time of the env on the clock.
        in_env: the part that goes by in the env, evaluations and the final measurement of the model included.
    """

    seconds: float
    in_env: float


@dataclass(frozen=True)
class Advice:
    """A recommendation.

    Attributes:
        agent: the name that ``mbrl-zoo train`` takes.
        why: in a sentence.
        command: what to type; None where an argument of the env can't be typed.
        spec: the job.
        cost: expected; None where it is not estimated.
    """

    agent: str
    why: str
    command: str | None
    spec: JobSpec
    cost: Cost | None = None


def advise(
    env: gym.Env, name: str, env_kwargs: dict[str, Any], trial: Trial | None, is_constant: bool, findings: Findings
) -> Advice | None:
    """Recommend an agent and a recipe, None where no agent takes the spaces.

    Args:
        env: the real env.
        name: of the env.
        env_kwargs: its arguments.
        trial: what a small model makes of it; None without one.
        is_constant: whether random actions always met the same reward.
        findings: where it is noted that no agent takes the spaces.
    """
    agent, why, params = _choose(env, name, trial, is_constant)
    steps = _SMALL_STEPS if params is _SMALL else None
    return _to_train(agent, why, name, findings, steps=steps, env_kwargs=env_kwargs, params=params)


def advise_game(env: GameEnv, name: str, env_kwargs: dict[str, Any], findings: Findings) -> Advice | None:
    """Recommend what learns a board game; see :func:`advise`."""
    why = f"it learns {env.game.name} from games against itself"
    return _to_train("alphazero", why, name, findings, env_kwargs=env_kwargs)


def _to_train(agent: str, why: str, name: str, findings: Findings, **arguments: Any) -> Advice | None:
    try:
        spec = make_job(agent, name, **arguments)
    except ValueError as error:
        findings.remark("agents", str(error))
        return None
    return Advice(agent, why, command_of(spec), spec)


def _choose(env: gym.Env, name: str, trial: Trial | None, is_constant: bool) -> tuple[str, str, dict[str, Any]]:
    if shows_images(env):
        return "dreamer", "it learns from images; a GPU helps", {}
    if trial is None:
        return "mbpo", "it trains any off-policy agent", {}
    if not is_constant and not trial.reward.given and trial.reward_r2 < LEAST_REWARD_R2:
        why = (
            f"but only half of its rows are imagined, since the small model explains {max(trial.reward_r2, 0):.0%} of "
            "the rewards' variance: look at its control, the agent without a model, before you trust it"
        )
        return "mbpo", why, {"strategy.real_ratio": 0.5}
    if isinstance(env.action_space, spaces.Discrete):
        return "mbpo", "it trains DQN on imagined rows", {}
    if _is_small(trial) and not (has_entry("dhmbpo", name) or has_entry("mbpo", name) or is_constant):
        return "mbpo", f"the task is small, and the small model holds for {_steps(trial)}", _SMALL
    if has_entry("dhmbpo", name) or (
        trial.trusted >= GRADIENT_AHEAD and not is_constant and not has_entry("mbpo", name)
    ):
        why = f"actions are continuous, and the small model holds for {_steps(trial)}"
        return "dhmbpo", why, {}
    if has_entry("mbpo", name):
        return "mbpo", "it has settings for this env", {}
    if is_constant:
        return "mbpo", "random actions met one reward only, on which agents that climb its gradient learn nothing", {}
    return "mbpo", f"its rollouts are one step long, and the small model holds for {_steps(trial)}", {}


def _is_small(trial: Trial) -> bool:
    is_easy = trial.trusted >= _SMALL_TRUSTED and (trial.reward.given or trial.reward_r2 >= _SMALL_REWARD_R2)
    return is_easy and len(trial.columns) <= _SMALL_COLUMNS


def _steps(trial: Trial) -> str:
    more = " or more" if trial.trusted == trial.horizon else ""
    return f"{trial.trusted} {'step' if trial.trusted == 1 else 'steps'}{more}"


def expected_cost(spec: JobSpec, steps: Transitions, pace: Pace) -> Cost | None:
    """Estimate the time of a job by taking a few of its steps; None for agents that are not estimated.

    The model's fits are extrapolated: an epoch grows with the data, and a fit has at least ``patience + 2`` of them.
    Episodes are taken to be as long as random ones.

    Args:
        spec: of an agent with an ensemble that the callback ``ModelBased`` fits.
        steps: real ones, to time a fit on.
        pace: of the env.
    """
    if not spec.recipe.strategy or spec.recipe.dynamics.get("kind", "EnsembleDynamics") != "EnsembleDynamics":
        return None
    recipe = copy.deepcopy(spec.recipe)
    learning_starts = recipe.agent.get("learning_starts", 100)
    recipe.agent["learning_starts"] = _FEW_STEPS
    if "compile" in recipe.agent:
        recipe.agent["compile"] = False
    recipe.model_based["fit_every"] = 10 * _FEW_STEPS
    recipe.dynamics["max_steps"] = 20
    recipe.strategy["rollouts_per_step"] = 5
    few = dataclasses.replace(spec, recipe=recipe, steps=_FEW_STEPS + _TIMED_STEPS, device="cpu")
    with warnings.catch_warnings(), make_env(spec.env, **spec.env_kwargs) as env:
        warnings.simplefilter("ignore")
        agent: Any
        agent, callback = build_agent(few, training_env(recipe, env))
        every = max(_TIMED_STEPS, getattr(agent.train_freq, "frequency", 1))
        agent.learn(_FEW_STEPS + every, callback=callback)  # the first fit and the first updates warm up
        began = time.process_time()
        agent.learn(every, callback=callback, reset_num_timesteps=False)
        per_step = (time.process_time() - began) / every
        obs, _ = env.reset(seed=0)
        began = time.process_time()
        for _ in range(_TIMED_STEPS):
            agent.predict(obs)
        per_action = (time.process_time() - began) / _TIMED_STEPS
    fits, per_fit = _fits(spec, steps, learning_starts)
    played = _steps_outside_training(spec, pace)
    updated = spec.steps - learning_starts  # the CPU time of their steps in the env is in per_step
    seconds = per_step * updated + fits * per_fit + pace.waiting * updated
    seconds += pace.per_step * (learning_starts + played) + per_action * played
    return Cost(seconds, pace.per_step * (spec.steps + played))


def _steps_outside_training(spec: JobSpec, pace: Pace) -> float:
    """Return the number of env steps that a run takes besides those of its training: evaluations and the diagnosis."""
    evaluations = math.ceil(spec.steps / spec.eval_freq) * spec.eval_episodes * pace.length
    return evaluations + 2 * NUM_STEPS + NUM_STARTS * min(GAP_STEPS, pace.length)


def _fits(spec: JobSpec, steps: Transitions, learning_starts: int) -> tuple[int, float]:
    """Return the number of fits, and the mean time of one."""
    settings = {name: value for name, value in spec.recipe.dynamics.items() if name != "kind"}
    timed = 20
    with make_env(spec.env, **spec.env_kwargs) as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = EnsembleDynamics.for_env(env, **{**settings, "max_steps": timed})
        began = time.process_time()
        done = model.fit(steps)["grad_steps"]
        per_gradient_step = (time.process_time() - began) / done
    own = {**model.settings, **settings}
    networks = max(1, round(done / timed))
    mean_rows = (spec.steps + learning_starts) / 2 * (1 - own["holdout_ratio"])
    epoch = max(own["min_epoch_steps"], math.ceil(mean_rows / own["batch_size"]))
    longest = own["max_steps"] if settings.get("max_steps") is not None else math.inf
    fits = 1 + (spec.steps - learning_starts) // spec.recipe.model_based.get("fit_every", 250)
    return fits, per_gradient_step * networks * min((own["patience"] + 2) * epoch, longest)
