"""Where agents are found: a folder of one's own, in the package, in the cache; the network is never asked here."""

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
        place: ``"embedded"``, ``"cached"`` or ``"hub"``.
        path: its folder; None for one that has to be pulled first.
    """

    name: str
    place: str
    path: Path | None


def load(name: str | Path, *, env: gym.Env | VecEnv | None = None, device: str = "auto") -> BaseAlgorithm:
    """Load a trained agent: a live SB3 agent that predicts, and whose ``learn`` goes on.

    An agent with a model goes on with ``agent.learn(n, callback=agent.model_based)``, one that plans with
    ``agent.learn(n)``. Its folder holds no replay buffer, unless it was saved with the optimizer, so it gathers
    ``learning_starts`` steps first.

    Args:
        name: a folder, or the zoo's name of an agent, such as ``"mbpo/InvertedPendulum-v5"``.
        env: to go on in; default: the recorded env, if it is registered with Gymnasium here.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        ZooError: if there is no such agent, or its files are not what they should be.
    """
    return load_agent(open_folder(find(name)), env, device)


def load_dynamics(name: str | Path, *, device: str = "cpu") -> WorldModel:
    """Load the model of a trained agent alone: to train an agent of your own in it, or to fit it on.

    Args:
        name: as for :func:`load`.
        device: where the model goes.

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
    """Return the folder of an agent: a path, else what ships with the package, else what was pulled.

    Raises:
        ZooError: if there is none; if it can be pulled, the message says so.
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
    """Return the agents that this version knows, each at the first place where it lies, by name."""
    found = {name: Place(name, "embedded", path) for name, path in embedded().items()}
    for name, entry in read_index().items():
        if name not in found:
            path = cached(name, entry)
            found[name] = Place(name, "hub" if path is None else "cached", path)
    return [found[name] for name in sorted(found)]


def _agent_folder(path: Path) -> Path:
    """Return the agent's folder at a path: the path itself, or the one agent of a training run in it."""
    if (path / MANIFEST).exists():
        return path
    inside = [file.parent for file in sorted(path.glob(f"*/{MANIFEST}")) if file.parent.name != "base"]
    if len(inside) == 1:
        return inside[0]
    raise ZooError(f"{path} must be an agent's folder or a run with one finished agent, got {len(inside)} in it")
