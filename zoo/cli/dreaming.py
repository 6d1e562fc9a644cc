"""A window on an agent's model: the agent, or a person, plays in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mbrl_wrappers.agents.remembering import RememberingAgent
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs import ImaginedEnv
from mbrl_wrappers.envs.rendering import frames_of
from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.environment import playground
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import Episode, play_episodes
from mbrl_wrappers.zoo.storage.agent_file import model_of
from mbrl_wrappers.zoo.storage.folder import load_agent
from mbrl_wrappers.zoo.threads import one_thread

LEAST_WIDTH = 320
SHADES = " .:-=+*#%@"


@one_thread()
def dream(
    name: str | Path,
    *,
    episodes: int = 1,
    steps: int = 200,
    seed: int = 12345,
    temperature: float | None = None,
    record: str | Path | None = None,
    by_keyboard: bool = False,
    ask: Callable[[str], str] = input,
    show: Callable[[str], None] = print,
) -> list[Episode]:
    """Play episodes inside the model of a saved agent.

    Args:
        name: a folder, or the zoo's name of an agent.
        episodes: number of episodes.
        steps: after which an episode is cut off.
        seed: of the first episode.
        temperature: of the dreams, for a model that takes one.
        record: the video file to write: of images that the model shows, or of vectors by the env's renderer.
        by_keyboard: whether a person is asked for each action, who quits by Ctrl-D (the end of the input).
        ask: asks a person for an action.
        show: shows a text.

    Returns:
        The episodes that were played to their ends, which alone are recorded.

    Raises:
        ZooError: if the agent can't be loaded, has no model, or its dreams can't be rendered.
    """
    check_whole_number("episodes", episodes)
    folder = open_agent(name)
    agent = load_agent(folder, None, "cpu")
    model = model_of(agent)
    if model is None:
        raise ZooError(f"name must be of an agent with a model, got {name}: {type(agent).__name__}")
    remembers = isinstance(agent, RememberingAgent)
    options: dict[str, Any] = {"horizon": steps, "observe": "features" if remembers else "observation"}
    with ExitStack() as stack:
        if record is not None:
            options["render_mode"] = "rgb_array"
            if not model.obs_codec.images:
                options["render_env"] = stack.enter_context(playground(folder.env, None, render_mode="rgb_array"))
        env: gym.Env = TimeLimit(_Enlarged(ImaginedEnv(model, temperature=temperature, **options)), steps)
        player: Any = _Person(model, env, ask, show) if by_keyboard else _OnFeatures(agent) if remembers else agent
        modes = folder.is_deterministic or player is not agent
        played: list[Episode] = []
        with suppress(_Quit):
            for number in range(episodes):
                played += play_episodes(player, env, 1, first_seed=seed + number, deterministic=modes)
        if record is not None and played:
            from mbrl_wrappers.zoo.video import record_video

            replayed: Any = _Replayed(player.actions) if by_keyboard else player
            record_video(replayed, lambda: env, record, episodes=len(played), seed=seed, deterministic=modes)
    return played


class _Quit(Exception):
    """A person breaks off a dream."""


class _Enlarged(gym.Wrapper[Any, Any, Any, Any]):
    """Shows small frames with larger pixels."""

    def render(self) -> Any:
        frame: Any = self.env.render()
        if frame is None:
            return None
        factor = max(1, LEAST_WIDTH // frame.shape[1])
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)


class _Player:
    """An agent's part that episodes are played with."""

    def get_vec_normalize_env(self) -> None:
        return None


class _OnFeatures(_Player):
    """An agent that acts on its model's features, in an env that shows them."""

    def __init__(self, agent: BaseAlgorithm) -> None:
        assert isinstance(agent, RememberingAgent)
        self._agent = agent

    def predict(self, features: np.ndarray, state: Any, start: Any, deterministic: bool) -> tuple[np.ndarray, None]:
        rows = torch.as_tensor(features, device=self._agent.device)[None]
        action = self._agent.act_on(rows, deterministic)
        return self._agent.dynamics.action_codec.decode_numpy(action)[0], None


class _Person(_Player):
    """Somebody at a keyboard, who sees frames in shades of characters; an empty answer repeats the last action."""

    def __init__(self, model: WorldModel, env: gym.Env, ask: Callable[[str], str], show: Callable[[str], None]) -> None:
        self._model, self._env, self._ask, self._show = model, env, ask, show
        self._last: Any = None
        self.actions: list[Any] = []

    def predict(self, obs: Any, state: Any, start: Any, deterministic: bool) -> tuple[Any, None]:
        imagined: Any = self._env.unwrapped
        self._show(as_text(self._model, imagined.episodes.obs))
        action = None
        try:
            while action is None:
                action = self._understood(self._ask(f"your action, {_wanted(self._model.action_space)}: ").strip())
        except EOFError:
            self._show("\nYou quit.")  # the cursor stands behind the question
            raise _Quit from None
        self._last = action
        self.actions.append(action)
        return action, None

    def _understood(self, answer: str) -> Any:
        """Return an action of the space, or None."""
        space = self._model.action_space
        if not answer:
            return self._last
        try:
            numbers = [float(part) for part in answer.replace(",", " ").split()]
            is_box = isinstance(space, spaces.Box)
            action: Any = np.array(numbers, space.dtype).reshape(space.shape) if is_box else int(answer)
        except ValueError:
            return None
        return action if space.contains(action) else None


class _Replayed(_Player):
    """Actions that were chosen before, one after the other."""

    def __init__(self, actions: list[Any]) -> None:
        self._actions = iter(actions)

    def predict(self, obs: Any, state: Any, start: Any, deterministic: bool) -> tuple[Any, None]:
        return next(self._actions), None


def _wanted(space: spaces.Space) -> str:
    if isinstance(space, spaces.Box):
        return f"numbers from {space.low.min():g} to {space.high.max():g}"
    return f"0 to {space.n - 1}" if isinstance(space, spaces.Discrete) else str(space)


def as_text(model: WorldModel, obs: Tensor) -> str:
    """Return an observation ``[1, D]`` as text: a frame in shades, two rows of pixels a line, or numbers."""
    if not model.obs_codec.images:
        return " ".join(f"{value:.3f}" for value in obs[0].tolist())
    frame = frames_of(model.obs_codec, obs)[0].mean(-1)[::2]
    return "\n".join("".join(SHADES[int(value * len(SHADES) / 256)] for value in row) for row in frame)
