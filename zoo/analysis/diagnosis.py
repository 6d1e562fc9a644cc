"""The errors of a trained agent's model, and whether the agent exploits them: the numbers of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from mbrl_wrappers.agents.planning import PlanningAgent
from mbrl_wrappers.agents.steve import STEVE
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.collect import collect_transitions
from mbrl_wrappers.envs.finite import scalar_reward
from mbrl_wrappers.envs.imagined import ImaginedEpisodes, add_batch_axis, encode_one
from mbrl_wrappers.imagination import AgentView
from mbrl_wrappers.models import DynamicsModel, WorldModel
from mbrl_wrappers.models.members import members_of
from mbrl_wrappers.models.normalizer import Normalizer
from mbrl_wrappers.models.trust import Trust
from mbrl_wrappers.models.world_model import StepPrediction
from mbrl_wrappers.types import Prediction, Transitions
from mbrl_wrappers.zoo.analysis.dreams import errors_of_dreams, one_step_ahead, remembered
from mbrl_wrappers.zoo.analysis.findings import Calibration, Diagnosis, ExploitationGap, RewardError, TerminationErrors
from mbrl_wrappers.zoo.analysis.gradients import gradient_norms
from mbrl_wrappers.zoo.analysis.model_error import (
    BAND,
    HorizonError,
    error_on_windows,
    measure_model_error,
    windows_of,
)
from mbrl_wrappers.zoo.choices import choices_seed, seed_generators, undisturbed
from mbrl_wrappers.zoo.environment import as_shown_to_agents

# In units of the states' spread: up to this error, predictions explain at least 1 - 0.25^2 = 94% of their variance.
TRUSTED_ERROR = 0.25
NUM_SAMPLES = 99  # real outcomes rank among 99 samples at one of 100 places, so every level below is met exactly
NUM_BINS = 10
LEVELS = tuple(round(0.1 * step, 1) for step in range(1, 10))
NUM_STEPS = 2000
NUM_STARTS = 20
GAP_STEPS = 100
NUM_ROLLOUTS = 256
# For agents that plan, where each step is a search: few starts, and the model is measured on these same real steps.
NUM_PLANNED_STARTS = 5
PLANNED_STEPS = 30
PLANNED_HORIZON = 15


def diagnose(
    agent: BaseAlgorithm,
    dynamics: WorldModel,
    env: gym.Env,
    *,
    steps: int = NUM_STEPS,
    horizon: int = 30,
    seed: int = 0,
) -> Diagnosis:
    """Measure a model, and the policy that was trained in it, on fresh episodes of the real environment.

    Agent, model and the process's random generators are left unchanged.

    An agent that plans needs a search for each step, so it plays only 30 steps from each of 5 starts. All measurements
    are made on these steps, and the open-loop error looks at most 15 steps ahead.

    A model with a memory follows each episode, and imagines on from what it remembers then; its calibration is not
    measured. All measurements are made on episodes of 100 steps from 20 starts or fewer (5 of 30 for an agent that
    plans).

    Args:
        agent: the agent, which explores as in training while the model is measured; if it has a VecNormalize, that
            normalises its observations.
        dynamics: the model.
        env: the real environment, not wrapped by SB3.
        steps: env steps to play for the open-loop error, and again for the one-step errors; not used for an agent
            that plans, unless its model has a memory.
        horizon: steps to look ahead; fewer if no episode is as long.
        seed: of all episodes and random numbers.
    """
    for name, value in (("steps", steps), ("horizon", horizon)):
        check_whole_number(name, value)
    with undisturbed(agent), torch.no_grad():
        player: Any = _Player(agent)
        env = as_shown_to_agents(env, dynamics.observation_space)
        if not isinstance(dynamics, DynamicsModel):
            return _diagnose_dreams(player, dynamics, env, isinstance(agent, PlanningAgent), steps, horizon, seed)
        if isinstance(agent, PlanningAgent):
            gap_steps, starts = _at_most(PLANNED_STEPS, env), range(seed + 2, seed + 2 + NUM_PLANNED_STARTS)
            episodes = [_play(player, dynamics, env, start, gap_steps) for start in starts]
            real = _transitions(episodes, dynamics)
            error = error_on_windows(dynamics, *windows_of(real, min(horizon, PLANNED_HORIZON)))
        else:
            error = measure_model_error(player, dynamics, env, horizon=horizon, steps=steps, seed=seed)
            player.set_random_seed(choices_seed(seed + 1))
            real = collect_transitions(env, dynamics, steps, policy=player.explore, seed=seed + 1)
            gap_steps, starts = _at_most(GAP_STEPS, env), range(seed + 2, seed + 2 + NUM_STARTS)
            episodes = [_play(player, dynamics, env, start, gap_steps) for start in starts]
        exploitation = _exploitation_gap(player, dynamics, episodes, gap_steps, seed + 2)
        generator = torch.Generator(dynamics.device).manual_seed(seed)
        said = dynamics.predict(real.obs, real.action, deterministic=True)
        player.set_random_seed(choices_seed(seed + 3))
        return Diagnosis(
            seed=seed,
            steps=len(real),
            error=[_finite(row) for row in error],
            calibration=_calibration(dynamics, real, generator),
            reward=reward_error(dynamics.reward_fn is not None, said, real),
            termination=termination_errors(dynamics.termination_fn is not None, said, real),
            exploitation=exploitation,
            threshold=TRUSTED_ERROR,
            trusted_steps=trusted_steps(error),
            uncertainty=None
            if isinstance(agent, PlanningAgent)
            else _uncertainty(player, dynamics, real, horizon, seed),
            horizon_weights=_horizon_weights(agent, dynamics, real, generator),
            gradient_norms=_gradient_norms(agent, dynamics, real),
        )


def _diagnose_dreams(
    player: _Player, dynamics: WorldModel, env: gym.Env, plans: bool, num_steps: int, horizon: int, seed: int
) -> Diagnosis:
    """Measure a model with a memory; see :func:`diagnose`."""
    count, longest = (NUM_PLANNED_STARTS, PLANNED_STEPS) if plans else (NUM_STARTS, GAP_STEPS)
    steps = _at_most(longest, env)
    count = min(count, math.ceil(num_steps / steps))
    episodes = [_play(player, dynamics, env, start, steps) for start in range(seed + 2, seed + 2 + count)]
    generator = torch.Generator(dynamics.device).manual_seed(seed)
    paths = [remembered(dynamics, episode.obs, episode.action, episode.rewards, generator) for episode in episodes]
    said = one_step_ahead(dynamics, paths)
    real = _transitions(episodes, dynamics)
    found = errors_of_dreams(dynamics, paths, min(horizon, PLANNED_HORIZON) if plans else horizon, NUM_ROLLOUTS)
    error = [_finite(row) for row in found.observation]
    return Diagnosis(
        seed=seed,
        steps=len(real),
        error=error,
        calibration=None,
        reward=reward_error(False, said, real),
        termination=termination_errors(False, said, real),
        exploitation=_exploitation_gap(player, dynamics, episodes, steps, seed + 2),
        threshold=TRUSTED_ERROR,
        trusted_steps=trusted_steps(error),
        reward_error=[_finite(row) for row in found.reward],
        divergence=None if found.divergence is None else [_finite(row) for row in found.divergence],
    )


def trusted_steps(error: list[HorizonError], threshold: float = TRUSTED_ERROR) -> int:
    """Return how many steps the model can be rolled out: as long as the median error stays below a threshold.

    Janner et al. 2019 (sections 4 and 5) branch rollouts off real states and keep them short because a model's error
    grows with every step; they tune the length, 1 to 25 steps. This rule takes the place of tuning. An error of 1 is
    that of always predicting the mean state.

    Args:
        error: by steps ahead.
        threshold: in units of the states' spread.
    """
    for row in error:
        if not row.median < threshold:  # not >=, which would trust NaN
            return row.steps_ahead - 1
    return len(error)


class _Player:
    """Plays an agent on raw observations, and seeds it without seeding its environment too.

    The agent's recurrent state, such as the last plan, is kept until :meth:`start`.
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        self._agent = agent
        self._normalizer = agent.get_vec_normalize_env()
        self._state: Any = None

    def start(self) -> None:
        """Begin episodes: one, or as many as the next batch of observations has."""
        self._state = None

    def set_random_seed(self, seed: int) -> None:
        """Seed the generators that the agent's actions are drawn from."""
        seed_generators(self._agent, seed)

    def predict(self, obs: Any, deterministic: bool) -> tuple[Any, Any]:
        seen = obs if self._normalizer is None else self._normalizer.normalize_obs(obs)
        action, self._state = self._agent.predict(seen, self._state, deterministic=deterministic)
        return action, self._state

    def explore(self, obs: Any) -> Any:
        return self.predict(obs, deterministic=False)[0]

    def exploit(self, obs: Any) -> Any:
        return self.predict(obs, deterministic=True)[0]


