"""An examination: everything that is tried on an env, in order, and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.models.given import GivenFunction
from mbrl_wrappers.seeding import set_apart
from mbrl_wrappers.types import Transitions
from mbrl_wrappers.zoo.doctor import checks
from mbrl_wrappers.zoo.doctor.advice import Advice, advise, advise_game, expected_cost
from mbrl_wrappers.zoo.doctor.findings import Finding, Findings
from mbrl_wrappers.zoo.doctor.trial import GivenFailed, Trial, note_given, reporting, run_trial, small_model
from mbrl_wrappers.zoo.doctor.watching import Unusable, Watched, note_ends, note_rewards
from mbrl_wrappers.zoo.environment import make_env, render_without_display
from mbrl_wrappers.zoo.threads import one_thread

LEAST_STEPS = 200
_MOST_PLAY_SECONDS = 20.0
_WARM_UP = 10  # steps in which an env may compile or load something


@dataclass
class Examination:
    """What was found out about an env.

    Attributes:
        env: its name.
        facts: what it is like, by topic.
        findings: faults, and what is worth knowing.
        trial: what a small model makes of it; None where none could be fitted.
        advice: what to train; None for an env with faults that have to be mended first.
    """

    env: str
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    trial: Trial | None = None
    advice: Advice | None = None

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.is_fault]


@one_thread()
def examine(
    env: str,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    reward_fn: GivenFunction | None = None,
    termination_fn: GivenFunction | None = None,
    steps: int = 3000,
    seed: int = 0,
    model: bool = True,
    estimate: bool = True,
) -> Examination:
    """Look an env over before an agent is trained on it.

    Args:
        env: a Gymnasium id or ``"package.module:Class"``.
        env_kwargs: arguments of the env.
        reward_fn: a reward function ``(obs [N, D], action [N, A], next_obs [N, D]) -> [N]`` to compare with the env.
        termination_fn: the same for terminations, which returns bool.
        steps: random ones to take; fewer in an env that is slow.
        seed: of everything random.
        model: whether to fit a small model.
        estimate: whether to time the recommended agent.

    Raises:
        ValueError: if the env can't be made.
    """
    check_whole_number("steps", steps, LEAST_STEPS)
    render_without_display()
    kwargs = dict(env_kwargs or {})
    make, findings, result = partial(make_env, env, **kwargs), Findings(), Examination(env)
    result.findings = findings
    with make() as real:
        result.facts.update(observations=_described(real.observation_space), actions=_described(real.action_space))
        if isinstance(real.unwrapped, GameEnv):
            result.advice = advise_game(real.unwrapped, env, kwargs, findings)
            return result
        checks.check_spaces(real, findings)
        if findings.faults:
            return result
        watched = Watched(real, findings)
        reward, end = reporting("reward_fn", reward_fn), reporting("termination_fn", termination_fn)
        collected = _play(watched, findings, reward, end, steps, seed)
        _describe_play(watched, result)
        if collected is None:
            return result
        note_ends(watched, findings)
        note_rewards(watched, findings)
        checks.check_corners(real, findings)
        with findings.catching("seeds", "an episode that is played again"):
            checks.check_seeds(make, real, findings)
        checks.check_interface(real, findings)
        result.facts["rendering"] = checks.check_rendering(make, real, findings)
        small, transitions = collected
        if transitions is not None and (transitions.next_obs == transitions.obs[0]).all():
            findings.fault("observations", "they never change: whatever is done, the agent sees the same")
        elif small is not None and transitions is not None:
            try:
                if note_given(real, small, transitions, findings) and model:
                    result.trial = run_trial(small, transitions, findings, seed)
            except GivenFailed as error:  # only in the model, such as for states that it has imagined
                findings.fault("given", str(error))
        if not findings.faults and _is_for_agents(real):
            is_constant = np.ptp(watched.rewards) == 0
            result.advice = advise(real, env, kwargs, result.trial, is_constant, findings)
            if estimate and transitions is not None and result.advice is not None:
                cost = expected_cost(result.advice.spec, transitions, watched.pace(LEAST_STEPS))
                result.advice = replace(result.advice, cost=cost)
    return result


def _play(
    watched: Watched,
    findings: Findings,
    reward_fn: GivenFunction | None,
    termination_fn: GivenFunction | None,
    steps: int,
    seed: int,
) -> tuple[Any, Transitions | None] | None:
    """Take random steps; return the model for them and the steps, and None where the env can't be played on."""
    with findings.catching("episodes", "a random episode"):
        try:
            _walk(watched, LEAST_STEPS, seed)
            rest = min(steps, int(_MOST_PLAY_SECONDS / max(watched.pace(_WARM_UP).per_step, 1e-9)))
            if checks.shows_images(watched):
                return None, None
            small = small_model(watched.env, reward_fn, termination_fn, seed)
            return small, collect_transitions(watched, small, max(rest, LEAST_STEPS), seed=seed)
        except Unusable:
            pass
    return None


def _walk(env: gym.Env, steps: int, seed: int) -> None:
    """Take random steps without keeping anything."""
    set_apart(env.action_space, seed)
    env.reset(seed=seed)
    for _ in range(steps):
        if any(env.step(env.action_space.sample())[2:4]):
            env.reset()


def _is_for_agents(env: gym.Env) -> bool:
    return isinstance(env.action_space, spaces.Box | spaces.Discrete)


def _described(space: spaces.Space) -> str:
    if not isinstance(space, spaces.Box):
        return str(space)
    if (space.low == -np.inf).all() and (space.high == np.inf).all():
        bounds = "unbounded"
    elif len(np.unique(space.low)) == len(np.unique(space.high)) == 1:
        bounds = f"from {space.low.flat[0]:g} to {space.high.flat[0]:g}"
    else:
        bounds = "with bounds of their own" if np.isfinite([space.low, space.high]).all() else "partly unbounded"
    return f"Box{space.shape} of {space.dtype}, {bounds}"


def _describe_play(watched: Watched, result: Examination) -> None:
    if watched.ends:
        lengths = [length for length, _, _ in watched.ends]
        terminated = sum(terminated for _, terminated, _ in watched.ends)
        truncated = sum(truncated for _, _, truncated in watched.ends)
        span = str(lengths[0]) if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}"
        result.facts["episodes"] = (
            f"{len(lengths)} of random actions: {span} steps, {terminated} terminated, {truncated} truncated"
        )
    elif watched.length:
        result.facts["episodes"] = f"none ended in {watched.length:,} steps"
    limit = None if watched.spec is None else watched.spec.max_episode_steps
    if limit is not None:
        result.facts["episodes"] = f"{result.facts.get('episodes', 'none')}; limit {limit:,}"
    if watched.rewards:
        rewards = np.array(watched.rewards)
        result.facts["rewards"] = (
            f"{rewards.min():.4g} to {rewards.max():.4g}, mean {rewards.mean():.4g}, spread {rewards.std():.4g}"
        )
    if watched.step_times:
        pace = watched.pace(LEAST_STEPS if len(watched.step_times) > LEAST_STEPS else 0)
        result.facts["time"] = (
            f"{1e3 * pace.step:.3g} ms a step on the clock, {1e3 * pace.step_cpu:.3g} ms of CPU time here; "
            f"{1e3 * pace.reset:.3g} ms a reset"
        )
