"""Watch an agent play, in a window or on a video."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.environment import playground
from mbrl_wrappers.zoo.evaluation import Episode, play_episodes
from mbrl_wrappers.zoo.storage.folder import load_agent
from mbrl_wrappers.zoo.threads import one_thread


def has_screen() -> bool:
    """Tell whether a window can be opened."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@one_thread()
def enjoy(
    name: str | Path,
    *,
    episodes: int = 5,
    seed: int = 12345,
    env: str | None = None,
    render: bool = True,
    record: str | Path | None = None,
    deterministic: bool | None = None,
) -> list[Episode]:
    """Play episodes with a saved agent for people to see.

    Args:
        name: a folder, or the zoo's name of an agent.
        episodes: number of episodes.
        seed: of the first episode.
        env: a Gymnasium id or ``"package.module:Class"``; default: the recorded env.
        render: open a window, which needs a screen.
        record: the video file to write; no window is opened then.
        deterministic: take the policy's mode instead of a sample; default: as in the recorded evaluation.

    Raises:
        ZooError: if the agent can't be loaded, or its env can't be made or rendered.
    """
    folder = open_agent(name)
    deterministic = folder.is_deterministic if deterministic is None else deterministic
    mode = "rgb_array" if record is not None else "human" if render else None
    options: dict[str, Any] = {} if mode is None else {"render_mode": mode}

    with playground(folder.env, env, **options) as real:
        agent = load_agent(folder, real, "cpu")
        played = play_episodes(agent, real, episodes, first_seed=seed, deterministic=deterministic)
        if record is not None:
            from mbrl_wrappers.zoo.video import record_video

            record_video(agent, lambda: real, record, episodes=episodes, seed=seed, deterministic=deterministic)
    return played
