"""Grid games: the speed of many games side by side, and the accuracy of a model of their frames.

    python benchmarks/frames.py

Writes docs/results/frames.md. Some minutes of one core; play and data are those of a random policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from mbrl_wrappers.envs import GamesVecEnv, GamesVectorEnv, collect_episodes
from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.models import FrameDynamics
from mbrl_wrappers.tasks.grids import Games, MiniPacmanGames, SokobanGames
from mbrl_wrappers.tasks.grids.sokoban_levels import generate_level

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "frames.md"
NUM_ENVS, STEPS, HORIZONS = 64, 2_000, (1, 3, 5)
SOKOBAN, MINI_PACMAN = "mbrl_wrappers/Sokoban-v0", "mbrl_wrappers/MiniPacman-v0"
MODELS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("Sokoban 5x5, 1 box", SOKOBAN, {"size": 5, "num_boxes": 1}, {"channels": 16, "max_steps": 1_500}),
    ("Sokoban 7x7, 2 boxes", SOKOBAN, {"size": 7, "num_boxes": 2}, {"channels": 32, "max_steps": 1_500}),
    ("MiniPacman, hunt", MINI_PACMAN, {"mode": "hunt"}, {"channels": 32, "max_steps": 800}),
]
DATA_STEPS, TEST_STEPS = 20_000, 3_000


def played() -> dict[str, Callable[[], Games]]:
    """Return what makes the games, by their names; levels of Sokoban are 1,000 that were generated before, or new."""

    def sokoban(size: int, num_boxes: int) -> Games:
        games = SokobanGames(NUM_ENVS, size=size, num_boxes=num_boxes, levels=(0, 1000), max_episode_steps=120)
        for level in range(1000):
            games.play(0, level)
        return games

    def fresh(size: int, num_boxes: int) -> Games:
        generate_level.cache_clear()
        return SokobanGames(NUM_ENVS, size=size, num_boxes=num_boxes, levels=(0, 10**9), max_episode_steps=120)

    return {
        "Sokoban 7x7, 2 boxes": lambda: sokoban(7, 2),
        "Sokoban 10x10, 4 boxes": lambda: sokoban(10, 4),
        "Sokoban 7x7, 2 boxes, each level new": lambda: fresh(7, 2),
        "Sokoban 10x10, 4 boxes, each level new": lambda: fresh(10, 4),
        "MiniPacman, regular": lambda: MiniPacmanGames(NUM_ENVS, mode="regular", max_episode_steps=3000),
        "MiniPacman, hunt": lambda: MiniPacmanGames(NUM_ENVS, mode="hunt", max_episode_steps=3000),
    }


def steps_per_second(step: Callable[[np.ndarray], Any], num_actions: int) -> float:
    """Return env steps a CPU second of one core."""
    actions = np.random.default_rng(0).integers(num_actions, size=(STEPS, NUM_ENVS))
    for action in actions[: STEPS // 10]:
        step(action)
    start = time.process_time()
    for action in actions:
        step(action)
    return STEPS * NUM_ENVS / (time.process_time() - start)


def speed_table() -> list[str]:
    """Measure the two vectors of each game."""
    lines = ["| game | Gymnasium's vector | SB3's |", "|---|---|---|"]
    for name, make in played().items():
        speeds = []
        for face in (GamesVectorEnv, lambda games: GamesVecEnv(games, seed=0)):
            env: Any = face(make())  # not before the other was measured, whose levels would be kept
            env.reset()
            speeds.append(steps_per_second(env.step, int(env.games.action_space.n)))
        lines.append(f"| {name} | " + " | ".join(f"{speed:,.0f}" for speed in speeds) + " |")
    return lines


@torch.no_grad()
def shares_right(model: FrameDynamics, env: gym.Env) -> list[str]:
    """Return the shares that likeliest steps get right when the model is fed its own frames, for each horizon."""
    length = max(HORIZONS) + 1
    real = collect_episodes(env, model, TEST_STEPS, seed=1).sequences(1500, length, torch.Generator().manual_seed(0))
    whole = ~real.is_first[:, 1:].any(1)
    first, frame, found = real.obs[whole, 0], real.obs[whole, 0], []
    for step in range(1, length):
        imagined = model.predict(frame, real.action[whole, step], deterministic=True)
        frame, after = imagined.next_obs, model.obs_codec.image(real.obs[whole, step])
        if step in HORIZONS:
            right, stays = (model.obs_codec.image(x) == after for x in (frame, first))
            paid = (imagined.reward - real.reward[whole, step]).abs() < 1e-3
            pixels = [x.all(1).float().mean() for x in (right, stays)]
            shares = (*pixels, right.flatten(1).all(1).float().mean(), paid.float().mean())
            found.append(f"{step} | " + " | ".join(f"{float(share):.2%}" for share in shares))
    return found


def model_table() -> list[str]:
    """Fit a model of each game and measure it on other episodes."""
    lines = [
        "| game | steps ahead | pixels right | a frame that stays | whole frames right | rewards right | fit, CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, env_id, arguments, settings in MODELS:
        env = gym.make(env_id, **arguments)
        model = FrameDynamics.for_env(env, **settings)
        data, start = collect_episodes(env, model, DATA_STEPS, seed=0), time.process_time()
        model.fit(data, torch.Generator().manual_seed(0))
        seconds = time.process_time() - start
        lines += [f"| {name} | {shares} | {seconds:.0f} |" for shares in shares_right(model, env)]
        print(*lines[-len(HORIZONS) :], sep="\n", flush=True)
    return lines


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    page = [
        "# Grid games and their frames",
        "",
        "`python benchmarks/frames.py`; one core, random play.",
        "",
        f"## Steps a CPU second, {NUM_ENVS} games at once",
        "",
        *speed_table(),
        "",
        "A level of Sokoban takes longer to generate than to play, and is kept; the first rows play kept levels.",
        "Measured while other processes ran.",
        "",
        f"## A model of {DATA_STEPS:,} random steps, on other episodes",
        "",
        "Each step predicts the likeliest kind of each pixel and the likeliest reward, from the last imagined frame.",
        "",
        *model_table(),
    ]
    write_atomically(RESULTS, ("\n".join(page) + "\n").encode())


if __name__ == "__main__":
    main()
