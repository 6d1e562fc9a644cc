"""A closer look at an agent that plays a board game: its climb of the ladder, and a tree that it searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.agents.ladder import LadderRow
from mbrl_wrappers.envs.games import Game, State
from mbrl_wrappers.envs.games.rendering import name_of_move, picture
from mbrl_wrappers.planners.tree import SearchResult
from mbrl_wrappers.zoo.analysis.ladder import LADDER, ladder_from_json
from mbrl_wrappers.zoo.report import plots
from mbrl_wrappers.zoo.report.sentences import one_line
from mbrl_wrappers.zoo.storage.folder import MISFITS, AgentFolder, load_agent

NUM_SIMULATIONS = 200
# Of a node at each depth, the most visited ones.
SHOWN_CHILDREN = (4, 2, 2, 1)


@dataclass
class GameFindings:
    """What is known of an agent that plays a board game.

    Attributes:
        ladder: its matches while it learned.
        game: the rules; None if the agent could not be loaded, like the next two.
        position: in a game against itself.
        search: from the position.
        missing: a sentence for each part that is missing, with the reason.
    """

    ladder: list[LadderRow] = field(default_factory=list)
    game: Game | None = None
    position: State | None = None
    search: SearchResult | None = None
    missing: list[str] = field(default_factory=list)


def look_at_game(folder: AgentFolder) -> GameFindings | None:
    """Collect what is known of an agent that plays a board game; None for other agents.

    Parts that are not available are listed and raise no error.
    """
    data = folder.file(LADDER)
    if data is None:
        return None
    findings = GameFindings()
    try:
        findings.ladder = ladder_from_json(data, folder.path / LADDER)
        agent = load_agent(folder, None, "cpu")
        if not isinstance(agent, AlphaZero) or not hasattr(agent, "rules"):
            raise ValueError(f"{folder.path} must hold an agent that plays a game, got {type(agent).__name__}")
        findings.position = _position(agent)
        findings.search = agent.think(findings.position, max(NUM_SIMULATIONS, agent.num_simulations), seed=0)
        findings.game = agent.rules
    except MISFITS as error:
        findings.missing.append(f"The agent is not shown at play: {one_line(error)}")
    return findings


def _position(agent: AlphaZero) -> State:
    """Return the position after the first fifth of a game of the agent against itself."""
    game = agent.rules
    state = game.initial(1)
    for move in range(game.max_length // 5):
        after = game.step(state, agent.think(state, temperature=1.0, seed=move).action)
        if after.ended[0]:
            break
        state = after
    return state


class DrawnNode(NamedTuple):
    """A node of a drawn tree.

    Attributes:
        node: its index in the tree.
        parent: the index of its parent in the drawing; -1 for the root.
        depth: number of moves from the root.
        visits: simulations that came through it.
        value: its mean value for the player to move at the root, from -1 to 1.
        label: the move that leads to it.
    """

    node: int
    parent: int
    depth: int
    visits: int
    value: float
    label: str


def most_visited(game: Game, search: SearchResult) -> list[DrawnNode]:
    """Return the most visited nodes of the first of the trees that were searched, parents before their children."""
    tree = search.trees.nodes
    drawn = [DrawnNode(0, -1, 0, int(tree.visits[0, 0].sum()), float(search.value[0]), "")]
    for place, above in enumerate(drawn):  # grows while it is walked through
        if above.depth == len(SHOWN_CHILDREN):
            break
        visits, q, child = (array[0, above.node] for array in (tree.visits, tree.q, tree.child))
        sign = 1 if above.depth % 2 == 0 else -1  # Q is of the player to move
        for action in np.argsort(-visits, kind="stable")[: SHOWN_CHILDREN[above.depth]]:
            if visits[action]:
                label = name_of_move(game, int(action))
                below = int(child[action])
                drawn.append(
                    DrawnNode(below, place, above.depth + 1, int(visits[action]), sign * float(q[action]), label)
                )
    return drawn


def draw_ladder(ax: Axes, rows: Sequence[LadderRow]) -> None:
    """Draw the score against each opponent over the time of training."""
    minutes = [row.cpu_seconds / 60 for row in rows]
    with mpl.rc_context(plots.STYLE):
        for color, name in zip(plots.colors(len(rows[-1].results)), rows[-1].results, strict=True):
            scores = [row.results[name].score if name in row.results else np.nan for row in rows]
            ax.plot(minutes, scores, color=color, marker="o", markersize=3, label=plots.plain(name))
        ax.set_ylim(0, 1.05)
        ax.set_xlim(left=0)
        ax.set_title("Score against opponents")
        ax.set_xlabel("CPU minutes of training")
        ax.set_ylabel("share of points")
        plots.legend_below(ax)


def draw_agreement(ax: Axes, rows: Sequence[LadderRow]) -> None:
    """Draw the share of moves that a perfect player would not regret, over the time of training."""
    minutes = [row.cpu_seconds / 60 for row in rows]
    with mpl.rc_context(plots.STYLE):
        for color, name, label in zip(
            plots.colors(2), ("kept", "kept_by_network"), ("with search", "network alone"), strict=True
        ):
            ax.plot(minutes, [getattr(row, name) for row in rows], color=color, marker="o", markersize=3, label=label)
        ax.set_ylim(top=1.02)
        ax.set_xlim(left=0)
        ax.set_title("Agreement with a perfect player")
        ax.set_xlabel("CPU minutes of training")
        ax.set_ylabel("share of moves")
        plots.legend_below(ax)


def draw_board(ax: Axes, game: Game, position: State) -> None:
    """Draw a position."""
    with mpl.rc_context(plots.STYLE):
        ax.imshow(picture(game, position), interpolation="nearest")
        ax.set_axis_off()
        ax.set_title("The position")


def draw_tree(ax: Axes, game: Game, search: SearchResult) -> None:
    """Draw the most visited part of a tree: areas are visits, colours values."""
    drawn = most_visited(game, search)
    x, y = _columns(drawn), [-node.depth for node in drawn]
    colors, scale = mpl.colormaps["RdYlBu"], Normalize(-1, 1)
    with mpl.rc_context(plots.STYLE):
        for place, node in enumerate(drawn[1:], start=1):
            ax.plot([x[node.parent], x[place]], [y[node.parent], y[place]], color="0.7", linewidth=1.0, zorder=1)
        areas = [30 + 600 * node.visits / drawn[0].visits for node in drawn]
        values = [colors(scale(node.value)) for node in drawn]
        ax.scatter(x, y, s=areas, c=values, edgecolors="0.3", linewidths=0.6, zorder=2)
        for place, node in enumerate(drawn):
            value = f"{node.value + 0.0:+.2f}" if node.depth < 2 else ""  # colours say it of the others
            text, below = f"{node.label} {value}".strip(), -9 - areas[place] ** 0.5 / 2
            ax.annotate(text, (x[place], y[place]), (0, below), textcoords="offset points", ha="center", fontsize=6.5)
        ax.set_ylim(-len(SHOWN_CHILDREN) - 0.5, 0.6)
        ax.set_axis_off()
        ax.set_title("A search")


def _columns(drawn: Sequence[DrawnNode]) -> list[float]:
    """Return where nodes stand from left to right: leaves side by side, others in the middle of their children."""
    below: dict[int, list[int]] = {}
    for place, node in enumerate(drawn):
        below.setdefault(node.parent, []).append(place)
    x = [0.0] * len(drawn)
    taken = 0

    def put(place: int) -> None:
        nonlocal taken
        if place not in below:
            x[place], taken = float(taken), taken + 1
            return
        for child in below[place]:
            put(child)
        x[place] = float(np.mean([x[child] for child in below[place]]))

    put(0)
    return x
