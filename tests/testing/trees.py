"""Tiny games for tree search, and the search itself once more, plain and recursive."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from mbrl_wrappers.planners.tree import PUCT, UCT, Expand, Gumbel, Method, Root, Step

# -- the reference ------------------------------------------------------------------------------------


class Node:
    """A state: its prior as ``{legal action: probability}``, and what was found about its actions."""

    def __init__(self, state: Any, value: float, logits: np.ndarray, legal: np.ndarray, reward: float, ended: bool):
        self.state, self.value, self.reward, self.ended = state, 0.0 if ended else value, reward, ended
        legal_actions = [] if ended else [a for a in range(len(legal)) if legal[a]]
        top = max((logits[a] for a in legal_actions), default=0.0)
        weights = {a: math.exp(logits[a] - top) for a in legal_actions}
        self.prior = {a: weight / sum(weights.values()) for a, weight in weights.items()}
        self.returns: dict[int, list[float]] = {a: [] for a in legal_actions}
        self.children: dict[int, Node] = {}

    def visits(self, a: int) -> int:
        return len(self.returns[a])

    def q(self, a: int) -> float:
        return sum(self.returns[a]) / len(self.returns[a])


class Reference:
    """The search from one root."""

    def __init__(self, method: Method, expand: Expand, *, zero_sum: bool, discount: float = 1.0) -> None:
        self.method, self.expand, self.rescaled = method, expand, not zero_sum
        self.factor = -discount if zero_sum else discount
        self.met = [math.inf, -math.inf]  # the lowest and the highest Q so far

    def search(self, root: Node, noise: np.ndarray, num_simulations: int) -> None:
        self.root, self.noise = root, noise
        before = {a: root.visits(a) for a in root.prior}
        if isinstance(self.method, PUCT) and self.method.dirichlet_fraction:
            share = self.method.dirichlet_fraction
            mass = sum(noise[a] for a in root.prior)
            root.prior = {a: (1 - share) * p + share * noise[a] / mass for a, p in root.prior.items()}
        for simulation in range(num_simulations):
            if isinstance(self.method, Gumbel):
                wanted = turn_of(min(self.method.max_considered, len(root.prior)), num_simulations)[simulation]
                turn = [a for a in root.prior if root.visits(a) - before[a] == wanted]
                improved = self.improved(root)
                self.simulate(root, max(turn, key=lambda a: noise[a] + improved[a]))
            else:
                self.simulate(root, self.choose(root))

    def simulate(self, node: Node, a: int) -> float:
        """Try an action; return the value that it leads to."""
        if a not in node.children:
            state, step = self.expand(node.state, np.array([a]))
            row: Any = [
                np.asarray(field)[0] for field in (step.value, step.logits, step.legal, step.reward, step.ended)
            ]
            node.children[a] = Node(state, *row)
            value = node.children[a].value
        elif node.children[a].ended:
            value = 0.0
        else:
            value = self.simulate(node.children[a], self.choose(node.children[a]))
        node.returns[a].append(node.children[a].reward + self.factor * value)
        self.met = [min(self.met[0], node.q(a)), max(self.met[1], node.q(a))]
        return node.returns[a][-1]

    def choose(self, node: Node) -> int:
        m, count = self.method, 1 + sum(map(node.visits, node.prior))
        if isinstance(m, Gumbel):
            logits = self.improved(node)
            top = max(logits.values())
            mass = sum(math.exp(x - top) for x in logits.values())
            return max(node.prior, key=lambda a: math.exp(logits[a] - top) / mass - node.visits(a) / count)
        if isinstance(m, PUCT):
            c = math.log((1 + count + m.c_base) / m.c_base) + m.c_init
            return max(
                node.prior,
                key=lambda a: self.scaled_q(node, a) + c * node.prior[a] * math.sqrt(count) / (1 + node.visits(a)),
            )
        assert isinstance(m, UCT)
        if untried := [a for a in node.prior if not node.visits(a)]:
            return max(untried, key=lambda a: node.prior[a])
        return max(
            node.prior,
            key=lambda a: (
                self.scaled_q(node, a)
                + m.exploration * math.sqrt(math.log(count) / node.visits(a))
                + m.prior_bonus * node.prior[a] / (node.visits(a) + 1)
            ),
        )

    def scaled_q(self, node: Node, a: int) -> float:
        if not node.visits(a):
            return 0.0
        low, high = self.met if self.rescaled else (0.0, 1.0)
        return (node.q(a) - low) / (high - low) if high > low else 0.0

    def improved(self, node: Node) -> dict[int, float]:
        """log P + sigma(Q), with the mixed value for actions without visits."""
        assert isinstance(self.method, Gumbel)
        tried = [a for a in node.prior if node.visits(a)]
        value = node.value
        if tried:
            total, mass = sum(map(node.visits, tried)), sum(node.prior[a] for a in tried)
            value = (value + total * sum(node.prior[a] * node.q(a) for a in tried) / mass) / (1 + total)
        q = {a: node.q(a) if node.visits(a) else value for a in node.prior}
        low, width = min(q.values()), max(q.values()) - min(q.values())
        if self.rescaled and width > 0:
            q = {a: (x - low) / width for a, x in q.items()}
        scale = self.method.value_scale or (0.1 if self.rescaled else 1.0)
        sigma = (self.method.visit_offset + max(map(node.visits, node.prior))) * scale
        return {a: math.log(node.prior[a]) + sigma * q[a] for a in node.prior}


def turn_of(considered: int, num_simulations: int) -> list[int]:
    """Sequential halving by its definition: the visits that the next action must have."""
    phases = max(1, math.ceil(math.log2(considered)))
    visits, turns, remaining = [0] * considered, list[int](), considered
    while len(turns) < num_simulations:
        rounds = max(1, num_simulations // (phases * remaining))
        for _, i in itertools.product(range(rounds), range(remaining)):
            turns.append(visits[i])
            visits[i] += 1
        remaining = max(min(2, considered), remaining // 2)
    return turns


# -- games --------------------------------------------------------------------------------------------


def mixed(number: np.ndarray) -> np.ndarray:
    """Hash uint64 numbers (splitmix64)."""
    number = number + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def uniform(number: np.ndarray, stream: int) -> np.ndarray:
    return (mixed(number ^ np.uint64(stream << 32)) >> np.uint64(11)) * 2.0**-53


class RandomTree:
    """A tree in which everything follows from the hash of the way to a node: branching, rewards, ends and values."""

    def __init__(self, num_actions: int = 5, depth: int = 6) -> None:
        self.num_actions, self.depth = num_actions, depth

    def root(self, names: list[int]) -> Root:
        state = (mixed(np.array(names, np.uint64)), np.zeros(len(names), np.int64))
        step = self.describe(state)
        return Root(state, step.logits, step.value, step.legal)

    def describe(self, state: tuple[np.ndarray, np.ndarray]) -> Step:
        name, depth = state
        edges = name[:, None] + np.arange(1, self.num_actions + 1, dtype=np.uint64)
        legal = uniform(edges, 1) < 0.7
        legal[np.arange(len(name)), (name % np.uint64(self.num_actions)).astype(int)] = True
        ended = (depth > 0) & ((uniform(name, 2) < 0.15) | (depth == self.depth))
        reward = np.round(4 * uniform(name, 3) - 2) / 2
        value = np.where(ended, np.nan, 2 * uniform(name, 4) - 1)  # nobody may look at what is beyond an end
        logits = np.where(legal & ~ended[:, None], 3 * uniform(edges, 5), np.nan)
        return Step(reward, ended, logits, value, legal & ~ended[:, None])

    def __call__(self, state: Any, action: np.ndarray) -> tuple[Any, Step]:
        name, depth = state
        before = self.describe(state)
        assert before.legal[np.arange(len(name)), action].all(), "an illegal step, or one from an ended state"
        state = (mixed(name * np.uint64(31) + action.astype(np.uint64)), depth + 1)
        return state, self.describe(state)


class Board(NamedTuple):
    """Noughts and crosses: 1 for stones of the player to move, -1 for the other's."""

    cells: np.ndarray  # [B, 9] int8
    ended: np.ndarray  # [B] bool
    outcome: np.ndarray  # [B] int8 for the player to move


LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


class TicTacToe:
    """The rules, in the form that games have."""

    num_actions, max_length = 9, 9

    def initial(self, size: int) -> Board:
        return Board(np.zeros((size, 9), np.int8), np.zeros(size, bool), np.zeros(size, np.int8))

    def after(self, *games: str) -> Board:
        """Boards after moves, such as ``"048"``."""
        boards = []
        for moves in games:
            board = self.initial(1)
            for move in moves:
                board = self.step(board, np.array([int(move)]))
            boards.append(board)
        return Board(*map(np.concatenate, zip(*boards, strict=True)))

    def step(self, state: Board, action: np.ndarray) -> Board:
        cells = state.cells.copy()
        cells[np.arange(len(cells)), action] = 1
        lost = (cells[:, LINES] == 1).all(2).any(1)  # by the player who is to move next
        ended, outcome = lost | (cells != 0).all(1), -lost.astype(np.int8)
        new = Board(-cells, ended, outcome)
        return Board(
            *(np.where(state.ended.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(state, new, strict=True))
        )

    def legal_actions(self, state: Board) -> np.ndarray:
        return (state.cells == 0) & ~state.ended[:, None]

    def perfect(self, state: Board) -> tuple[np.ndarray, np.ndarray]:
        """The value under best play, with equal logits."""
        values = [solved(tuple(cells)) for cells in state.cells.tolist()]
        return np.zeros(state.cells.shape), np.array(values, float)


SOLVED: dict[tuple[int, ...], int] = {}


def solved(cells: tuple[int, ...]) -> int:
    """Negamax over noughts and crosses."""
    if cells not in SOLVED:
        if any(all(cells[i] == -1 for i in line) for line in LINES):
            SOLVED[cells] = -1
        else:
            nexts = [tuple(-c for c in (*cells[:i], 1, *cells[i + 1 :])) for i in range(9) if cells[i] == 0]
            SOLVED[cells] = max((-solved(following) for following in nexts), default=0)
    return SOLVED[cells]
