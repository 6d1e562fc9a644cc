"""Games of an agent against itself, many at once, and the buffer of what it learns from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mbrl_wrappers.envs.games import Game
from mbrl_wrappers.envs.games.base import State
from mbrl_wrappers.planners.tree import Root, SearchResult, TreeSearch, follow, root_generators
from mbrl_wrappers.planners.tree.games import GameExpansion
from mbrl_wrappers.planners.tree.storage import Trees
from mbrl_wrappers.seeding import stream_seed


class Examples(NamedTuple):
    """Positions of ``N`` games that have ended, and what is learned from them.

    Attributes:
        planes: ``[N, C, H, W]`` uint8, from the view of the player to move.
        legal: ``[N, A]`` bool.
        policy: ``[N, A]`` float32, the search's.
        value: ``[N]`` float32, of the player to move.
    """

    planes: np.ndarray
    legal: np.ndarray
    policy: np.ndarray
    value: np.ndarray


class SelfPlay:
    """``B`` games of an agent against itself, all of which make a move at a time; an ended game begins anew.

    A game's course depends on its own stream of random numbers and on the network, not on its neighbours.

    Args:
        game: the rules.
        search: chooses moves.
        num_games: ``B``.
        explored_moves: the number of moves of a game that are chosen with temperature 1; the others with 0.
        random_opening: games begin with some random moves, a number from 0 to this, whose positions are not learned
            from.
        value_mix: ``w`` of the value target ``(1 - w) z + w v``, in [0, 1]: ``z`` is the outcome of the game and ``v``
            the root's value in the search.
        reuses_trees: whether a search goes on with the last one's subtree.
        seed: of all games.
    """

    def __init__(
        self,
        game: Game,
        search: TreeSearch,
        num_games: int,
        explored_moves: int,
        random_opening: int,
        value_mix: float,
        reuses_trees: bool,
        seed: int | None,
    ) -> None:
        self.game, self.search = game, search
        self.explored_moves, self.random_opening = explored_moves, random_opening
        self.value_mix, self.reuses_trees = value_mix, reuses_trees
        self.generators = root_generators(seed, num_games)
        self.rollout_generators = root_generators(None if seed is None else stream_seed(seed, "rollouts"), num_games)
        self.state: State = game.initial(num_games)
        self.moves = np.zeros(num_games, np.int64)  # made so far, in each game
        self.trees: Trees | None = None
        self._opening = np.zeros(num_games, np.int64)  # the number of random moves, in each game
        self._draw_openings(np.arange(num_games))
        shape = (num_games, game.max_length)
        self._past = Examples(
            np.zeros((*shape, *game.observation_shape), np.uint8),
            np.zeros((*shape, game.num_actions), np.bool_),
            np.zeros((*shape, game.num_actions), np.float32),
            np.zeros(shape, np.float32),
        )
        self._player = np.zeros(shape, np.int8)

    def move(self, expansion: GameExpansion) -> tuple[Examples, np.ndarray]:
        """Make a move in every game.

        Args:
            expansion: the game and what evaluates its states. Where that draws random numbers, it does so from
                ``rollout_generators``, one for each game.

        Returns:
            All positions of the games that have ended with this move, and for each such game its number of moves.
        """
        root = expansion.root(self.state)
        heat = np.where(self.moves < self.explored_moves, 1.0, 0.0)
        result = self.search.search(root, expansion, self.generators, temperature=heat, trees=self.trees)
        self._remember(root, result)
        action = self._with_openings(result.action, np.asarray(root.legal))
        self.state = self.game.step(self.state, action)
        self.moves += 1
        ended = self.state.ended
        if self.reuses_trees:
            self.trees = follow(result.trees, np.where(ended, -1, action))
        found, lengths = self._examples(np.flatnonzero(ended)), self.moves[ended].copy()
        self._begin_anew(ended)
        return found, lengths

    def _remember(self, root: Root, result: SearchResult) -> None:
        rows, moves = np.arange(len(self.moves)), self.moves
        self._past.planes[rows, moves] = self.game.observation(self.state)
        self._past.legal[rows, moves] = root.legal
        self._past.policy[rows, moves] = result.policy
        self._past.value[rows, moves] = result.value
        self._player[rows, moves] = self.state.player

    def _examples(self, games: np.ndarray) -> Examples:
        """Return the positions of games that have just ended."""
        number = np.arange(self.game.max_length)
        row, move = np.nonzero((number >= self._opening[games, None]) & (number < self.moves[games, None]))
        row = games[row]
        past = Examples(*(field[row, move] for field in self._past))
        # The outcome is that of the player to move at the end; for the other it is the opposite.
        outcome = np.where(self._player[row, move] == self.state.player[row], 1.0, -1.0) * self.state.outcome[row]
        value = (1 - self.value_mix) * outcome + self.value_mix * past.value
        return past._replace(value=value.astype(np.float32))

    def _begin_anew(self, ended: np.ndarray) -> None:
        fresh = self.game.initial(len(ended))
        self.state = State(*(
            np.where(ended.reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for new, old in zip(fresh, self.state, strict=True)
        ))  # fmt: skip
        self.moves[ended] = 0
        self._draw_openings(np.flatnonzero(ended))

    def _draw_openings(self, games: np.ndarray) -> None:
        if self.random_opening:
            for game in games:
                self._opening[game] = self.generators[game].integers(self.random_opening + 1)

    def _with_openings(self, action: np.ndarray, legal: np.ndarray) -> np.ndarray:
        """Replace the moves of games that are still in their random opening by random ones."""
        action = action.copy()
        for game in np.flatnonzero(self.moves < self._opening):
            action[game] = self.generators[game].choice(np.flatnonzero(legal[game]))
        return action

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the search, whose kernels can't be pickled; whoever loads the games gives them another."""
        return {name: value for name, value in vars(self).items() if name != "search"}


