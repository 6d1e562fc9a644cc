"""Breakout: in how many frames a model shows the ball where it is, by what its pixels are.

    python benchmarks/single_pixels.py

Writes docs/results/single_pixels.md.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from experiments import write_page

from mbrl_wrappers.envs import collect_episodes
from mbrl_wrappers.models import RSSM
from mbrl_wrappers.models.rssm.presets import PIXELS
from mbrl_wrappers.tasks.grids.breakout import BALL
from mbrl_wrappers.zoo.training.recipe import load_recipe

ENV, SEEDS = "mbrl_wrappers/Breakout-v0", (1, 2, 3)
FITTED, TESTED, WARM_UP, LENGTH = 10_000, 2_000, 5, 8
GRAD_STEPS, BATCH_SIZE, SEQUENCE_LENGTH, LEARNING_RATE = 1_500, 16, 32, 1e-3


def fitted(env: gym.Env, pixels: str, seed: int) -> RSSM:
    """Return the recipe's model with pixels of this kind, fitted to random play."""
    settings = {name: value for name, value in load_recipe("dreamer", ENV).dynamics.items() if name != "kind"}
    model = RSSM.for_env(
        env,
        **{
            **settings,
            "pixels": pixels,
            "train_steps": GRAD_STEPS,
            "batch_size": BATCH_SIZE,
            "sequence_length": SEQUENCE_LENGTH,
            "learning_rate": LEARNING_RATE,
            "seed": seed,
        },
    )
    model.fit(collect_episodes(env, model, FITTED, seed=seed), torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def share_seen(model: RSSM, env: gym.Env) -> float:
    """Return the share of frames of new play whose brightest pixel of the decoded ball's plane is the ball.

    The model has seen each frame, and those before it.
    """
    play = collect_episodes(env, model, TESTED, seed=1_000)
    drawn = play.sequences(TESTED // 2, LENGTH, torch.Generator().manual_seed(0))
    state, right = model.begin(drawn.obs[:, 0]), []
    for step in range(1, LENGTH):
        state = model.observe(state, drawn.action[:, step], drawn.obs[:, step], drawn.is_first[:, step])
        if step >= WARM_UP:
            decoded, real = (ball_cells(model, obs) for obs in (model.decode(state), drawn.obs[:, step]))
            right.append(decoded == real)
    return float(torch.stack(right).float().mean())


def ball_cells(model: RSSM, obs: torch.Tensor) -> torch.Tensor:
    """Return the cell of the brightest pixel in the ball's plane, ``[B]``, of frames laid flat."""
    return model.obs_codec.image(obs)[:, BALL].flatten(1).argmax(1)


def main() -> None:
    """Measure, and write the page."""
    torch.set_num_threads(1)
    env = gym.make(ENV)
    lines = ["| pixels | ball shown where it is, by seed | mean ± std |", "|---|---|---|"]
    for pixels in PIXELS:
        shares = [100 * share_seen(fitted(env, pixels, seed), env) for seed in SEEDS]
        by_seed = ", ".join(f"{share:.1f}%" for share in shares)
        lines.append(f"| {pixels} | {by_seed} | {np.mean(shares):.1f} ± {np.std(shares, ddof=1):.1f}% |")
        print(lines[-1], flush=True)
    page = [
        "# A ball of one pixel",
        "",
        f"Models of `Breakout-v0` with the sizes of the recipe `dreamer`, after {GRAD_STEPS:,} gradient steps on",
        f"{FITTED:,} steps of random play: the share of frames of other play in which the brightest pixel of the",
        "decoded plane of the ball is the ball. A model has seen the frame that it shows, and those before it.",
        "",
        *lines,
        "",
        "Written by `python benchmarks/single_pixels.py`.",
    ]
    write_page("single_pixels", "\n".join(page) + "\n")


if __name__ == "__main__":
    main()
