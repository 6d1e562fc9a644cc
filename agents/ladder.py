"""How an agent climbs a ladder of opponents while it learns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.agents.alphazero import AlphaZero
from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.games.ladder import agreement, climb_ladder, default_ladder, solvable_positions
from mbrl_wrappers.envs.games.matches import MatchResult
from mbrl_wrappers.envs.games.opponents import find_opponent


@dataclass(frozen=True)
class LadderRow:
    """How good an agent was at one time.

    Attributes:
        steps: moves of self-play so far.
        cpu_seconds: of training so far.
        results: of the match against each opponent, from the agent's view.
        kept: in what share of positions the agent's move kept what the position is worth to a perfect player; None for
            a game without a solver.
        kept_by_network: the same for the network's policy alone.
    """

    steps: int
    cpu_seconds: float
    results: dict[str, MatchResult]
    kept: float | None = None
    kept_by_network: float | None = None


def measure_ladder(
    agent: AlphaZero,
    cpu_seconds: float,
    opponents: Sequence[str] | None = None,
    num_games: int = 100,
    num_simulations: int | None = None,
) -> LadderRow:
    """Let an agent meet opponents, and compare its moves with a perfect player's where there is one.

    Args:
        agent: plays without noise.
        cpu_seconds: of training so far.
        opponents: by name; default: :func:`~mbrl_wrappers.envs.games.ladder.default_ladder`.
        num_games: of each match.
        num_simulations: of the agent's searches; default: the agent's.
    """
    game, player = agent.rules, agent.player(num_simulations)
    results = climb_ladder(game, player, default_ladder(game) if opponents is None else opponents, num_games)
    positions = solvable_positions(game)
    if positions is None:
        return LadderRow(agent.num_timesteps, cpu_seconds, results)
    kept, by_network = (agreement(game, one, positions) for one in (player, agent.player(0)))
    return LadderRow(agent.num_timesteps, cpu_seconds, results, kept, by_network)


class LadderCallback(BaseCallback):
    """Measures an agent that plays a board game, now and then while it learns, and logs the scores as ``ladder/...``.

    Args:
        every: steps of ``learn`` between two measurements; the last one is at its end.
        opponents: by name, as in :func:`measure_ladder`.
        num_games: of each match.
        num_simulations: of the agent's searches; default: the agent's.

    Attributes:
        rows: the measurements.

    Raises:
        ValueError: for an argument out of its range or an unknown opponent; and, when ``learn`` begins, for an agent
            other than AlphaZero and ExIt.

    Example:
        >>> ladder = LadderCallback(50_000, ["one_ply", "uct_100"])
        >>> agent = AlphaZero("MlpPolicy", "mbrl_wrappers.envs:mbrl_wrappers/TicTacToe-v0")
        >>> agent.learn(100_000, callback=ladder)  # doctest: +SKIP
    """

    def __init__(
        self,
        every: int,
        opponents: Sequence[str] | None = None,
        num_games: int = 100,
        num_simulations: int | None = None,
    ) -> None:
        super().__init__()
        check_whole_number("every", every)
        check_whole_number("num_games", num_games)
        if num_simulations is not None:
            check_whole_number("num_simulations", num_simulations, 0)
        for name in opponents or ():
            find_opponent(name)
        self.every, self.opponents = every, opponents
        self.num_games, self.num_simulations = num_games, num_simulations
        self.rows: list[LadderRow] = []
        self._training_seconds = 0.0

    def _on_training_start(self) -> None:
        if not isinstance(self.model, AlphaZero):
            raise ValueError(f"LadderCallback needs AlphaZero or ExIt, got {self.model.__class__.__name__}")
        self._began = time.process_time()

    def _on_rollout_start(self) -> None:
        last = self.rows[-1].steps if self.rows else 0
        if self.num_timesteps // self.every > last // self.every:
            self._measure()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if not self.rows or self.rows[-1].steps < self.num_timesteps:
            self._measure()

    def _measure(self) -> None:
        assert isinstance(self.model, AlphaZero)
        self._training_seconds += time.process_time() - self._began
        row = measure_ladder(self.model, self._training_seconds, self.opponents, self.num_games, self.num_simulations)
        self.rows.append(row)
        for name, result in row.results.items():
            self.logger.record(f"ladder/{name}", result.score)
        if row.kept is not None and row.kept_by_network is not None:
            self.logger.record("ladder/kept", row.kept)
            self.logger.record("ladder/kept_by_network", row.kept_by_network)
        self._began = time.process_time()