class ExampleBuffer:
    """The newest positions, of which batches are drawn, turned and mirrored at random.

    Args:
        game: whose symmetries are used.
        size: most positions that are kept.
        seed: of the draws.
    """

    def __init__(self, game: Game, size: int, seed: int | None) -> None:
        self._rows = Examples(
            np.zeros((size, *game.observation_shape), np.uint8),
            np.zeros((size, game.num_actions), np.bool_),
            np.zeros((size, game.num_actions), np.float32),
            np.zeros(size, np.float32),
        )
        self._cells = np.stack([symmetry.cells for symmetry in game.symmetries])  # [S, H W]
        self._actions = np.stack([symmetry.actions for symmetry in game.symmetries])  # [S, A]
        self._generator = np.random.default_rng(seed)
        self._next = self._count = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget all positions."""
        self._next = self._count = 0

    def add(self, examples: Examples) -> None:
        """Store positions, the last of them if there are more than fit in, over the oldest ones."""
        size = len(self._rows.value)
        examples = Examples(*(field[-size:] for field in examples))
        count = len(examples.value)
        places = (self._next + np.arange(count)) % size
        for field, new in zip(self._rows, examples, strict=True):
            field[places] = new
        self._next = (self._next + count) % size
        self._count = min(self._count + count, size)

    def sample(self, count: int) -> Examples:
        """Draw positions, each turned by a random symmetry."""
        rows = self._generator.integers(self._count, size=count)
        turn = self._generator.integers(len(self._cells), size=count)
        planes, legal, policy, value = (field[rows] for field in self._rows)
        flat = planes.reshape(*planes.shape[:2], -1)
        turned = np.take_along_axis(flat, self._cells[turn][:, None], axis=2).reshape(planes.shape)
        actions = self._actions[turn]
        return Examples(turned, np.take_along_axis(legal, actions, 1), np.take_along_axis(policy, actions, 1), value)
