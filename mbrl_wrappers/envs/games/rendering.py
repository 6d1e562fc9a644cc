"""Boards as text and as pictures."""

from __future__ import annotations

import string

import numpy as np

from mbrl_wrappers.envs.games.base import Game, Look, State

_CELL = 48  # pixels across a cell


def text(game: Game, state: State) -> str:
    """Write one game's board: ``x`` for the stones of player 0, ``o`` for those of player 1.

    Args:
        game: whose state it is.
        state: of one game.
    """
    slant = 1 if game.look.shape == "hexagon" else 0
    lines = ["   " + " ".join(string.ascii_lowercase[: game.width])]
    for row, stones in enumerate(state.board[0]):
        lines.append(" " * slant * row + f"{row + 1:2d} " + " ".join(".xo"[stone] for stone in stones))
    return "\n".join([*lines, _verdict(state)])


def name_of_move(game: Game, action: int) -> str:
    """Write a move as a column and a row, such as ``c3``, or a column alone where stones fall."""
    columns = string.ascii_lowercase[: game.width]
    if game.num_actions == game.width:
        return columns[action]
    row, column = divmod(action, game.width)
    return f"{columns[column]}{row + 1}" if row < game.height else "pass"


def _verdict(state: State) -> str:
    mover, other = ("x", "o") if state.player[0] == 0 else ("o", "x")
    if not state.ended[0]:
        return f"{mover} to move"
    return {1: f"{mover} has won", -1: f"{other} has won", 0: "draw"}[int(state.outcome[0])]


def picture(game: Game, state: State) -> np.ndarray:
    """Draw one game's board.

    Args:
        game: whose state it is.
        state: of one game.

    Returns:
        ``[height, width, 3]`` uint8.
    """
    look, board = game.look, state.board[0]
    middles = _middles(board.shape, look)
    margin = _CELL // 4
    height, width = (np.ceil(middles.max((0, 1)) + _CELL / 2) + margin).astype(int)
    canvas = np.empty((height, width, 3))
    canvas[:] = look.frame
    if look.shape == "hexagon":
        _paint_sides(canvas, middles, look)
    for middle, stone in zip(middles.reshape(-1, 2), board.ravel(), strict=True):
        _paint(canvas, middle, look.shape, 0.96, look.cell)
        if stone != 0:
            _paint(canvas, middle, "disc", 0.78 if look.shape != "disc" else 0.96, look.stones[0 if stone == 1 else 1])
    return canvas.round().astype(np.uint8)


def _middles(shape: tuple[int, ...], look: Look) -> np.ndarray:
    """``[H, W, 2]``: how far down and right the middle of each cell lies, in pixels."""
    row, column = np.indices(shape)
    first = _CELL / 4 + _CELL / 2
    if look.shape == "hexagon":
        return first + _CELL * np.stack([row * np.sqrt(0.75), column + row / 2], -1)
    return first + _CELL * np.stack([row, column], -1)


def _paint_sides(canvas: np.ndarray, middles: np.ndarray, look: Look) -> None:
    """Paint the sides of the board in the colour of the player who connects them; cells are painted over the rest."""
    top_and_bottom, left_and_right = look.stones
    rim = _CELL / 5
    for cells, shift, colour in (
        (middles[0], (-rim, 0), top_and_bottom),
        (middles[-1], (rim, 0), top_and_bottom),
        (middles[:, 0], (0, -rim), left_and_right),
        (middles[:, -1], (0, rim), left_and_right),
    ):
        for middle in cells:
            _paint(canvas, middle + shift, look.shape, 0.96, colour)


def _paint(canvas: np.ndarray, middle: np.ndarray, shape: str, size: float, colour: tuple[int, int, int]) -> None:
    """Paint a shape with smooth edges over a part of the canvas; ``size`` is its part of a cell."""
    top, left = (middle - 0.7 * _CELL).astype(int).clip(0)
    patch = canvas[top : top + int(1.4 * _CELL), left : left + int(1.4 * _CELL)]
    down, right = np.abs(
        np.indices(patch.shape[:2]) + 0.5 + np.array([top, left])[:, None, None] - middle[:, None, None]
    )
    distance = {
        "square": np.maximum(down, right),
        "disc": np.hypot(down, right),
        "hexagon": np.maximum(right, right / 2 + down * np.sqrt(0.75)),
    }[shape]
    cover = np.clip(size * _CELL / 2 - distance + 0.5, 0, 1)[..., None]
    patch[:] = cover * np.array(colour) + (1 - cover) * patch
