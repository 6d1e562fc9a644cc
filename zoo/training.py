"""Train an agent with or without a model, with evaluations, checkpoints and an exact resume."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from mbrl_wrappers.agents import CompiledSAC, CompiledTD3, CompiledTQC, Dyna
from mbrl_wrappers.envs.finite import FiniteEnv
from mbrl_wrappers.imagination import ModelBased, checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.storage import write_atomically
from mbrl_wrappers.zoo.recipe import Recipe
from mbrl_wrappers.zoo.rows import read_rows, write_rows

ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {
    "SAC": CompiledSAC,
    "TD3": CompiledTD3,
    "DDPG": sb3.DDPG,
    "DQN": sb3.DQN,
    "TQC": CompiledTQC,
    "CrossQ": sb3_contrib.CrossQ,
    "QRDQN": sb3_contrib.QRDQN,
}


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    Attributes:
        env: a Gymnasium id or ``"package.module:Class"``.
        recipe: what to train with.
        model: whether the agent gets a model; without one it is the same agent at equal updates per step.
        seed: of the agent, the model and the sequence of episodes.
        steps: env steps.
        eval_every: env steps between evaluations.
        eval_episodes: episodes of each, deterministic policy, the same start states every time.
        checkpoint_every: env steps between checkpoints; 0 for none.
        device: where agent and model lie.
    """

    env: str
    recipe: Recipe
    model: bool
    seed: int
    steps: int
    eval_every: int
    eval_episodes: int = 20
    checkpoint_every: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Evaluation:
    """One row of a run's ``progress.csv``.

    Attributes:
        steps: env steps so far.
        return_mean, return_std: over the evaluation's episodes.
        updates: gradient updates of the agent so far.
        wall_seconds, cpu_seconds: of training so far, evaluations and checkpoints left out.
    """

    steps: int
    return_mean: float
    return_std: float
    updates: int
    wall_seconds: float
    cpu_seconds: float


class SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Makes the start of every episode a function of a seed and the episode's number.

    A run that resumes at an episode's end then meets the episodes that it would have met.

    Args:
        env: any env.
        seed: of the run.
        episode: number of the first episode.
    """

    def __init__(self, env: gym.Env, seed: int, episode: int = 0) -> None:
        super().__init__(env)
        self._seed = seed
        self.episode = episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode; a seed given here is not used."""
        number = np.random.SeedSequence([self._seed, self.episode]).generate_state(1)[0]
        self.episode += 1
        return self.env.reset(seed=int(number), options=options)


def make_env(name: str, **kwargs: Any) -> gym.Env:
    """Make an env from a Gymnasium id or ``"package.module:Class"``.

    Args:
        name: the id or the class; a function that returns an env does as well.
        **kwargs: arguments of the env.

    Raises:
        ValueError: if it is neither, makes no Gymnasium env, or does not take these arguments.
    """
    wrong = f"env must be a Gymnasium id or 'package.module:Class', got {name!r}"
    module, _, attribute = name.partition(":")
    if not attribute or "-v" in attribute:
        try:
            return gym.make(name, **kwargs)
        except (gym.error.Error, ImportError, TypeError, ValueError) as error:
            raise ValueError(f"{wrong}: {error}") from error
    try:
        maker = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{wrong}: {error}") from error
    if not callable(maker) or (isinstance(maker, type) and not issubclass(maker, gym.Env)):
        raise ValueError(f"env must be a gymnasium.Env, got {maker!r} from {name!r}")
    try:
        env = maker(**kwargs)
    except TypeError as error:
        raise ValueError(f"env {name!r} can't be made: {error}") from error
    if not isinstance(env, gym.Env):
        raise ValueError(f"env must be a gymnasium.Env, got {type(env).__name__} from {name!r}")
    return env


