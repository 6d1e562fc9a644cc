"""Board games in the terminal: a person or a player against an agent, and matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games import GAMES, Game, State, make_game
from mbrl_wrappers.envs.games.base import Opponent
from mbrl_wrappers.envs.games.matches import elo_ratings, round_robin
from mbrl_wrappers.envs.games.opponents import find_opponent
from mbrl_wrappers.envs.games.rendering import name_of_move, text
from mbrl_wrappers.planners.tree import SearchResult
from mbrl_wrappers.zoo.catalogue.lookup import open_agent
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.storage.folder import load_agent


class _Resigned(Exception):
    """A person gives the game up."""


def load_player(name: str) -> AlphaZero:
    """Load an agent that plays a game.

    Raises:
        ZooError: if there is no such agent, or it plays none of the library's games.
    """
    agent = load_agent(open_agent(name), None, "cpu")
    if not isinstance(agent, AlphaZero) or not hasattr(agent, "rules"):
        raise ZooError(f"name must be of an agent that plays one of {sorted(GAMES)}, got {name}: {agent}")
    return agent


def play_against_agent(
    name: str,
    against: str | None,
    *,
    num_simulations: int | None,
    begins: bool,
    seed: int,
    ask: Callable[[str], str] = input,
    show: Callable[[str], None] = print,
) -> int:
    """Play a game against an agent, move by move, with what it thinks.

    Args:
        name: of the agent.
        against: of an opponent or another agent; None: a person is asked.
        num_simulations: of each search; default: the agent's.
        begins: whether the agent's opponent makes the first move.
        seed: of all random numbers.
        ask: asks a person for a move.
        show: shows a text.

    Returns:
        The outcome for the opponent: 1 won, 0 drawn, -1 lost. A person resigns by Ctrl-D (the end of the input).

    Raises:
        ZooError: as :func:`load_player`.
        ValueError: for an opponent that is not known.
    """
    agent = load_player(name)
    game, generator = agent.rules, np.random.default_rng(seed)
    opponent = None if against is None else _player(against, game, num_simulations)
    state = game.initial(1)
    while not state.ended[0]:
        show(text(game, state))
        if (state.player[0] == 0) == begins:
            try:
                action = _asked(game, state, ask, show) if opponent is None else opponent(game, state, generator)
            except _Resigned:
                show("\nYou resign.")  # the cursor stands behind the question
                return -1
        else:
            result = agent.think(state, num_simulations, seed=int(generator.integers(2**63)))
            show(thoughts(game, result))
            action = result.action
        state = game.step(state, action)
    show(text(game, state))
    is_opponents = (state.player[0] == 0) == begins
    return int(state.outcome[0]) * (1 if is_opponents else -1)


def thoughts(game: Game, result: SearchResult, shown: int = 5) -> str:
    """Write a search's most visited moves, with visits and values from -1 to 1 for the player who searched."""
    visits, values = result.visits[0], result.q_values[0]
    moves = [action for action in np.argsort(-visits)[:shown] if visits[action] > 0]
    lines = [f"  {name_of_move(game, action):>5}  {visits[action]:6d}  {values[action]:+.2f}" for action in moves]
    return "\n".join(["   move  visits  value", *lines, f"plays {name_of_move(game, int(result.action[0]))}"])


def _asked(game: Game, state: State, ask: Callable[[str], str], show: Callable[[str], None]) -> np.ndarray:
    """Ask a person until the move is legal.

    Raises:
        _Resigned: at the end of the input.
    """
    legal = {name_of_move(game, int(action)): action for action in np.flatnonzero(game.legal_actions(state)[0])}
    try:
        while (answer := ask("your move: ").strip().lower()) not in legal:
            show(f"{answer!r} is no move here; these are: {' '.join(legal)}")
    except EOFError:
        raise _Resigned from None
    return np.array([legal[answer]])


def play_matches(
    names: Sequence[str],
    *,
    game: str | None,
    num_games: int,
    num_simulations: int | None,
    seed: int,
    random_opening: int = 0,
) -> Iterator[str]:
    """Let everybody meet everybody, and yield lines of results and ratings.

    Args:
        names: of agents and opponents, two or more.
        game: its name, where all are opponents; default: the first agent's.
        num_games: of each match.
        num_simulations: of agents' searches; default: their own.
        seed: of all random numbers.
        random_opening: random moves that games begin with.

    Raises:
        ValueError: for fewer than two names, or where the game is not known.
    """
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"names must be two or more different ones, got {list(names)}")
    agents = {name: load_player(name) for name in names if not _is_opponent(name)}
    rules = [agent.rules for agent in agents.values()] if game is None else [make_game(game)]
    if not rules:
        raise ValueError(f"game must be given where no agent plays, one of {sorted(GAMES)}")
    if other := {agent.rules.name for agent in agents.values()} - {rules[0].name}:
        raise ValueError(f"all players must play {rules[0].name}, got an agent for {sorted(other)}")
    players = {name: agents[name].player(num_simulations) if name in agents else find_opponent(name) for name in names}
    results = round_robin(rules[0], players, num_games, seed, random_opening)
    for (one, other_name), result in results.items():
        yield f"{one} against {other_name}: {result.wins} won, {result.draws} drawn, {result.losses} lost"
    for name, rating in sorted(elo_ratings(results).items(), key=lambda item: -item[1]):
        yield f"Elo {rating:+5.0f}  {name}"


def _player(name: str, game: Game, num_simulations: int | None) -> Opponent:
    if _is_opponent(name):
        return find_opponent(name)
    agent = load_player(name)
    if agent.rules.name != game.name:
        raise ValueError(f"against must play {game.name}, got {name} for {agent.rules.name}")
    return agent.player(num_simulations)


def _is_opponent(name: str) -> bool:
    try:
        find_opponent(name)
    except ValueError:
        return False
    return True
