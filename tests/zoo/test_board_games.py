"""Games in the terminal: what a person sees and may answer, and matches between players by name."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbrl_wrappers import zoo
from mbrl_wrappers.agents import AlphaZero
from mbrl_wrappers.envs.games import Othello, make_game
from mbrl_wrappers.envs.games.env import GameEnv
from mbrl_wrappers.envs.games.ladder import default_ladder
from mbrl_wrappers.envs.games.rendering import name_of_move
from mbrl_wrappers.zoo.analysis.ladder import LADDER, ladder_from_json
from mbrl_wrappers.zoo.catalogue.saving import export
from mbrl_wrappers.zoo.cli.board_games import load_player, play_against_agent
from mbrl_wrappers.zoo.cli.main import main
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.report import build_report
from mbrl_wrappers.zoo.report.board_games import most_visited
from mbrl_wrappers.zoo.storage.folder import PROGRESS
from mbrl_wrappers.zoo.storage.tables import read_rows
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation
from mbrl_wrappers.zoo.training.run import Stopped, run

TIC_TAC_TOE = "mbrl_wrappers/TicTacToe-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = AlphaZero(
        "MlpPolicy", GameEnv("TicTacToe"), num_games=4, num_simulations=30, seed=0, device="cpu",
        policy_kwargs={"features_extractor_kwargs": {"widths": [8]}},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("zoo") / "agent"
    zoo.save(agent, path, env="mbrl_wrappers/TicTacToe-v0")
    return path


def test_a_saved_agent_plays_without_an_env(folder: Path) -> None:
    agent = load_player(str(folder))
    assert agent.rules.name == "TicTacToe"
    result = agent.think(agent.rules.initial(2), 12, seed=0)
    assert result.visits.sum(1).tolist() == [12, 12]


def test_a_person_is_asked_until_the_move_is_legal(folder: Path) -> None:
    answers = iter(["z9", "", "A1", "a1", "b2", "c3", "a2", "b1", "c1", "a3", "b3", "c2"] * 3)
    shown: list[str] = []
    outcome = play_against_agent(
        str(folder), None, num_simulations=8, begins=True, seed=0, ask=lambda _: next(answers), show=shown.append
    )
    assert outcome in (-1, 0, 1)
    text = "\n".join(shown)
    assert "'z9' is no move here; these are: a1 b1 c1 a2 b2 c2 a3 b3 c3" in text
    assert "move  visits  value" in text and "plays " in text
    assert text.splitlines()[-1] in ("x has won", "o has won", "draw")


@pytest.mark.parametrize("moves", [[], ["a1"], ["nowhere"]])
def test_a_person_who_ends_the_input_resigns(
    moves: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{move}\n" for move in moves)))
    assert main(["play", str(folder), "--simulations", "4"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\nYou resign.\nYou have lost\n") and err == ""


def test_the_agent_takes_its_chance_to_win(folder: Path) -> None:
    """A person who never looks loses to a search that sees a win at once."""
    answers = iter(["a1", "a2", "b1", "b2", "c2", "c1", "a3", "b3", "c3"] * 5)
    outcome = play_against_agent(
        str(folder), None, num_simulations=200, begins=False, seed=1, ask=lambda _: next(answers),
        show=lambda text: None,
    )  # fmt: skip
    assert outcome == -1


@pytest.mark.parametrize(
    ("game", "action", "name"),
    [("ConnectFour", 3, "d"), ("TicTacToe", 5, "c2"), ("Hex11", 12, "b2"), ("Othello6", 36, "pass")],
)
def test_moves_have_names(game: str, action: int, name: str) -> None:
    assert name_of_move(make_game(game), action) == name
    assert len({name_of_move(Othello(6), a) for a in range(37)}) == 37


def test_the_commands(folder: Path, capsys: Any) -> None:
    assert main(["play", str(folder), "--against", "random", "--simulations", "4", "--seed", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in ("random has won", "A draw", "random has lost")
    names = [str(folder), "random", "perfect"]
    assert main(["match", *names, "-n", "6", "--simulations", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[3].endswith("perfect") and "random against perfect: 0 won" in lines[2]
    assert np.isclose(sum(float(line.split()[1]) for line in lines[3:]), 0, atol=3)
    assert main(["match", "random", "one_ply", "--game", "Hex5", "-n", "4"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["match", "random"], "names must be two or more different ones, got ['random']"),
        (["match", "random", "random"], "names must be two or more different ones"),
        (["match", "random", "one_ply"], "game must be given where no agent plays, one of ['ConnectFour'"),
        (["match", "random", "one_ply", "--game", "Chess"], "game must be one of"),
        (["play", "svg/Pendulum-v1", "--against", "random"], "name must be of an agent that plays one of"),
    ],
)
def test_what_can_t_be_played_is_told(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_agents_of_other_games_are_refused(folder: Path, capsys: Any) -> None:
    assert main(["match", str(folder), "random", "--game", "Hex5"]) == 2
    assert "all players must play Hex5, got an agent for ['TicTacToe']" in capsys.readouterr().err


# -- runs ----------------------------------------------------------------------------------------------

TINY = {
    "agent.num_games": 8,
    "agent.num_simulations": 8,
    "agent.learning_starts": 20,
    "agent.policy_kwargs": {"features_extractor_kwargs": {"widths": [8]}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on TicTacToe that was stopped once and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "alphazero"
    spec = make_job("alphazero", TIC_TAC_TOE, steps=240, params=TINY, eval_freq=80, eval_episodes=2, save_freq=40)
    with pytest.raises(Stopped):
        run(spec, folder, should_stop=(folder / PROGRESS).exists)  # after its first evaluation
    run(spec, folder)
    return folder


def test_a_run_keeps_its_ladder(trained: Path) -> None:
    ladder = ladder_from_json((trained / LADDER).read_bytes(), LADDER)
    assert [row.steps for row in ladder] == [row.steps for row in read_rows(trained / PROGRESS, Evaluation)]
    assert list(ladder[-1].results) == list(default_ladder(make_game("TicTacToe")))
    card = (trained / "README.md").read_text()
    result = ladder[-1].results["perfect"]
    assert f"| perfect | {result.wins} | {result.draws} | {result.losses} |" in card
    assert "load_dynamics" not in card  # it has no world model


def test_a_published_agent_keeps_ladder_and_card(trained: Path, tmp_path: Path) -> None:
    folder = export([trained], tmp_path / "out", name="alphazero/TicTacToe-v0")
    assert folder.file(LADDER) == (trained / LADDER).read_bytes()
    assert b"## Ladder" in (folder.file("README.md") or b"")


def test_a_report_shows_ladder_position_and_search(trained: Path, tmp_path: Path) -> None:
    page = build_report([trained], tmp_path / "report.html").read_text()
    for text in ("AlphaZero at play", "Score against opponents", "Agreement with a perfect player", "A search"):
        assert text in page
    assert "No finished agent here has a model" not in page


def test_a_drawn_tree_is_the_search_s(folder: Path) -> None:
    agent = load_player(str(folder))
    state = agent.rules.step(agent.rules.initial(1), np.array([4]))
    search = agent.think(state, 60, seed=0)
    root, *nodes = most_visited(agent.rules, search)
    assert root.visits == 60
    first = [node for node in nodes if node.depth == 1]
    best = np.argsort(-search.visits[0], kind="stable")[: len(first)]
    assert [node.visits for node in first] == search.visits[0][best].tolist()
    assert [node.value for node in first] == pytest.approx(search.q_values[0][best].tolist())
    for node in nodes:
        children = [other for other in nodes if other.parent > 0 and nodes[other.parent - 1] is node]
        assert sum(child.visits for child in children) <= node.visits - 1


def test_a_ladder_is_read_within_bounds(trained: Path) -> None:
    good = json.loads((trained / LADDER).read_text())
    row = good["rows"][0]
    for change in (
        {"results": {"x" * 41: [1, 0, 0]}},
        {"results": {"random": [1, 0]}},
        {"results": {"random": [0, 0, 0]}},
        {"results": {"random": [-1, 2, 0]}},
        {"results": {"random": [True, 2, 0]}},
        {"kept": 1.5},
        {"steps": -1},
        {"cpu_seconds": "nan"},
    ):
        with pytest.raises(ZooError, match="source must hold a ladder"):
            ladder_from_json(json.dumps({**good, "rows": [{**row, **change}]}).encode(), "source")
    for rows in ([], [row] * 10_001, None):
        with pytest.raises(ZooError, match="source must hold a ladder"):
            ladder_from_json(json.dumps({**good, "rows": rows}).encode(), "source")
