"""The job behind ``mbrl-zoo train``: an agent beside the same agent without a model."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.agents import Dyna
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.imagination import ModelBased
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.zoo.display import TrainingProgress
from mbrl_wrappers.zoo.model_error import HorizonError
from mbrl_wrappers.zoo.plots import save_training_figure
from mbrl_wrappers.zoo.processes import TrainingProcess, is_finished
from mbrl_wrappers.zoo.recipe import Recipe, check_name, load_recipe, override
from mbrl_wrappers.zoo.rows import read_rows
from mbrl_wrappers.zoo.training import ALGORITHMS, Evaluation, RunSpec, build_agent, check_folder, make_env

NUM_CURVE_POINTS = 10
NUM_CHECKPOINTS = 10
POLL_SECONDS = 0.2

# What a run sets itself.
_NOT_IN_RECIPES = {
    "self",
    "policy",
    "env",
    "seed",
    "device",
    "strategy",
    "dynamics",
    "observation_space",
    "action_space",
    "_init_setup_model",
}


@dataclass(frozen=True)
class Training:
    """What :func:`train` returns.

    Attributes:
        agent: the trained model-based agent, with its model at ``agent.model_based.dynamics``.
        spec: what it was trained with.
        folder: where all files are.
        curves: evaluations by label, such as ``"MBPO(SAC)"`` and, for the base, ``"SAC"``.
        model_error: the model's error over the horizon.
    """

    agent: OffPolicyAlgorithm
    spec: RunSpec
    folder: Path
    curves: dict[str, list[Evaluation]]
    model_error: list[HorizonError]


def train(
    agent: str,
    env: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    algo: str | None = None,
    params: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    eval_episodes: int = 20,
    checkpoint_every: int | None = None,
    device: str = "cpu",
    baseline: bool = True,
    progress_bar: bool = False,
) -> Training:
    """Train an agent on an environment and, for comparison, the same agent without a model.

    The two run in parallel, each in a process of its own and on one thread: a script calls this under
    ``if __name__ == "__main__":``. Called again with the same arguments, it goes on from the folder's
    last checkpoints; a finished run is read, not repeated.

    Args:
        agent: such as ``"mbpo"``.
        env: a Gymnasium id or ``"package.module:Class"``; its episodes must end.
        steps: env steps; default: the recipe's.
        seed: of agents, model and episodes.
        algo: SB3's name of the model-free agent; default: the recipe's, which depends on the action space.
        params: changes to the recipe by ``"section.argument"``, such as ``{"strategy.real_ratio": 0.1}``.
        folder: gets ``curves.png``, and ``mbpo`` and ``base`` with the files of
            :func:`~mbrl_wrappers.zoo.training.run`; default: :func:`default_folder`.
        eval_episodes: episodes of each of the ten evaluations.
        checkpoint_every: env steps between checkpoints, 0 for none; default: a tenth of ``steps``.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        baseline: whether to train the agent without a model too.
        progress_bar: show one.

    Raises:
        ValueError: for an argument that can't be used, or a folder that holds a run of other arguments.
        TrainingFailed: if a run ends in any other error.
    """
    spec = make_spec(
        agent,
        env,
        steps=steps,
        seed=seed,
        algo=algo,
        params=params or {},
        eval_episodes=eval_episodes,
        checkpoint_every=checkpoint_every,
        device=device,
    )
    folder = default_folder(agent, env, seed) if folder is None else Path(folder)
    variants = {f"{agent.upper()}({spec.recipe.algo})": (spec, folder / agent)}
    if baseline:
        variants[spec.recipe.algo] = (dataclasses.replace(spec, model=False), folder / "base")
    for own_spec, own_folder in variants.values():
        check_folder(own_spec, own_folder)
    unfinished = {label: (s, f) for label, (s, f) in variants.items() if not is_finished(s, f)}
    with _started(unfinished) as processes, TrainingProgress(processes) if progress_bar else nullcontext() as progress:
        while any([process.is_running() for process in processes]):
            time.sleep(POLL_SECONDS)
            if progress is not None:
                progress.update()
    result = Training(
        agent=ALGORITHMS[spec.recipe.algo].load(folder / agent / "agent.zip", device=device),
        spec=spec,
        folder=folder,
        curves={label: read_rows(own / "progress.csv", Evaluation) for label, (_, own) in variants.items()},
        model_error=read_rows(folder / agent / "model_error.csv", HorizonError),
    )
    title = f"{next(iter(variants))} on {env}"
    save_training_figure(folder / "curves.png", title, result.curves, result.model_error)
    return result


def default_folder(agent: str, env: str, seed: int) -> Path:
    """Return where a run goes that is given no folder."""
    return Path("runs") / f"{agent}_{env.replace('/', '-').replace(':', '.')}_seed{seed}"


@contextmanager
def _started(variants: Mapping[str, tuple[RunSpec, Path]]) -> Iterator[list[TrainingProcess]]:
    """Start the runs; none is left over when the block ends, whatever ends it."""
    processes: list[TrainingProcess] = []
    try:
        for label, (spec, folder) in variants.items():
            processes.append(TrainingProcess(label, spec, folder))
        yield processes
    finally:
        for process in processes:
            process.stop()


def make_spec(
    agent: str,
    env: str,
    *,
    steps: int | None,
    seed: int,
    algo: str | None,
    params: Mapping[str, Any],
    eval_episodes: int,
    checkpoint_every: int | None,
    device: str,
) -> RunSpec:
    """Bring a recipe and a user's wishes together, and try that they can be built; see :func:`train`."""
    load_recipe(agent, env)  # an unknown agent is told before the env is made
    real = make_env(env)
    _check_spaces(real)
    recipe = load_recipe(agent, env, algo=algo, discrete_actions=isinstance(real.action_space, spaces.Discrete))
    recipe = override(recipe, params)
    check_name(recipe.algo, ALGORITHMS, "algo")
    _check_arguments(recipe)
    steps = recipe.steps if steps is None else steps
    checkpoint_every = max(1, steps // NUM_CHECKPOINTS) if checkpoint_every is None else checkpoint_every
    learning_starts = recipe.agent["learning_starts"]
    check_whole_number("steps", steps, 1)
    check_whole_number("seed", seed, 0)
    check_whole_number("eval_episodes", eval_episodes, 1)
    check_whole_number("checkpoint_every", checkpoint_every, 0)
    check_whole_number("agent.learning_starts", learning_starts, 0)
    if steps <= learning_starts:
        raise ValueError(f"steps must be more than agent.learning_starts, which is {learning_starts}, got {steps}")
    _check_device(device)
    spec = RunSpec(
        env=env,
        recipe=recipe,
        model=True,
        seed=seed,
        steps=steps,
        eval_every=max(1, steps // NUM_CURVE_POINTS),
        eval_episodes=eval_episodes,
        checkpoint_every=checkpoint_every,
        device=device,
    )
    try:
        build_agent(spec, real)
    except (AssertionError, NotImplementedError, TypeError) as error:  # how SB3 refuses spaces and arguments
        raise ValueError(f"{recipe.algo} can't be built for {env}: {error}") from error
    real.close()
    return spec


def _check_spaces(env: gym.Env) -> None:
    FlatSpace(env.observation_space, "observation_space")
    FlatSpace(env.action_space, "action_space")
    if isinstance(env.action_space, spaces.Discrete) and env.action_space.start != 0:
        raise ValueError(f"action_space must start at 0, as SB3's agents count, got {env.action_space!r}")


def _check_arguments(recipe: Recipe) -> None:
    """Refuse arguments that the constructors do not have."""
    constructors: dict[str, type] = {
        "agent": ALGORITHMS[recipe.algo],
        "strategy": Dyna,
        "model_based": ModelBased,
        "dynamics": EnsembleDynamics,
    }
    for section, constructor in constructors.items():
        valid = inspect.signature(constructor).parameters.keys() - _NOT_IN_RECIPES
        for name in getattr(recipe, section):
            check_name(name, valid, f"argument of {section} ({constructor.__name__})")


def _check_device(device: str) -> None:
    if device == "auto":
        return
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'auto', got {device!r}") from error
