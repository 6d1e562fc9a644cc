"""World Models on the pixel pendulum: dream against reality, mixtures against Gaussians, and what temperature does.

And its recipes on TakeCover and CarRacing, against random play.

    python benchmarks/world_models.py run control likelihood temperature --seeds 1 2 3
    python benchmarks/world_models.py run TakeCover --seeds 1 2
    python benchmarks/world_models.py run CarRacing --seeds 1
    python benchmarks/world_models.py table

A run writes its rows to docs/results/world_models/PART_seedN.csv when it is finished; until then it goes on from the
checkpoints in runs/world_models. The agent of a seed is trained as `mbrl-zoo train` does, and can be exported. `table`
makes docs/results/world_models.md.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from experiments import RESULTS, ROOT, spread, versions, write_csv, write_page
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import mbrl_wrappers.envs
from mbrl_wrappers.agents import WorldModels
from mbrl_wrappers.envs import collect_episodes
from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint, load_checkpoint, save_checkpoint
from mbrl_wrappers.models import MDNRNN
from mbrl_wrappers.zoo.evaluation import mean_and_std, play_episodes
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.run import CHECKPOINT, run

ENV = "mbrl_wrappers/PixelPendulum-v0"
SEEDS = (1, 2, 3)
FOLDER = RESULTS / "world_models"
EVAL_FREQ, EVAL_EPISODES, TEST_STEPS = 5_000, 20, 10_000
CHUNK = 10  # real generations between checkpoints
REALITY: dict[str, Any] = {"train_in": "reality", "dreams": 2, "generations": 150}
NUM_REAL_ENVS = 48  # a generation has twice as many trials
TEMPERATURES, SWEEP_GENERATIONS = (0.1, 0.5, 1.0, 1.3), 100


TASKS = {  # with test episodes, and env steps between evaluations
    "TakeCover": ("mbrl_wrappers/TakeCoverFrameSkip4-v0", 100, 50_000),
    "CarRacing": ("CarRacing-v3", 50, 200_000),
}


def make_env(env_id: str = ENV) -> gym.Env:
    return Monitor(gym.make(env_id))


def evaluated(agent: WorldModels) -> float:
    """Return the mean return of C in reality."""
    return mean_and_std(play_episodes(agent, make_env(), EVAL_EPISODES))[0]


def go_on(folder: Path, make: Callable[[], WorldModels], env: Any, steps: int, chunk: int) -> tuple[WorldModels, float]:
    """Train to a number of env steps or to the end of the search, with checkpoints; returns the CPU seconds too."""
    agent, spent = (make(), 0.0) if not has_checkpoint(folder) else (None, checkpoint_extra(folder)["cpu"])
    if agent is None:
        agent = load_checkpoint(WorldModels, folder, env, device="cpu")
    while agent.num_timesteps < steps and agent._stage != "over":
        start = time.process_time()
        agent.learn(min(chunk, steps - agent.num_timesteps), reset_num_timesteps=False, log_interval=10**9)
        spent += time.process_time() - start
        save_checkpoint(agent, folder, {"cpu": spent})
        print(f"{folder}: {agent.num_timesteps:,} steps, {agent._stage} {agent._generation}, {spent:.0f} s", flush=True)
    return agent, spent


def dreamer(seed: int, env_id: str = ENV, name: str = "", eval_freq: int = EVAL_FREQ) -> tuple[WorldModels, float]:
    """Train in the dream as `mbrl-zoo train` does; returns the agent with its buffer, and the CPU seconds."""
    folder = ROOT / "runs" / "world_models" / f"{name}seed{seed}"
    spec = make_job(
        "world_models", env_id, seed=seed, device="cpu", eval_freq=eval_freq, eval_episodes=EVAL_EPISODES,
        save_freq=eval_freq,
    )  # fmt: skip
    _, rows = run(spec, folder, keep_checkpoint=True, on_evaluation=lambda row: print(seed, row, flush=True))
    agent = load_checkpoint(WorldModels, folder / CHECKPOINT, make_env(env_id), device="cpu")
    return agent, rows[-1].cpu_seconds


def task(name: str, seed: int) -> list[dict[str, Any]]:
    """Random play, and the agent of the recipe, which learns in its dreams; each in as many test episodes."""
    env_id, episodes, eval_freq = TASKS[name]
    agent, cpu = dreamer(seed, env_id, f"{name}_", eval_freq)
    env = make_env(env_id)
    env.action_space.seed(seed)
    rows: list[dict[str, Any]] = []
    for policy, steps, spent in (("random", 0, 0.0), ("World Models", agent.num_timesteps, cpu)):
        if policy == "random":
            returns = [random_return(env, number) for number in range(episodes)]
        else:
            returns = [episode.total_reward for episode in play_episodes(agent, env, episodes)]
        error = float(np.std(returns, ddof=1)) / episodes**0.5
        rows.append(
            {"policy": policy, "real_steps": steps, "return": round(float(np.mean(returns)), 1),
             "standard_error": round(error, 1), "cpu": round(spent)}
        )  # fmt: skip
    return rows


def random_return(env: gym.Env, seed: int) -> float:
    """Play an episode of random actions."""
    env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total, done = total + float(reward), terminated or truncated
    return total


def control(seed: int) -> list[dict[str, Any]]:
    """The same controller of the same features, from the dream and from reality; and one that does nothing."""
    agent, cpu = dreamer(seed)
    dream = {"trained_in": "dream", "real_steps": agent.num_timesteps, "return": evaluated(agent), "cpu": cpu}
    learned, agent.policy.vector = agent.policy.vector, np.zeros_like(agent.policy.vector)
    nothing = {"trained_in": "nothing", "real_steps": 0, "return": evaluated(agent), "cpu": 0.0}
    agent.policy.vector = learned
    envs = DummyVecEnv([make_env] * NUM_REAL_ENVS)
    envs.seed(seed)
    per_generation = REALITY["dreams"] * agent.population * 200
    folder = ROOT / "runs" / "world_models" / f"seed{seed}_reality"

    def make() -> WorldModels:
        least = agent.dynamics.settings["sequence_length"] * NUM_REAL_ENVS  # random steps, as few as it takes
        settings: dict[str, Any] = {"learning_starts": least, "population": agent.population, "sigma": agent.sigma}
        other = WorldModels(
            "CnnPolicy", envs, dynamics=agent.dynamics, buffer_size=10_000, seed=seed, device="cpu",
            **settings, **REALITY,
        )  # fmt: skip
        other._stage, other._num_fits = "controller", 1  # V and M are the dreamer's
        return other

    limit = REALITY["generations"] * (per_generation + 200 * NUM_REAL_ENVS)
    real, real_cpu = go_on(folder, make, envs, limit, CHUNK * per_generation)
    reality = {"trained_in": "reality", "real_steps": real.num_timesteps, "return": evaluated(real), "cpu": real_cpu}
    return [nothing, dream, reality]


def likelihood(seed: int) -> list[dict[str, Any]]:
    """Log likelihoods of latents a dimension, in nats, on episodes that no fit has seen."""
    agent, _ = dreamer(seed)
    model = agent.dynamics
    rows, real = [], make_env()
    plain = MDNRNN(real.observation_space, real.action_space, latent=1)  # for its codecs
    test = collect_episodes(real, plain, TEST_STEPS, seed=10_000 + seed)
    for components in (model.settings["components"], 1):
        other = MDNRNN(model.observation_space, model.action_space, **{**model.settings, "components": components})
        own = {name: value for name, value in model.state_dict().items() if not name.startswith(("lstm", "mixture"))}
        other.load_state_dict({**other.state_dict(), **own})
        other.fit_memory(agent._experience(), torch.Generator().manual_seed(seed))
        with torch.no_grad():
            pool = other.encoded(_As(test, model, plain), 300, torch.Generator().manual_seed(0))
            found = -float(other.memory_loss(pool, torch.Generator().manual_seed(1))["mixture"])
        rows.append({"components": components, "log_likelihood": round(found, 4)})
    return rows


class _As:
    """Experience whose images are laid out as another model has them, channels first."""

    def __init__(self, experience: Any, model: MDNRNN, own: MDNRNN) -> None:
        self._experience, self._model, self._own = experience, model, own

    def rows(self) -> Any:
        return self._experience.rows()

    def sequences(self, count: int, length: int, generator: torch.Generator | None = None) -> Any:
        drawn = self._experience.sequences(count, length, generator)
        return drawn._replace(obs=self._model.obs_codec.assemble([self._own.obs_codec.image(drawn.obs)]))


def temperature(seed: int) -> list[dict[str, Any]]:
    """What controllers reach in dreams of a temperature, and in reality."""
    agent, _ = dreamer(seed)
    agent.set_logger(Logger(None, []))
    rows = []
    for value in TEMPERATURES:
        agent.temperature, agent._evolution = value, None
        agent.policy.vector = np.zeros_like(agent.policy.vector)
        for _ in range(SWEEP_GENERATIONS):
            agent._evolve()
        dreamed = float(agent.dream(dreams=100, seed=seed).mean())
        rows.append({"temperature": value, "dreamed": round(dreamed, 1), "real": round(evaluated(agent), 1)})
        print(rows[-1], flush=True)
    return rows


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "control": control,
    "likelihood": likelihood,
    "temperature": temperature,
    **{name: partial(task, name) for name in TASKS},
}


def read(part: str) -> dict[int, list[dict[str, float | str]]]:
    """Return the committed rows of each seed."""
    found = {}
    for seed in SEEDS:
        file = FOLDER / f"{part}_seed{seed}.csv"
        if file.exists():
            with file.open(newline="") as text:
                found[seed] = list(csv.DictReader(text))
    return found


def table(part: str, key: str, columns: dict[str, str]) -> list[str]:
    """A row for each value of ``key``, with every seed's numbers and their mean."""
    seeds = read(part)
    if not seeds:
        return []
    lines = ["| " + " | ".join([key.replace("_", " "), *columns.values()]) + " |", "|" + "---|" * (1 + len(columns))]
    for index, row in enumerate(next(iter(seeds.values()))):
        cells = [str(row[key])]
        for column in columns:
            values = [float(rows[index][column]) for rows in seeds.values()]
            digits = 0 if all(value.is_integer() for value in values) or max(map(abs, values)) >= 100 else 2
            cells.append(", ".join(f"{v:,.{digits}f}" for v in values) + f" ({spread(values, digits)})")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def document() -> str:
    """Return the page, from the committed rows."""
    lines = [
        "# World Models",
        "",
        "The recipes of `world_models`; settings were chosen on seed 100. Every seed's number is shown, mean and "
        "standard deviation behind them.",
        "",
        f"{versions()}.",
        "Written by `python benchmarks/world_models.py table` from the CSV files in the folder `world_models`.",
        "",
        "## Pixel pendulum: a controller from the dream, and one of the same size from reality",
        "",
        f"Frames of 32 x 32. Returns are means over {EVAL_EPISODES} episodes.",
        "V and M are the dreamer's in both. In the dream: after each of three fits 100 generations of 48 candidates,",
        f"12 dreams of 100 steps each. In reality: {REALITY['generations']} generations of 48 candidates, "
        f"{REALITY['dreams']} whole",
        "episodes each; its real steps leave out those that V and M were fitted on.",
        "",
        *table("control", "trained_in", {"real_steps": "real steps", "return": "return", "cpu": "CPU s"}),
    ]
    titles = {
        "likelihood": "## Pixel pendulum: log likelihood of latents a dimension, nats, on other episodes",
        "temperature": f"## Pixel pendulum: temperature of the dreams, {SWEEP_GENERATIONS} generations each",
        **{
            name: f"## {name}: the dreamer and random play, {episodes} test episodes"
            for name, (_, episodes, _) in TASKS.items()
        },
    }
    of_task = {"real_steps": "real steps", "return": "return", "standard_error": "standard error", "cpu": "CPU s"}
    columns: dict[str, tuple[str, dict[str, str]]] = {
        **dict.fromkeys(TASKS, ("policy", of_task)),
        "likelihood": ("components", {"log_likelihood": "log likelihood"}),
        "temperature": ("temperature", {"dreamed": "return in the dream", "real": "return in reality"}),
    }
    for part, title in titles.items():
        if seeds := read(part):
            lines += [title, "", f"Seeds {', '.join(map(str, seeds))}.", "", *table(part, *columns[part])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("parts", nargs="+", choices=list(PARTS))
    runs.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    commands.add_parser("table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mbrl_wrappers.envs.register_tasks()
    if arguments.command == "table":
        write_page("world_models", document())
        return
    for seed in arguments.seeds:
        for part in arguments.parts:
            rows = PARTS[part](seed)
            if seed in SEEDS:  # others are for choosing settings
                write_csv(FOLDER / f"{part}_seed{seed}.csv", rows)
            print(part, seed, *rows, sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
