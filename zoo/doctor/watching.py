"""A wrapper that notes what an env does wrong while it is played."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.envs.finite import check_finite, scalar_reward
from mbrl_wrappers.zoo.doctor.findings import Findings
from mbrl_wrappers.zoo.environment import MAX_EPISODE_STEPS


@dataclass(frozen=True)
class Pace:
    """How long an env takes, in seconds: on the clock, and of this process's CPU time. The difference is waiting.

    Attributes:
        step: of a step on the clock, on average.
        step_cpu: CPU time of a step.
        reset: of a reset on the clock; 0 where none was taken.
        reset_cpu: CPU time of a reset.
        length: steps of an episode, on average.
    """

    step: float
    step_cpu: float
    reset: float
    reset_cpu: float
    length: float

    @property
    def per_step(self) -> float:
        """On the clock, with a step's share of its episode's reset."""
        return self.step + self.reset / self.length

    @property
    def waiting(self) -> float:
        """The part of ``per_step`` in which this process does nothing: sleep, a network, other processes."""
        return max(self.per_step - self.step_cpu - self.reset_cpu / self.length, 0.0)


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Notes values outside of their spaces, wrong types, arrays that are used again, and how episodes end.

    Args:
        env: any env.
        findings: where faults are noted.

    Attributes:
        ends: of each episode that ended: its length, and whether it was terminated and truncated.
        rewards: of all steps.
        length: steps of the current episode.
        step_times: of each step: seconds on the clock, and of CPU time.
        reset_times: of each reset.
    """

    def __init__(self, env: gym.Env, findings: Findings) -> None:
        super().__init__(env)
        self._findings = findings
        self._last: tuple[Any, Any] | None = None  # an observation as it was returned, and a copy
        self.ends: list[tuple[int, bool, bool]] = []
        self.rewards: list[float] = []
        self.step_times: list[tuple[float, float]] = []
        self.reset_times: list[tuple[float, float]] = []
        self.length = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        with _timed(self.reset_times):
            returned: Any = self.env.reset(seed=seed, options=options)
        if not isinstance(returned, tuple) or len(returned) != 2:
            self._findings.fault("episodes", f"reset must return (observation, info), got {_brief(returned)}")
            raise Unusable
        self._look(returned[0], "reset")
        self.length = 0
        return returned

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        given = copy.deepcopy(action)
        with _timed(self.step_times):
            returned: Any = self.env.step(action)
        if not isinstance(returned, tuple) or len(returned) != 5:
            says = "step must return (observation, reward, terminated, truncated, info)"
            number = f"{len(returned)} values" if isinstance(returned, tuple) else _brief(returned)
            self._findings.fault("episodes", f"{says}, got {number}")
            raise Unusable
        if not np.array_equal(np.asarray(action), np.asarray(given)):
            says = "step changes the array of the action that it is given, which the agent keeps: copy it first"
            self._findings.fault("actions", says)
        obs, reward, terminated, truncated, _ = returned
        self._look(obs, "step")
        self._note_reward(reward)
        self.length += 1
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                self._findings.fault("episodes", f"{name} must be a bool, got {_brief(flag)}")
        if terminated or truncated:
            self.ends.append((self.length, bool(terminated), bool(truncated)))
        return returned

    def pace(self, skipped: int = 0) -> Pace:
        """Return how long the env takes.

        Args:
            skipped: steps to leave out at the beginning, where an env may compile or load something.
        """
        step, step_cpu = np.mean(self.step_times[skipped:], axis=0)
        reset, reset_cpu = np.mean(self.reset_times[1:] or self.reset_times or [(0.0, 0.0)], axis=0)
        length = np.mean([length for length, _, _ in self.ends]) if self.ends else MAX_EPISODE_STEPS
        return Pace(*map(float, (step, step_cpu, reset, reset_cpu, length)))

    def _look(self, obs: Any, source: str) -> None:
        """Check an observation, and that the last one is still what it was."""
        if self._last is not None and not _equal(*self._last):
            says = "every call returns the same array and writes into it, so that observations that were kept change"
            self._findings.fault("observations", f"{says}: return a copy")
        self._last = (obs, copy.deepcopy(obs))
        try:
            check_finite("observation", obs)
        except ValueError:
            self._findings.fault("observations", f"they must be finite, {source} returned {_brief(obs)}")
            raise Unusable from None
        if not self.env.observation_space.contains(obs):
            reason, is_usable = _misfit(obs, self.env.observation_space)
            self._findings.fault("observations", f"{source} returned one outside of observation_space: {reason}")
            if not is_usable:
                raise Unusable

    def _note_reward(self, reward: Any) -> None:
        try:
            number = scalar_reward(reward)
        except ValueError:
            self._findings.fault("rewards", f"a reward must be one number, got {_brief(reward)}")
            raise Unusable from None
        if not np.isfinite(number):
            self._findings.fault("rewards", f"a reward must be finite, got {number}")
            raise Unusable
        self.rewards.append(number)