def _calibration(dynamics: DynamicsModel, real: Transitions, generator: torch.Generator) -> Calibration | None:
    """Compare samples of the next observation with the real one; None if no real-valued column of them varies."""
    columns = _real_valued_columns(dynamics)
    if not len(columns):
        return None
    outcome = real.next_obs[:, columns]
    samples = torch.stack(
        [dynamics.predict(real.obs, real.action, generator=generator).next_obs[:, columns] for _ in range(NUM_SAMPLES)]
    )
    spread, mean = torch.std_mean(samples.double(), dim=0)
    varied = spread > 0
    if not torch.isfinite(spread).all() or not varied.any():
        return None
    change = Normalizer(len(columns)).to(real.obs.device)
    change.fit((real.next_obs - real.obs)[:, columns])
    predicted, missed = spread / change.std, (outcome - mean) / change.std
    place = ((samples < outcome).sum(0) + 0.5) / (NUM_SAMPLES + 1)
    off_center = (place - 0.5).abs()[varied]
    return Calibration(
        spread=_binned(predicted[varied], missed[varied]),
        coverage=[(level, float((off_center <= level / 2).double().mean())) for level in LEVELS],
    )


def _binned(predicted: Tensor, missed: Tensor) -> list[tuple[float, float]]:
    """Return the root mean squares of both in bins of equal size, ordered by ``predicted``."""
    bins = predicted.argsort().tensor_split(NUM_BINS)
    return [(_rms(predicted[rows]), _rms(missed[rows])) for rows in bins if len(rows)]


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _real_valued_columns(dynamics: DynamicsModel) -> list[int]:
    """Return the real-valued columns of the flat observation."""
    return [
        column
        for leaf in dynamics.obs_codec.leaves
        if isinstance(leaf.space, spaces.Box) and np.issubdtype(leaf.space.dtype, np.floating)
        for column in range(leaf.start, leaf.stop)
    ]


