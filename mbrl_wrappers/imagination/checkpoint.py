"""Checkpoints that resume a run exactly: agent, model, both buffers and every random number generator."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from mbrl_wrappers.files import remove_abandoned, temporary_beside
from mbrl_wrappers.seeding import is_apart, set_apart

Agent = TypeVar("Agent", bound="Resumable")


class Resumable(Protocol):
    """The parts of an agent that a checkpoint uses: SB3's agents have them, and so does AlphaZero.

    What it learns from later, such as a replay buffer, is kept if it has ``save_replay_buffer`` and
    ``load_replay_buffer``.

    Attributes:
        env: the env that it learns in.
        action_space: whose generator is kept.
    """

    env: Any
    action_space: Any

    def save(self, path: Any) -> None:
        """Write the agent."""

    @classmethod
    def load(cls, path: Any, env: Any = None, device: Any = "auto") -> Any:
        """Read what :meth:`save` wrote."""

    def get_vec_normalize_env(self) -> Any:
        """Return the VecNormalize around the env, if there is one."""


def save_checkpoint(agent: Resumable, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write everything that the rest of a run depends on, all of it or nothing.

    The files are written into a temporary folder that replaces ``folder`` at the end, so a crash at any moment
    leaves the previous checkpoint. The environment's own state can't be stored: save at the end of an episode,
    from a callback's ``_on_rollout_start``, where the update after the last step is done.

    The folder holds SB3's own files, which are pickles: load checkpoints of your own runs only.

    Args:
        agent: trained with :class:`~mbrl_wrappers.imagination.ModelBased`, or without.
        folder: where to write.
        extra: JSON-safe values of your own, for :func:`checkpoint_extra`.
    """
    folder = Path(folder).resolve()  # "." has no name to write beside
    partial = temporary_beside(folder)
    partial.mkdir(parents=True)
    remove_abandoned(folder.parent)  # a checkpoint is large, and a process may have been killed while writing one
    try:
        agent.save(partial / "agent.zip")
        if hasattr(agent, "save_replay_buffer"):  # SB3's on-policy agents keep nothing
            agent.save_replay_buffer(partial / "replay_buffer.pkl")
        normalizer = agent.get_vec_normalize_env()
        if isinstance(normalizer, VecNormalize):
            normalizer.save(str(partial / "vec_normalize.pkl"))
        tensors, numbers = _random_state(agent)
        model_based = getattr(agent, "model_based", None)
        if model_based is not None:
            tensors.update({f"model_based.{name}": value for name, value in model_based.full_state().items()})
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps({"random": numbers, "extra": extra or {}}))
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(kind: type[Agent], folder: str | Path, env: GymEnv, device: str = "auto") -> Agent:
    """Bring back a run saved by :func:`save_checkpoint`.

    Go on with ``agent.learn(remaining_steps, callback=agent.model_based, reset_num_timesteps=False)``.
    The env is reset and starts a new episode. If its first states depend only on generators that you seed, the run is
    the same, bit for bit, as one that was never interrupted.

    Args:
        kind: the agent's class, such as ``SAC``.
        folder: where the checkpoint is.
        env: made and wrapped as for the first run; a VecNormalize in it gets the saved statistics.
        device: where the agent goes.

    Raises:
        ValueError: if there is no checkpoint.
    """
    folder = _newest(Path(folder))
    agent = kind.load(folder / "agent.zip", env=env, device=device)
    if (folder / "replay_buffer.pkl").exists():
        agent.load_replay_buffer(folder / "replay_buffer.pkl", truncate_last_traj=False)
    normalizer = agent.get_vec_normalize_env()
    if isinstance(normalizer, VecNormalize) and (folder / "vec_normalize.pkl").exists():
        saved = VecNormalize.load(str(folder / "vec_normalize.pkl"), normalizer.venv)
        normalizer.__setstate__(saved.__getstate__())
        normalizer.set_venv(saved.venv)
    tensors = load_file(folder / "state.safetensors")
    model_based = getattr(agent, "model_based", None)
    if model_based is not None:
        prefix = "model_based."
        model_based.load_full_state({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    start_episodes(agent)
    _restore_random_state(agent, tensors, _numbers(folder)["random"])
    return agent


def start_episodes(agent: Any, env: Any = None) -> None:
    """Reset the env as ``learn`` would do, but leave VecNormalize's statistics, which may count this reset already.

    Args:
        agent: an SB3 agent.
        env: what the agent has put around its env, if anything; default: its env.
    """
    env = agent.env if env is None else env
    assert env is not None
    normalizer = agent.get_vec_normalize_env()
    if normalizer is None:
        agent._last_obs = env.reset()
    else:
        was_training, normalizer.training = normalizer.training, False
        agent._last_obs = env.reset()
        agent._last_original_obs = normalizer.get_original_obs()
        normalizer.training = was_training
    agent._last_episode_starts = np.ones(agent.env.num_envs, dtype=bool)


def checkpoint_extra(folder: str | Path) -> dict[str, Any]:
    """Return the ``extra`` values of a checkpoint.

    Raises:
        ValueError: if there is no checkpoint.
    """
    return _numbers(_newest(Path(folder)))["extra"]


def _numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "state.json").read_text())  # no limit of size: the folder is trusted, it holds pickles


def has_checkpoint(folder: str | Path) -> bool:
    """Tell whether :func:`load_checkpoint` would find one."""
    return any((candidate / "state.json").exists() for candidate in (Path(folder), _previous(Path(folder))))


def _swap(partial: Path, folder: Path) -> None:
    """Put the finished checkpoint in place; the old one is kept beside it until that is done."""
    previous = _previous(folder)
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _newest(folder: Path) -> Path:
    """Return the folder, or the old one that a crash between two renames left beside it."""
    for candidate in (folder, _previous(folder)):
        if (candidate / "state.json").exists():
            return candidate
    raise ValueError(f"folder must hold a checkpoint, got {folder}")


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _random_state(agent: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of torch's, NumPy's, Python's and the action space's generators."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the generator SB3 draws from
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.array(keys, dtype=np.int64))}
    if agent.device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(agent.device)
    version, internal, gauss = random.getstate()
    numbers = {
        "numpy": [name, int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
        "action_space": agent.action_space.np_random.bit_generator.state,
        "action_space_is_apart": is_apart(agent.action_space),
    }
    return tensors, numbers


def _restore_random_state(agent: Any, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and agent.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], agent.device)
    name, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss = numbers["python"]
    random.setstate((version, tuple(internal), gauss))
    if numbers.get("action_space_is_apart", False):
        set_apart(agent.action_space)  # now, or the start of training would replace the restored state
    agent.action_space.np_random.bit_generator.state = numbers["action_space"]
