"""The games of `i2a.py`, the agents that learn them, and the rows of their runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments import RESULTS, read_csv

FOLDER, SEEDS = RESULTS / "i2a", (10, 11)
NUM_LEVELS, TESTED = 60_000, 200  # levels, of which the larger part is learned on; of the other part, those tested
PLANNED, SIMULATIONS, PLANNED_STEPS = 50, 32, 60
KINDS = {
    "with pooling": {"pooling": True, "rare_share": 0.0},
    "with pooling, rare rewards in a tenth of each batch": {"pooling": True, "rare_share": 0.1},
    "without pooling": {"pooling": False, "rare_share": 0.0},
    "without pooling, rare rewards in a tenth of each batch": {"pooling": False, "rare_share": 0.1},
}
FITTED, AHEAD = 40_000, (1, 3, 5)  # random steps that a model is fitted to; steps that it foresees

# Changes to the recipe; A2C has no model.
MODELS: dict[str, dict[str, Any]] = {
    "i2a": {},
    "exact": {"dynamics.kind": "SokobanDynamics"},
    "copy": {"dynamics.kind": "CopyDynamics"},
    "poor": {"dynamics.channels": 2, "dynamics.max_steps": 100},
}
# The settings that A2C has from I2A's recipe.
SHARED = {
    "ent_coef",
    "gae_lambda",
    "gamma",
    "learning_rate",
    "max_grad_norm",
    "n_steps",
    "normalize_advantage",
    "vf_coef",
}
COLUMNS = {
    "i2a": "I2A",
    "exact": "I2A, exact model",
    "copy": "I2A, copy model",
    "poor": "I2A, poor model",
    "a2c": "A2C",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """Games that are learned.

    Attributes:
        env: the id.
        title: of the page's section.
        games: their arguments.
        frames: of a run.
        rounds: evaluations, evenly spread.
        limit: steps of an episode.
        longer: how many times as many frames A2C gets, about as long as I2A takes.
    """

    env: str
    title: str
    games: dict[str, Any]
    frames: int
    rounds: int
    limit: int = 120
    longer: int = 8

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the env: the games' own, the levels to learn on, and the time limit."""
        levels = {} if self.env == MINI_PACMAN else {"levels": [0, NUM_LEVELS], "part": "train"}
        return {**self.games, **levels, "max_episode_steps": self.limit}

    @property
    def played(self) -> int:
        """Episodes of an evaluation by the zoo; one of MiniPacman takes hundreds of steps."""
        return 2 if self.env == MINI_PACMAN else 20

    @property
    def foreseen(self) -> int:
        """Random steps that models are tested on; few of Sokoban's have a rare reward."""
        return 10_000 if self.env == MINI_PACMAN else 60_000

    @property
    def measure(self) -> str:
        """What evaluations measure."""
        return "solved" if self.env == SOKOBAN else "return"


SOKOBAN, MINI_PACMAN = "mbrl_wrappers/Sokoban-v0", "mbrl_wrappers/MiniPacman-v0"
TASKS = {
    "sokoban7": Task(SOKOBAN, "Sokoban 7x7, one box", {"size": 7, "num_boxes": 1}, 3_000_000, 15, longer=3),
    "sokoban7x2": Task(SOKOBAN, "Sokoban 7x7, two boxes", {"size": 7, "num_boxes": 2}, 4_000_000, 16, longer=4),
    "hunt": Task(MINI_PACMAN, "MiniPacman, hunt", {"mode": "hunt"}, 1_000_000, 20, 3_000, longer=3),
    "avoid": Task(MINI_PACMAN, "MiniPacman, avoid", {"mode": "avoid"}, 1_000_000, 20, 3_000, longer=3),
}


Runs = dict[int, list[dict[str, float]]]


def runs_of(name: str, column: str) -> Runs:
    """Return the rows of each seed's run, by its seed."""
    runs: Runs = {}
    for file in sorted(FOLDER.glob(f"{name}_{column}_seed*.csv")):
        runs[int(file.stem.rpartition("seed")[2])] = numbers(file)
    return runs


def numbers(file: Path) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in read_csv(file)]
