"""Envs with one fault each, and what an examination has to say of it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Step = tuple[Any, Any, Any, Any, dict[str, Any]]


class Sound(gym.Env[Any, Any]):
    """A cart on a line, with its speed, that is to be kept near 0; it falls off beyond 2. Nothing is wrong with it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as Gymnasium has it
    limit = 40

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space: spaces.Space[Any] = spaces.Box(-5.0, 5.0, (2,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.state = np.zeros(2)
        self.count = 0

    def shown(self) -> Any:
        """The observation."""
        return self.state.astype(np.float32)

    def push(self, action: Any) -> float:
        """What an action adds to the speed."""
        return 0.1 * float(np.clip(action[0], -1, 1))

    def reward(self) -> Any:
        return 1.0 - abs(float(self.state[0]))

    def flags(self) -> tuple[Any, Any]:
        """Whether the episode is terminated and truncated."""
        return bool(abs(self.state[0]) > 2), self.count >= self.limit

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.count = self.np_random.uniform(-0.5, 0.5, 2), 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        self.state = np.array([self.state[0] + 0.2 * self.state[1], self.state[1] + self.push(action)])
        return self.shown(), self.reward(), *self.flags(), {}

    def render(self) -> Any:
        return np.full((20, 30, 3), 100, np.uint8)


class LeavesItsSpace(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Box(-0.7, 0.7, (2,), np.float32)


class OtherDtype(Sound):
    def shown(self) -> Any:
        return self.state.copy()


class OtherShape(Sound):
    def shown(self) -> Any:
        return self.state.astype(np.float32)[:, None] if self.count else self.state.astype(np.float32)


class NotFinite(Sound):
    def shown(self) -> Any:
        return np.where(abs(self.state[0]) > 0.8, np.nan, self.state).astype(np.float32)


class SameArray(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.array = np.zeros(2, np.float32)

    def shown(self) -> Any:
        self.array[:] = self.state
        return self.array


class ManyRewards(Sound):
    def reward(self) -> Any:
        return np.array([1.0, 2.0])


class HugeRewards(Sound):
    def reward(self) -> Any:
        return 1e6 * super().reward()


class RewardNaN(Sound):
    def reward(self) -> Any:
        return np.sqrt(self.state[0] + 0.9) if self.state[0] > -0.9 else float("nan")


class OldInterface(Sound):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class NoInfo(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class NeverEnds(Sound):
    def flags(self) -> tuple[Any, Any]:
        self.state = np.clip(self.state, -4, 4)
        return False, False


class LimitIsAnEnd(Sound):
    def flags(self) -> tuple[Any, Any]:
        self.state = np.clip(self.state, -4, 4)
        return self.count >= self.limit, False


class FlagsAreNumbers(Sound):
    def flags(self) -> tuple[Any, Any]:
        terminated, truncated = super().flags()
        return int(terminated), truncated


class IgnoresSeeds(Sound):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.count = np.random.default_rng().uniform(-0.5, 0.5, 2), 0
        return self.shown(), {}


class RollsDiceOfItsOwn(Sound):
    def push(self, action: Any) -> float:
        return super().push(action) + 0.05 * np.random.default_rng().normal()


class ResetLeavesSomething(Sound):
    """The wind goes on blowing as in the last episode."""

    wind = 0.0

    def push(self, action: Any) -> float:
        self.wind += 0.01 * float(action[0])
        return super().push(action) + self.wind


class IgnoresActions(Sound):
    def push(self, action: Any) -> float:
        return 0.05


class ChangesActions(Sound):
    def push(self, action: Any) -> float:
        action *= 0.5
        return super().push(action)


class EndlessActions(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class ActionsFromOne(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = spaces.Discrete(2, start=1)

    def push(self, action: Any) -> float:
        return 0.2 * (int(action) - 1.5)


class FailsAtTheEdge(Sound):
    def push(self, action: Any) -> float:
        if abs(action[0]) >= 1:
            raise KeyError("a table without this entry")
        return super().push(action)


class ShowsNothing(Sound):
    def shown(self) -> Any:
        return np.ones(2, np.float32)


class NoPicture(Sound):
    def render(self) -> Any:
        return None


class Words(Sound):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Text(10)

    def shown(self) -> Any:
        return "left" if self.state[0] < 0 else "right"


# Topic and words of the fault.
FAULTS: dict[type[Sound], tuple[str, str]] = {
    LeavesItsSpace: ("observations", r"outside of observation_space: entry \d must be from -0.7 to 0.7, got "),
    OtherDtype: ("observations", "its dtype must be float32, got float64"),
    OtherShape: ("observations", r"its shape must be \(2,\), got \(2, 1\)"),
    NotFinite: ("observations", r"they must be finite, step returned array\(\[nan"),
    SameArray: ("observations", "the same array .* return a copy"),
    ShowsNothing: ("observations", "they never change"),
    Words: ("observations", "unsupported space Text"),
    ManyRewards: ("rewards", r"must be one number, got array\(\[1., 2.\]\)"),
    HugeRewards: ("rewards", r"of size \d\.\de\+05 .* multiply them by 1e-06"),
    RewardNaN: ("rewards", "must be finite, got nan"),
    OldInterface: ("episodes", "got 4 values"),
    NoInfo: ("episodes", "reset must return"),
    NeverEnds: ("episodes", "none had ended: wrap the env in gymnasium.wrappers.TimeLimit"),
    LimitIsAnEnd: ("episodes", "terminated after 40 steps, as by a time limit"),
    FlagsAreNumbers: ("episodes", "terminated must be a bool, got 0"),
    IgnoresSeeds: ("seeds", "different episodes in two new envs, from the first observation on"),
    RollsDiceOfItsOwn: ("seeds", r"different episodes in two new envs, from step \d+ on"),
    ResetLeavesSomething: ("seeds", r"reset leaves something of the last episode"),
    IgnoresActions: ("actions", "they change nothing"),
    ChangesActions: ("actions", "copy it first"),
    EndlessActions: ("actions", "bounds must be finite"),
    ActionsFromOne: ("actions", "must be numbered from 0"),
    FailsAtTheEdge: ("actions", "smallest action raises KeyError in line .*broken_envs.py: 'a table"),
    NoPicture: ("rendering", "render must return an array of uint8"),
}
