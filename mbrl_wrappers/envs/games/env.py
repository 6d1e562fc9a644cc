"""A game against a chosen opponent as a Gymnasium env."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from mbrl_wrappers.envs.games.base import Game
from mbrl_wrappers.envs.games.catalogue import make_game
from mbrl_wrappers.envs.games.opponents import Opponent, find_opponent
from mbrl_wrappers.envs.games.rendering import picture, text


class GameEnv(gym.Env[np.ndarray, np.int64]):
    """One player's side of a game; the opponent answers within the same step.

    - Observation: the game's planes, always from the agent's view, also when the game has ended.
    - Action: as the game numbers them. :meth:`action_masks` has the legal ones, as sb3-contrib's ``MaskablePPO`` takes
      them, and ``info["action_mask"]`` as ``action_space.sample`` does.
    - Reward: 1 for a win, -1 for a loss, 0 for a draw and before the end.

    Args:
        game: a name of :data:`mbrl_wrappers.envs.games.GAMES`, or a game.
        opponent: a name: ``"random"``, ``"one_ply"`` (wins at once if it can, else moves where the agent would),
            ``"perfect"`` (TicTacToe), ``"endgame"`` (Connect Four and Hex: perfect once the board has filled up,
            ``"one_ply"`` before), ``"uct_N"`` (searches by UCT with N simulations) or one that was registered; or a
            function ``(game, state, generator) -> action [B]``.
        first: whether the agent makes the first move; ``"random"``: drawn for each episode.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.

    Attributes:
        state: of the one game.

    Raises:
        ValueError: for an argument that is none of these.

    Example:
        >>> env = gym.make("mbrl_wrappers.envs:mbrl_wrappers/ConnectFour-v0", opponent="one_ply", first="random")
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        game: str | Game,
        opponent: str | Opponent = "random",
        first: bool | str = True,
        render_mode: str | None = None,
    ) -> None:
        if not isinstance(first, bool) and first != "random":
            raise ValueError(f"first must be True, False or 'random', got {first!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'ansi' or 'rgb_array', got {render_mode!r}")
        self.game = game if isinstance(game, Game) else make_game(game)
        self.first = first
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, self.game.observation_shape, np.float32)
        self.action_space = spaces.Discrete(self.game.num_actions)
        self.state = self.game.initial(1)
        self._opponent = find_opponent(opponent)
        self._agent = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a game, with the opponent's move if it makes the first one; no options are known."""
        super().reset(seed=seed)
        self.state = self.game.initial(1)
        is_first = self.np_random.random() < 0.5 if self.first == "random" else self.first
        self._agent = 0 if is_first else 1
        self._let_opponent_move()
        return self._get_obs(), self._get_info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Make the agent's move and the opponent's.

        Raises:
            ValueError: if the move is illegal, naming the legal ones, or the game has ended.
        """
        if self.state.ended[0]:
            raise ValueError(f"action must be taken in a game that goes on, got {action!r} after its end: call reset")
        self.game.check(self.state, np.array([action]))
        self.state = self.game.step(self.state, np.array([action]))
        self._let_opponent_move()
        outcome = int(self.state.outcome[0])
        reward = float(outcome if self.state.player[0] == self._agent else -outcome)
        return self._get_obs(), reward, bool(self.state.ended[0]), False, self._get_info()

    def action_masks(self) -> np.ndarray:
        """``[A]`` bool: the moves that are legal now, none after the end."""
        return self.game.legal_actions(self.state)[0]

    def render(self) -> str | np.ndarray | None:
        """Show the board as text, or as ``[height, width, 3]`` uint8."""
        if self.render_mode is None:
            gym.logger.warn("render_mode must be given when the environment is made, got None")
            return None
        return (text if self.render_mode == "ansi" else picture)(self.game, self.state)

    def _let_opponent_move(self) -> None:
        while self.state.player[0] != self._agent and not self.state.ended[0]:
            action = self._opponent(self.game, self.state, self.np_random)
            try:
                self.game.check(self.state, action)
            except ValueError as error:
                raise ValueError(f"opponent's {error}") from error
            self.state = self.game.step(self.state, action)

    def _get_obs(self) -> np.ndarray:
        view = self.state._replace(player=np.array([self._agent], np.int8))
        return self.game.observation(view)[0]

    def _get_info(self) -> dict[str, Any]:
        return {"action_mask": self.action_masks().astype(np.int8)}
