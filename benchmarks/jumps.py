"""Where values jump: one Gaussian or a mixture, anywhere or near the range that was observed.

    python benchmarks/jumps.py ROWS.npz [ROWS.npz ...]

ROWS are files that ``third_party.py`` collected. A counter that wraps around comes first. Rollouts are SAMPLED, with
the real actions; their skill is ``1 - MSE / MSE of "no change"`` on the columns that change, so that noise that a model
takes a jump for counts against it. "Outside" is the share of sampled states of which a column lies outside of the range
observed in training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from third_party_rows import Data, Rows, column_errors, load_rows, skill, starts_of
from third_party_stages import as_transitions

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.spaces import space_from_json

SETTINGS: dict[str, dict[str, Any]] = {
    "one Gaussian, anywhere": {"range_margin": None},
    "one Gaussian": {},
    "mixture of 3": {"num_components": 3},
    "mixture of 5": {"num_components": 5},
}
HORIZONS = (1, 10)
NUM_TRAIN, NUM_TEST = 1_500, 1_000


def counter_rows(seed: int = 0) -> Data:
    """Return the rows of a counter from 0 to 1 that goes up by 0.05, by chance 0.10, and wraps around."""
    rng = np.random.default_rng(seed)
    count = NUM_TRAIN + NUM_TEST
    obs = np.zeros((count + 1, 1))
    for step in range(count):
        obs[step + 1] = (obs[step] + 0.05 * rng.integers(1, 3)) % 1.0
    zeros = np.zeros(count)
    rows = Rows(obs[:-1], rng.uniform(-1, 1, (count, 1)), zeros, obs[1:], zeros.astype(bool), zeros.astype(int))
    box = {"type": "Box", "dtype": "float32", "shape": [1]}
    spaces = {
        "observation": {**box, "low": ["-inf"], "high": ["inf"]},
        "action": {**box, "low": ["-1"], "high": ["1"]},
    }
    return Data(rows[:NUM_TRAIN], rows[NUM_TRAIN:], spaces)


def spaces_of(data: Data) -> tuple[gym.Space, gym.Space]:
    return space_from_json(data.spaces["observation"]), space_from_json(data.spaces["action"])


@torch.no_grad()
def measure(data: Data, settings: dict[str, Any]) -> dict[str, float]:
    """Fit a model and return the skill of sampled rollouts, the share outside and the fit's CPU seconds."""
    model = EnsembleDynamics(
        *spaces_of(data), termination_fn=lambda obs, action, next_obs: obs[..., 0] > np.inf, **settings
    )
    started = time.process_time()
    with torch.enable_grad():
        model.fit(as_transitions(data.train), torch.Generator().manual_seed(0))
    result = {"fit CPU s": time.process_time() - started}
    generator = torch.Generator().manual_seed(1)
    low, high = model.seen_range.numpy()

    def sample(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        given = torch.as_tensor(obs), torch.as_tensor(action).float()
        return model.predict(*given, generator=generator).next_obs.double().numpy()

    for horizon in HORIZONS:
        found = skill(column_errors(sample, data, horizon), column_errors(None, data, horizon))
        result[f"skill {horizon}"] = np.nan if found is None else found
    starts = starts_of(data.test, HORIZONS[-1])
    obs = data.test.obs[starts]
    for step in range(HORIZONS[-1]):
        obs = sample(obs, data.test.action[starts + step])
    slack = 1e-6 * (high - low)
    result["outside"] = float(((obs < low - slack) | (obs > high + slack)).any(1).mean())
    return result


def tasks(paths: list[Path]) -> Iterator[tuple[str, Data]]:
    yield "counter", counter_rows()
    for path in paths:
        yield path.stem, load_rows(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", type=Path)
    torch.set_num_threads(1)
    print("| env | model | skill at 1 step | at 10 steps | outside | fit CPU s |\n|---|---|---|---|---|---|")
    for name, data in tasks(parser.parse_args().rows):
        for label, settings in SETTINGS.items():
            r = measure(data, settings)
            numbers = f"{r['skill 1']:.2f} | {r['skill 10']:.2f} | {r['outside']:.2f} | {r['fit CPU s']:.0f}"
            print(f"| {name} | {label} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
