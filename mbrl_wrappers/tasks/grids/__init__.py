"""Breakout, MiniPacman and Sokoban: grid games, played one at a time or many side by side."""

from mbrl_wrappers.tasks.grids.breakout import Breakout, BreakoutGames
from mbrl_wrappers.tasks.grids.games import Games
from mbrl_wrappers.tasks.grids.mini_pacman import MiniPacman, MiniPacmanGames
from mbrl_wrappers.tasks.grids.sokoban import Sokoban, SokobanGames

__all__ = ["Breakout", "BreakoutGames", "Games", "MiniPacman", "MiniPacmanGames", "Sokoban", "SokobanGames"]