class Unusable(Exception):
    """The env can't be played on; the fault was noted."""


@contextmanager
def _timed(times: list[tuple[float, float]]) -> Iterator[None]:
    """Add the time that the block takes, on the clock and of CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    times.append((time.perf_counter() - clock, time.process_time() - cpu))


def note_ends(watched: Watched, findings: Findings) -> None:
    """Judge how the episodes that were played have ended."""
    ends = watched.ends
    lengths = {length for length, _, _ in ends}
    if not ends and watched.length >= MAX_EPISODE_STEPS:
        findings.remark(  # of some envs of Gymnasium's it is true as well
            "episodes",
            f"after {watched.length:,} steps none had ended: wrap the env in gymnasium.wrappers.TimeLimit, or register "
            f"it with max_episode_steps; otherwise every episode is cut off after {MAX_EPISODE_STEPS:,} steps",
        )
    if lengths == {1}:
        findings.remark("episodes", "each ends with its first step: there is nothing for a model to look ahead to")
    elif len(ends) >= 3 and len(lengths) == 1 and all(terminated for _, terminated, _ in ends):
        findings.fault(
            "episodes",
            f"all {len(ends)} are terminated after {ends[0][0]} steps, as by a time limit: report that as truncated, "
            "or the agent learns that nothing is to be won after this step",
        )


def note_rewards(watched: Watched, findings: Findings) -> None:
    """Judge the scale of the rewards."""
    rewards = np.array(watched.rewards)
    if not len(rewards):
        return
    size = float(np.sqrt(np.mean(rewards**2)))
    if np.ptp(rewards) == 0:
        findings.remark("rewards", f"random actions met no other than {rewards[0]:g}: a model knows no other either")
    elif size > 1e3 or size < 1e-5:
        scale = 10 ** -round(np.log10(size))
        findings.fault(
            "rewards",
            f"they are of size {size:.1e} (root mean square), for which no agent's learning rates are meant: multiply "
            f"them by {scale:g}, or train with --params normalize.norm_obs=false, which scales rewards",
        )


def _misfit(obs: Any, space: spaces.Space) -> tuple[str, bool]:
    """Say why an observation is none of a space's, and whether it can be worked with all the same."""
    if not isinstance(space, spaces.Box):
        return f"{_brief(obs)} is not in {space}", False
    if not isinstance(obs, np.ndarray):
        return f"it must be an array, got {_brief(obs)}", False
    if obs.shape != space.shape:
        return f"its shape must be {space.shape}, got {obs.shape}", False
    if not np.can_cast(obs.dtype, space.dtype):
        return f"its dtype must be {space.dtype}, got {obs.dtype}", True
    outside = np.flatnonzero(((obs < space.low) | (obs > space.high)).ravel())
    first = int(outside[0])
    low, value, high = (array.ravel()[first] for array in (space.low, obs, space.high))
    return f"entry {first} must be from {low:g} to {high:g}, got {value:g}", True


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return all(map(_equal, one, other))
    return bool(np.array_equal(one, other))


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:120]}…"
