"""Finding agents: in a user's folder, in the package, or in the cache, without the network."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from mbrl_wrappers.models import WorldModel
from mbrl_wrappers.zoo.catalogue.index import cached, embedded, read_index
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.folder import AgentFolder, load_agent, load_folder_dynamics, open_folder
from mbrl_wrappers.zoo.storage.manifest import MANIFEST


@dataclass(frozen=True)
class Place:
    """Where an agent of the catalogue lies.

    Attributes:
        name: such as ``"mbpo/Pendulum-v1"``.
        place: ``"embedded"`` (in the package), ``"cached"`` or ``"hub"``.
        path: the agent's folder; None if it has to be pulled first.
    """

    name: str
    place: str
    path: Path | None


def load(name: str | Path, *, env: gym.Env | VecEnv | None = None, device: str = "auto") -> BaseAlgorithm:
    """Load a trained agent: an SB3 agent that can predict and learn further.

    To train further, call ``agent.learn(n, callback=agent.model_based)`` for an agent with a model, or
    ``agent.learn(n)`` for one that plans. Unless the agent was saved with the optimizer, its replay buffer is empty, so
    it first collects ``learning_starts`` steps.

    Args:
        name: a folder, or the zoo's name of an agent, such as ``"mbpo/InvertedPendulum-v5"``.
        env: the env to train further in; default: the recorded env, if it is registered with Gymnasium here.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        ZooError: if there is no such agent, or its files don't match their manifest.
    """
    return load_agent(open_folder(find(name)), env, device)


def load_dynamics(name: str | Path, *, device: str = "cpu") -> WorldModel:
    """Load only the model of a trained agent, to train your own agent in it or to fit it further.

    Args:
        name: as for :func:`load`.
        device: of the model.

    Raises:
        ZooError: as :func:`load`, or if the agent has no model.
    """
    return load_folder_dynamics(open_folder(find(name)), device)


def open_agent(name: str | Path) -> AgentFolder:
    """Find and open an agent's folder; see :func:`load`."""
    return open_folder(find(name))


def try_to_open(place: Place) -> AgentFolder | None:
    """Open an agent's folder, None for one that is not here or is broken."""
    try:
        return None if place.path is None else open_folder(place.path)
    except ZooError:
        return None


def find(name: str | Path) -> Path:
    """Return the folder of an agent: a path, or else the folder in the package or in the cache.

    Raises:
        ZooError: if there is no such agent here; if it can be pulled, the message says so.
    """
    if Path(name).is_dir():
        return _agent_folder(Path(name))
    known = {place.name: place for place in places()}
    if str(name) in known:
        place = known[str(name)]
        if place.path is None:
            raise ZooError(f"{name} lies on the Hub: run `mbrl-zoo pull {name}` first")
        return place.path
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ZooError(f"name must be a folder or one of {sorted(known)}, got {str(name)!r}{hint}")


def places() -> list[Place]:
    """Return the agents that this version knows, sorted by name; the package comes before the cache and the Hub."""
    found = {name: Place(name, "embedded", path) for name, path in embedded().items()}
    for name, entry in read_index().items():
        if name not in found:
            path = cached(name, entry)
            found[name] = Place(name, "hub" if path is None else "cached", path)
    return [found[name] for name in sorted(found)]


def _agent_folder(path: Path) -> Path:
    """Return the agent's folder at a path: the path itself, or the only agent of the training run in it."""
    if (path / MANIFEST).exists():
        return path
    inside = [file.parent for file in sorted(path.glob(f"*/{MANIFEST}")) if file.parent.name != "base"]
    if len(inside) == 1:
        return inside[0]
    raise ZooError(f"{path} must be an agent's folder or a run with one finished agent, got {len(inside)} in it")