def reward_error(is_given: bool, said: Prediction | StepPrediction, real: Transitions) -> RewardError:
    """Compare predicted rewards with real ones."""
    scale = Normalizer(1).to(real.reward.device)
    scale.fit(real.reward[:, None])
    unit = float(scale.std)
    return RewardError(is_given, _or_inf(_rms(said.reward - real.reward) / unit), unit)


def termination_errors(is_given: bool, said: Prediction | StepPrediction, real: Transitions) -> TerminationErrors:
    """Count predicted and real terminations."""
    warned, ended = said.terminated, real.terminated
    cases = (warned & ended, ~warned & ended, warned & ~ended, ~warned & ~ended)
    return TerminationErrors(is_given, *(int(case.sum()) for case in cases))


@dataclass(frozen=True)
class _Played:
    """A real episode with the deterministic policy.

    Attributes:
        obs: ``[T + 1, D]``.
        action: ``[T, A]``.
        rewards: ``T`` numbers.
        terminated: whether the last step terminated it.
        allowed: number of steps that the imagined episode from the same start may take.
    """

    obs: Tensor
    action: Tensor
    rewards: list[float]
    terminated: bool
    allowed: int


def _at_most(steps: int, env: gym.Env) -> int:
    """Return the number of steps, at most the env's time limit."""
    limit = None if env.spec is None else env.spec.max_episode_steps
    return steps if limit is None else min(limit, steps)


def _exploitation_gap(
    player: _Player, dynamics: WorldModel, episodes: list[_Played], steps: int, seed: int
) -> ExploitationGap:
    starts = torch.cat([episode.obs[:1] for episode in episodes])
    imagined = _imagine(player, dynamics, starts, torch.tensor([episode.allowed for episode in episodes]), seed)
    return ExploitationGap(steps, [math.fsum(episode.rewards) for episode in episodes], imagined)


def _play(player: _Player, dynamics: WorldModel, env: gym.Env, seed: int, steps: int) -> _Played:
    """Play an episode for at most ``steps`` steps."""
    player.start()
    obs, _ = env.reset(seed=seed)
    seen, done = [encode_one(dynamics, obs).clone()], []  # copied, because an env may reuse its array
    rewards: list[float] = []
    terminated = truncated = False
    while len(rewards) < steps and not (terminated or truncated):
        action = player.exploit(obs)
        done.append(dynamics.action_codec.encode(add_batch_axis(action), dynamics.device).clone())
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(encode_one(dynamics, obs).clone())
        rewards.append(scalar_reward(reward))
    # After a real termination the imagined episode may go on: a policy can exploit a model that misses the end.
    allowed = len(rewards) if truncated and not terminated else steps
    return _Played(torch.cat(seen), torch.cat(done), rewards, bool(terminated), allowed)


