"""Play a saved agent's episodes again, and compare them with the recorded ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.environment import MAX_EPISODE_STEPS, EpisodeLimit, installed_versions, playground
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import FIRST_SEED, NUM_EPISODES, Episode, play_episodes
from mbrl_wrappers.zoo.storage.folder import AgentFolder, load_agent
from mbrl_wrappers.zoo.threads import one_thread

# Processors round differently. In most envs the difference stays below this; in chaotic ones, such as many robots,
# a drift without a changed version may be nothing but rounding.
RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Verdict:
    """The result of :func:`verify`.

    Attributes:
        status: ``"match"``: every episode has the recorded length and return; ``"drift"``: the agent plays, but
            not as recorded; ``"incompatible"``: it can't be played here.
        reason: the reason, in a sentence.
        changed: packages and engines whose versions differ from the recorded ones, as ``(recorded, here)``.
    """

    status: Literal["match", "drift", "incompatible"]
    reason: str
    changed: dict[str, tuple[str, str]]


@one_thread()
def evaluate(
    name: str | Path,
    *,
    episodes: int = NUM_EPISODES,
    seed: int = FIRST_SEED,
    env: str | gym.Env | None = None,
    device: str = "cpu",
    deterministic: bool | None = None,
) -> list[Episode]:
    """Play episodes with a saved agent, on one thread.

    Args:
        name: a folder, or the zoo's name of an agent.
        episodes: number of episodes.
        seed: of the first episode; the following episodes count up from it.
        env: the env to play in, or its name; default: the recorded env, if it is registered with Gymnasium here.
        device: of the agent.
        deterministic: take the policy's mode instead of a sample; default: as in the recorded evaluation.

    Raises:
        ZooError: if the agent can't be loaded, or its env can't be made.
    """
    folder = open_agent(name)
    deterministic = folder.is_deterministic if deterministic is None else deterministic
    with playground(folder.env, env) as real:
        agent = load_agent(folder, real, device)
        played = play_episodes(agent, real, episodes, first_seed=seed, deterministic=deterministic)
    return played


@one_thread()
def verify(name: str | Path, *, env: str | gym.Env | None = None) -> Verdict:
    """Play the recorded evaluation episodes again, from their seeds, on one thread.

    Args:
        name: a folder, or the zoo's name of an agent.
        env: the env to play in, or its name; default: the recorded env.

    Raises:
        ZooError: if the folder is broken, or records no episodes.
    """
    folder = open_agent(name)
    if folder.evaluation is None:
        raise ZooError(f"{folder.path} must record an evaluation to be verified, it has none")
    recorded = folder.evaluation.episodes
    try:
        with playground(folder.env, env) as real:
            agent = load_agent(folder, real, "cpu")
            played = [_play_again(agent, real, episode, folder.is_deterministic) for episode in recorded]
    except ZooError as error:
        changed = changed_versions(folder)
        return Verdict("incompatible", f"{error}{_because(changed)}", changed)
    different = [(old, new) for old, new in zip(recorded, played, strict=True) if not _is_same(old, new)]
    changed = changed_versions(folder)
    if not different:
        return Verdict("match", f"all {len(recorded)} episodes have the recorded return and length", changed)
    old, new = different[0]
    reason = (
        f"{len(different)} of {len(recorded)} episodes differ; seed {old.seed}: recorded {old.total_reward:.6g} in "
        f"{old.length} steps, played {new.total_reward:.6g} in {new.length}"
    )
    because = _because(changed) or "; no package or engine changed its version, so it is the processor or the files"
    return Verdict("drift", f"{reason}{because}", changed)


def _play_again(agent: BaseAlgorithm, env: gym.Env, episode: Episode, deterministic: bool) -> Episode:
    """Play an episode from its seed; if it was cut off, it is cut off at the same step, whatever the limit is now.

    Any other long episode may go on for one step more than recorded, which shows that it does not end there.
    """
    if episode.cut_off:
        env = TimeLimit(env, episode.length)
    elif episode.length >= MAX_EPISODE_STEPS:
        env = EpisodeLimit(env, episode.length + 1)
    return play_episodes(agent, env, 1, first_seed=episode.seed, deterministic=deterministic)[0]


def changed_versions(folder: AgentFolder) -> dict[str, tuple[str, str]]:
    """Return the packages whose versions differ from those at the agent's evaluation, or that are missing here."""
    recorded = folder.env.versions if folder.evaluation is None else folder.evaluation.versions
    here = installed_versions(recorded)
    return {name: (old, here.get(name, "none")) for name, old in recorded.items() if here.get(name, "none") != old}


def _is_same(one: Episode, other: Episode) -> bool:
    near = math.isclose(one.total_reward, other.total_reward, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)
    return near and one.length == other.length


def _because(changed: dict[str, tuple[str, str]]) -> str:
    if not changed:
        return ""
    names = ", ".join(f"{name} ({old} there, {new} here)" for name, (old, new) in changed.items())
    return f"; other versions: {names}"