def build_agent(spec: RunSpec, env: gym.Env) -> tuple[OffPolicyAlgorithm, BaseCallback | None]:
    """Make the SB3 agent of a run and, if it has a model, the callback that brings it."""
    recipe = spec.recipe
    if recipe.algo not in ALGORITHMS:
        raise ValueError(f"algo must be one of {sorted(ALGORITHMS)}, got {recipe.algo!r}")
    policy = "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy"
    arguments = {name: _schedule(value) for name, value in _copy(recipe.agent).items()}
    agent = ALGORITHMS[recipe.algo](policy, env, seed=spec.seed, device=spec.device, **arguments)
    if not spec.model:
        return agent, None
    with make_env(spec.env) as unwrapped:
        dynamics = EnsembleDynamics.for_env(
            unwrapped, seed=spec.seed, device=str(agent.device), **_copy(recipe.dynamics)
        )
    strategy_arguments = _copy(recipe.strategy)
    if isinstance(strategy_arguments.get("rollout_length"), list):
        strategy_arguments["rollout_length"] = tuple(strategy_arguments["rollout_length"])
    return agent, ModelBased(Dyna(**strategy_arguments), dynamics, seed=spec.seed, **recipe.model_based)


def _copy(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy nested literals: SB3 changes the policy_kwargs it is given."""
    return json.loads(json.dumps(arguments))


def _schedule(value: Any) -> Any:
    """Turn ``"lin_0.001"`` into a schedule that falls linearly to 0 over the run; others stay as they are."""
    if not (isinstance(value, str) and value.startswith("lin_")):
        return value
    try:
        start = float(value.removeprefix("lin_"))
    except ValueError:
        raise ValueError(f"a linear schedule must be written lin_NUMBER, got {value!r}") from None
    return LinearSchedule(start, 0.0, 1.0)


def run(
    spec: RunSpec,
    folder: str | Path,
    *,
    progress_bar: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    on_step: Callable[[OffPolicyAlgorithm], None] | None = None,
) -> tuple[OffPolicyAlgorithm, list[Evaluation]]:
    """Train an agent, going on from the folder's checkpoint if there is one; a finished run is read, not repeated.

    Args:
        spec: what to train.
        folder: gets ``spec.json``, ``progress.csv`` (one row per evaluation), ``agent.zip`` at the end
            and, while it runs, ``checkpoint``.
        progress_bar: show SB3's.
        on_evaluation: called with each row.
        on_step: called with the agent after each env step.

    Returns:
        The trained agent, its env closed, and its evaluations.

    Raises:
        ValueError: if the folder holds a run of another spec.
    """
    folder = Path(folder)
    check_folder(spec, folder)
    write_atomically(folder / "spec.json", _as_json(spec).encode())
    checkpoint = folder / "checkpoint"
    episodes = SeededEpisodes(FiniteEnv(make_env(spec.env)), spec.seed)
    with Monitor(episodes) as env, Monitor(FiniteEnv(make_env(spec.env))) as eval_env:
        if (folder / "agent.zip").exists():
            agent = ALGORITHMS[spec.recipe.algo].load(folder / "agent.zip", env=env, device=spec.device)
            return agent, read_rows(folder / "progress.csv", Evaluation)
        rows: list[Evaluation] = []
        callback: BaseCallback | None
        if has_checkpoint(checkpoint):
            state = checkpoint_extra(checkpoint)
            agent = load_checkpoint(ALGORITHMS[spec.recipe.algo], checkpoint, env, spec.device)
            callback = getattr(agent, "model_based", None)
            episodes.episode = state["episode"]
            rows = [Evaluation(**row) for row in state["rows"]]
            clock = _Clock(state["wall_seconds"], state["cpu_seconds"])
        else:
            agent, callback = build_agent(spec, env)
            clock = _Clock(0.0, 0.0)
        recorder = _Recorder(spec, folder, episodes, eval_env, clock, rows, on_evaluation, on_step)
        remaining = spec.steps - agent.num_timesteps
        if remaining > 0:
            callbacks: list[BaseCallback] = [recorder] if callback is None else [callback, recorder]
            agent.learn(remaining, callback=callbacks, reset_num_timesteps=False, progress_bar=progress_bar)
            recorder.evaluate(agent)
    agent.save(folder / ".agent.zip")
    (folder / ".agent.zip").replace(folder / "agent.zip")  # there or not, never half
    return agent, rows


def check_folder(spec: RunSpec, folder: Path) -> None:
    """Refuse a folder that holds a run of another spec; nothing is written.

    Raises:
        ValueError: naming the folder and what differs.
    """
    file = folder / "spec.json"
    if file.exists():
        old, new = json.loads(file.read_text()), json.loads(_as_json(spec))
        different = [name for name in new if old.get(name) != new[name]]
        if different:
            raise ValueError(f"folder must be new or hold a run of the same spec, got {folder}: {different} differ")


def _as_json(spec: RunSpec) -> str:
    return json.dumps(asdict(spec), indent=1)


class _Clock:
    """Wall and CPU seconds of training, which can be paused."""

    def __init__(self, wall: float, cpu: float) -> None:
        self._wall, self._cpu = time.perf_counter() - wall, time.process_time() - cpu

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def skip(self, since: tuple[float, float]) -> None:
        """Forget the time since a reading."""
        wall, cpu = self.read()
        self._wall += wall - since[0]
        self._cpu += cpu - since[1]


class _Recorder(BaseCallback):
    """Evaluates and checkpoints between a finished update and the next step."""

    model: OffPolicyAlgorithm

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        episodes: SeededEpisodes,
        eval_env: Monitor,
        clock: _Clock,
        rows: list[Evaluation],
        on_evaluation: Callable[[Evaluation], None] | None,
        on_step: Callable[[OffPolicyAlgorithm], None] | None,
    ) -> None:
        super().__init__()
        self._spec, self._folder, self._episodes, self._eval_env, self._clock = spec, folder, episodes, eval_env, clock
        self._rows, self._on_evaluation, self._on_step_done = rows, on_evaluation, on_step
        self._episode_over = False
        self._last_checkpoint = 0

    def _on_training_start(self) -> None:
        self._last_checkpoint = self.model.num_timesteps

    def _on_step(self) -> bool:
        self._episode_over = bool(self.locals["dones"].all())
        if self._on_step_done is not None:
            self._on_step_done(self.model)
        return True

    def _on_rollout_start(self) -> None:
        steps = self.model.num_timesteps
        last = self._rows[-1].steps if self._rows else 0
        if steps // self._spec.eval_every > last // self._spec.eval_every:
            self.evaluate(self.model)
        every = self._spec.checkpoint_every
        if every and self._episode_over and steps - self._last_checkpoint >= every:
            self._checkpoint()

    def evaluate(self, agent: Any) -> None:
        """Add a row, unless the last one is of this very step."""
        if self._rows and self._rows[-1].steps == agent.num_timesteps:
            return
        reading = self._clock.read()
        self._eval_env.reset(seed=12345)  # the same start states at each evaluation
        returns, _ = evaluate_policy(
            agent, self._eval_env, self._spec.eval_episodes, deterministic=True, return_episode_rewards=True
        )
        row = Evaluation(
            agent.num_timesteps,
            float(np.mean(returns)),
            float(np.std(returns)),
            agent._n_updates,
            round(reading[0], 2),
            round(reading[1], 2),
        )
        self._rows.append(row)
        write_rows(self._folder / "progress.csv", self._rows)
        if self._on_evaluation is not None:
            self._on_evaluation(row)
        self._clock.skip(reading)

    def _checkpoint(self) -> None:
        reading = self._clock.read()
        state = {
            "steps": self.model.num_timesteps,
            "episode": self._episodes.episode - 1,  # the one that the env has just started
            "rows": [asdict(row) for row in self._rows],
            "wall_seconds": reading[0],
            "cpu_seconds": reading[1],
        }
        save_checkpoint(self.model, self._folder / "checkpoint", state)
        self._last_checkpoint = self.model.num_timesteps
        self._clock.skip(reading)