def _transitions(episodes: list[_Played], dynamics: WorldModel) -> Transitions:
    """Return the steps of all episodes, one after the other."""
    rewards = [reward for episode in episodes for reward in episode.rewards]
    terminated = torch.zeros(len(rewards), dtype=torch.bool)
    lengths = torch.tensor([len(episode.rewards) for episode in episodes])
    terminated[lengths.cumsum(0) - 1] = torch.tensor([episode.terminated for episode in episodes])
    return Transitions(
        obs=torch.cat([episode.obs[:-1] for episode in episodes]),
        action=torch.cat([episode.action for episode in episodes]),
        reward=torch.tensor(rewards),
        next_obs=torch.cat([episode.obs[1:] for episode in episodes]),
        terminated=terminated,
        key=torch.arange(len(rewards)),
    ).to(dynamics.device)


def _imagine(player: _Player, dynamics: WorldModel, starts: Tensor, lengths: Tensor, seed: int) -> list[float]:
    """Return the imagined returns of the deterministic policy from each start."""
    player.start()
    horizon = int(lengths.max())
    episodes = ImaginedEpisodes(
        dynamics, len(starts), start_obs=lambda count, generator: starts[:count], horizon=horizon
    )
    episodes.seed(seed)
    episodes.reset()
    lengths = lengths.to(dynamics.device)
    total = torch.zeros(len(starts), dtype=torch.float64, device=dynamics.device)
    running = torch.ones(len(starts), dtype=torch.bool, device=dynamics.device)
    for step in range(horizon):
        action = player.exploit(dynamics.obs_codec.decode_numpy(episodes.obs))
        result = episodes.step(dynamics.action_codec.encode(action, dynamics.device))
        running &= step < lengths
        total += torch.where(running, result.reward, 0.0)
        running &= ~(result.terminated | result.diverged)
    return [_or_inf(value) for value in total.tolist()]


def _uncertainty(
    player: _Player, dynamics: DynamicsModel, real: Transitions, horizon: int, seed: int
) -> list[HorizonError] | None:
    """Measure the uncertainty along rollouts of the exploring policy from real states, as long as each goes on."""
    if len(members_of(dynamics).particle_members) < 2:
        return None
    player.start()
    starts = _spread_out(real.obs)
    episodes = ImaginedEpisodes(dynamics, len(starts), start_obs=lambda count, _: starts[:count], horizon=horizon)
    episodes.set_trust(Trust(keep_rate=1.0, penalty=0.0))
    episodes.seed(seed)
    episodes.reset()
    running = torch.ones(len(starts), dtype=torch.bool, device=real.obs.device)
    found = []
    for step in range(1, horizon + 1):
        action = player.explore(dynamics.obs_codec.decode_numpy(episodes.obs))
        result = episodes.step(dynamics.action_codec.encode(action, dynamics.device))
        running &= ~result.diverged
        if not running.any():
            break
        low, median, high = result.uncertainty[running].double().quantile(result.uncertainty.new_tensor(BAND).double())
        found.append(HorizonError(step, float(low), float(median), float(high)))
        running &= ~result.terminated
    return found or None


def _horizon_weights(
    agent: BaseAlgorithm, dynamics: DynamicsModel, real: Transitions, generator: torch.Generator
) -> list[float] | None:
    strategy = getattr(getattr(agent, "model_based", None), "strategy", None)
    if not isinstance(strategy, STEVE) or not isinstance(agent, OffPolicyAlgorithm):
        return None
    strategy = STEVE(strategy.horizon, strategy.covariance)
    strategy.bind(AgentView(agent, dynamics), dynamics, generator)
    return strategy.horizon_weights(real.next_obs[~real.terminated]).mean(1).tolist()


def _gradient_norms(agent: BaseAlgorithm, dynamics: DynamicsModel, real: Transitions) -> list[HorizonError] | None:
    found = gradient_norms(agent, dynamics, _spread_out(real.obs))
    return None if found is None else [_finite(row) for row in found]


def _spread_out(obs: Tensor) -> Tensor:
    """Return at most ``NUM_ROLLOUTS`` rows, evenly spaced."""
    return obs[torch.linspace(0, len(obs) - 1, min(NUM_ROLLOUTS, len(obs))).long().to(obs.device)]


def _finite(row: HorizonError) -> HorizonError:
    return HorizonError(row.steps_ahead, *map(_or_inf, (row.low, row.median, row.high)))


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf
