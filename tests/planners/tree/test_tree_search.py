"""The batched search against a recursive one, against perfect play, and against the faults of others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mbrl_wrappers.planners.tree import (
    PUCT,
    UCT,
    GameExpansion,
    Gumbel,
    Method,
    Root,
    SearchResult,
    Step,
    TreeSearch,
    root_generators,
)
from mbrl_wrappers.planners.tree.rules import halving_schedule
from testing.trees import Node, RandomTree, Reference, TicTacToe

METHODS = [
    Gumbel(),
    Gumbel(max_considered=3, value_scale=0.3),
    PUCT(),
    PUCT(dirichlet_fraction=0.0, c_init=0.5),
    UCT(),
    UCT(exploration=0.3, prior_bonus=5.0),
]
KERNELS = [False, True]
NAMES = list(range(20))

by_method = pytest.mark.parametrize("method", METHODS, ids=str)
by_player = pytest.mark.parametrize("method", [Gumbel(), PUCT(), UCT()], ids=["Gumbel", "PUCT", "UCT"])
by_kernels = pytest.mark.parametrize("compiled", KERNELS, ids=["plain", "compiled"])
by_players = pytest.mark.parametrize("zero_sum", [True, False], ids=["zero-sum", "one player"])


@pytest.fixture(autouse=True)
def _needs_numba(request: pytest.FixtureRequest) -> None:
    if "compiled" in request.fixturenames and request.getfixturevalue("compiled"):
        pytest.importorskip("numba")


def run(
    method: Method,
    root: Root,
    expand: Any,
    num_simulations: int = 40,
    temperature: Any = 1.0,
    generators: Any = None,
    trees: Any = None,
    **settings: Any,
) -> SearchResult:
    search = TreeSearch(num_simulations, method, **settings)
    generators = root_generators(0, len(root.legal)) if generators is None else generators
    return search.search(root, expand, generators, temperature=temperature, trees=trees)


def noise_of(method: Method, generator: np.random.Generator, num_actions: int) -> np.ndarray:
    """What a search draws first from a root's generator."""
    if isinstance(method, Gumbel):
        return generator.gumbel(size=num_actions)
    return generator.standard_gamma(0.3, num_actions)


@by_method
@by_players
@by_kernels
def test_visits_equal_those_of_a_recursive_search(method: Method, zero_sum: bool, compiled: bool) -> None:
    game = RandomTree()
    discount = 1.0 if zero_sum else 0.9
    root = game.root(NAMES)
    result = run(method, root, game, 40, zero_sum=zero_sum, discount=discount, compiled=compiled)
    for name, generator in zip(NAMES, root_generators(0, len(NAMES)), strict=True):
        alone = game.root([name])
        node = Node(alone.state, alone.value[0], alone.logits[0], alone.legal[0], 0.0, False)
        reference = Reference(method, game, zero_sum=zero_sum, discount=discount)
        reference.search(node, noise_of(method, generator, game.num_actions), 40)
        expected = [node.visits(a) if a in node.prior else 0 for a in range(game.num_actions)]
        assert result.visits[name].tolist() == expected
        returns = [value for a in node.prior for value in node.returns[a]]
        np.testing.assert_allclose(result.value[name], (node.value + sum(returns)) / (1 + len(returns)))
        tried = [a for a in node.prior if node.visits(a)]
        np.testing.assert_allclose(result.q_values[name, tried], [node.q(a) for a in tried])
        if isinstance(method, Gumbel):
            improved = reference.improved(node)
            weights = np.array([np.exp(improved.get(a, -np.inf)) for a in range(game.num_actions)])
            np.testing.assert_allclose(result.policy[name], weights / weights.sum(), atol=1e-12)


@by_method
@by_players
def test_both_kernels_do_the_same(method: Method, zero_sum: bool) -> None:
    pytest.importorskip("numba")
    game = RandomTree(num_actions=11, depth=9)  # more than 8 terms, which NumPy would sum in another order
    root = game.root(list(range(64)))
    plain, compiled = (run(method, root, game, 100, zero_sum=zero_sum, compiled=flag) for flag in KERNELS)
    np.testing.assert_array_equal(plain.visits, compiled.visits)
    np.testing.assert_array_equal(plain.action, compiled.action)
    for name in ("value", "policy", "q_values"):
        np.testing.assert_allclose(getattr(plain, name), getattr(compiled, name), rtol=1e-12, atol=1e-15)


@by_method
@by_kernels
def test_a_root_does_not_depend_on_its_neighbours(method: Method, compiled: bool) -> None:
    game = RandomTree()
    together = run(method, game.root(NAMES), game, compiled=compiled)
    some = [7, 3, 15]
    generators = root_generators(0, len(NAMES))
    apart = run(method, game.root(some), game, generators=[generators[i] for i in some], compiled=compiled)
    for name in ("visits", "action", "value", "policy", "q_values"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name)[some])


@by_method
@by_players
@by_kernels
def test_every_simulation_counts_and_only_legal_actions_are_met(method: Method, zero_sum: bool, compiled: bool) -> None:
    game = RandomTree()  # it refuses illegal steps, and steps from ended states
    root = game.root(NAMES)
    result = run(method, root, game, 60, zero_sum=zero_sum, compiled=compiled)
    nodes = result.trees.nodes
    assert (result.visits.sum(1) == 60).all()
    assert not result.visits[~root.legal].any() and not result.policy[~root.legal].any()
    assert (result.q_values[~root.legal] == -np.inf).all() and np.isfinite(result.q_values[root.legal]).all()
    np.testing.assert_allclose(result.policy.sum(1), 1.0)
    assert root.legal[np.arange(len(NAMES)), result.action].all()
    assert nodes.ended.any() and not nodes.visits[nodes.ended].any() and not nodes.child[nodes.ended].any()
    assert not nodes.visits[nodes.prior == 0].any()
    in_use = nodes.node_visits > 0
    assert (nodes.node_visits == in_use * (1 + nodes.visits.sum(2))).all() and in_use[:, 0].all()


# -- play -------------------------------------------------------------------------------------------------

GAME = TicTacToe()
PERFECT = GameExpansion(GAME, GAME.perfect)
IGNORANT = GameExpansion(GAME, lambda board: (np.zeros(board.cells.shape), np.zeros(len(board.cells))))


@by_player
@by_kernels
def test_the_forced_win_is_found_with_perfect_values(method: Method, compiled: bool) -> None:
    # X to move: completes a line; makes the only double threat; O to move: must block.
    board = GAME.after("0314", "083", "04")
    root = PERFECT.root(board)
    result = run(method, root, PERFECT, 100, temperature=0.0, compiled=compiled)
    after = GAME.step(board, result.action)
    assert (-PERFECT.evaluate(after)[1] == root.value).all()
    assert result.action[0] == 2
    assert root.value[1] == 1


@by_player
@by_kernels
def test_ends_alone_show_what_to_do(method: Method, compiled: bool) -> None:
    board = GAME.after("0314", "041", "03148")  # win at 2; block at 2; win at 5, though 2 has to be blocked
    result = run(method, IGNORANT.root(board), IGNORANT, 200, temperature=0.0, compiled=compiled)
    assert result.action.tolist() == [2, 2, 5]
    assert result.q_values[0, 2] == 1.0 and result.q_values[2, 5] == 1.0


@by_player
@by_kernels
def test_draws_count_as_nothing(method: Method, compiled: bool) -> None:
    board = GAME.after("01243576")  # one cell is left, and nobody wins
    assert not board.ended[0]
    result = run(method, IGNORANT.root(board), IGNORANT, 20, compiled=compiled)
    assert result.visits[0, 8] == 20
    assert result.value[0] == 0.0 and result.q_values[0, 8] == 0.0


@by_kernels
@pytest.mark.parametrize("zero_sum", [True, False])
def test_values_flip_at_each_level(zero_sum: bool, compiled: bool) -> None:
    """A chain of one action: the value of its last state comes back with the sign of its depth."""

    def chain(state: Any, action: np.ndarray) -> tuple[Any, Step]:
        depth = state[0] + 1
        ones = np.ones((len(depth), 1))
        return (depth,), Step(np.where(depth == 5, 1.0, 0.0), depth == 5, ones, 0 * depth, ones > 0)

    root = Root((np.zeros(1),), np.zeros((1, 1)), np.zeros(1), np.ones((1, 1), bool))
    for simulations, passes in ((4, 0), (5, 1), (9, 5)):
        result = run(PUCT(), root, chain, simulations, zero_sum=zero_sum, discount=0.5, compiled=compiled)
        sign = (-1) ** 4 if zero_sum else 1  # the player at the root makes the fifth move too
        np.testing.assert_allclose(result.value, sign * 0.5**4 * passes / (1 + simulations))
        nodes = result.trees.nodes
        signs = [np.sign(nodes.q[0, n, 0]) for n in range(4)]
        assert signs == ([(-1) ** n if zero_sum else 1 for n in range(4)] if passes else [0] * 4)


# -- golden trees: worked out by hand ---------------------------------------------------------------------


class Path(NamedTuple):
    """The actions so far, as digits after a 1."""

    digits: np.ndarray


def two_armed(values: dict[int, float]) -> tuple[Root, Any]:
    """Two actions everywhere, equally likely; values by path, 0 elsewhere."""

    def expand(state: Path, action: np.ndarray) -> tuple[Path, Step]:
        state = Path(state.digits * 10 + action)
        size = len(action)
        value = np.array([values.get(int(path), 0.0) for path in state.digits])
        return state, Step(np.zeros(size), np.zeros(size, bool), np.zeros((size, 2)), value, np.ones((size, 2), bool))

    return Root(Path(np.ones(1, np.int64)), np.zeros((1, 2)), np.zeros(1), np.ones((1, 2), bool)), expand


@by_kernels
def test_golden_tree_of_puct(compiled: bool) -> None:
    # The replies to action 0 are good for it (-0.6), action 1 is a little good (-0.4, from the reply's view).
    root, expand = two_armed({10: -0.6, 11: -0.4, 100: 0.2})
    method = PUCT(c_base=1e9, c_init=1.0, dirichlet_fraction=0.0)
    # 1: a tie, the first: Q(0) = 0.6. 2: 0.6 + sqrt 2 / 4 = 0.95 > 0 + sqrt 2 / 2 = 0.71: 0 again, on to 100, worth 0.2
    # for the player of the root: Q(0) = (0.6 + 0.2) / 2 = 0.4. 3: 0.4 + sqrt 3 / 6 = 0.69 < sqrt 3 / 2 = 0.87: Q(1) =
    # 0.4. 4: 0.4 + 2 / 6 = 0.73 < 0.4 + 2 / 4 = 0.9: 1 again, on to 110, worth 0: Q(1) = 0.2.
    for simulations, visits, q in (
        (1, [1, 0], [0.6, None]),
        (2, [2, 0], [0.4, None]),
        (3, [2, 1], [0.4, 0.4]),
        (4, [2, 2], [0.4, 0.2]),
    ):
        result = run(method, root, expand, simulations, temperature=0.0, compiled=compiled)
        assert result.visits[0].tolist() == visits
        for a in range(2):
            if q[a] is not None:
                np.testing.assert_allclose(result.q_values[0, a], q[a])
    np.testing.assert_allclose(result.value, [(0.6 + 0.2 + 0.4 + 0.0) / 5])
    np.testing.assert_allclose(result.policy, [[0.5, 0.5]])


@by_kernels
def test_golden_tree_of_gumbel(compiled: bool) -> None:
    # Two actions, 4 simulations: each gets two. Without noise the first goes to action 0, the second to action 1.
    root, expand = two_armed({10: -0.6, 11: -0.4, 100: 0.2})
    result = run(Gumbel(value_scale=0.01), root, expand, 4, temperature=0.0, compiled=compiled)
    assert result.visits.tolist() == [[2, 2]]
    np.testing.assert_allclose(result.q_values, [[0.4, 0.2]])
    scale = (50 + 2) * 0.01
    odds = np.exp(scale * (0.4 - 0.2))
    np.testing.assert_allclose(result.policy, [[odds / (1 + odds), 1 / (1 + odds)]])
    assert result.action.tolist() == [0]


@by_kernels
def test_an_action_without_visits_has_the_mixed_value(compiled: bool) -> None:
    """One simulation: v = 0.5, the visited action's Q = -0.25 and n = 1, so the other's is (0.5 - 0.25) / 2."""
    root, expand = two_armed({10: 0.25})
    root = root._replace(value=np.array([0.5]))
    result = run(Gumbel(value_scale=0.01), root, expand, 1, temperature=0.0, compiled=compiled)
    np.testing.assert_allclose(result.q_values, [[-0.25, 0.125]])
    odds = np.exp((50 + 1) * 0.01 * (-0.25 - 0.125))
    np.testing.assert_allclose(result.policy, [[odds / (1 + odds), 1 / (1 + odds)]])


def test_halving_gives_each_phase_as_many_visits() -> None:
    table = halving_schedule(4, 16)
    assert table.shape == (5, 16)
    assert table[1].tolist() == list(range(16))
    assert table[2].tolist() == [n for n in range(8) for _ in range(2)]
    assert table[4].tolist() == [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]  # 2 visits for each of 4, 4 for each of 2
    assert halving_schedule(16, 4)[16].tolist() == [0] * 4  # fewer simulations than actions


# -- noise ------------------------------------------------------------------------------------------------


class Counted:
    """A generator that counts its draws by kind."""

    def __init__(self, seed: int) -> None:
        self.generator, self.draws = np.random.default_rng(seed), list[str]()

    def __getattr__(self, name: str) -> Any:
        self.draws.append(name)
        return getattr(self.generator, name)


@pytest.mark.parametrize(
    ("method", "draws"),
    [
        (PUCT(), ["standard_gamma", "random"]),
        (PUCT(dirichlet_fraction=0.0), ["random"]),
        (Gumbel(), ["gumbel"]),
        (UCT(), ["random"]),
    ],
    ids=str,
)
def test_noise_is_drawn_once_for_a_search(method: Method, draws: list[str]) -> None:
    game = RandomTree()
    generators = [Counted(i) for i in range(3)]
    run(method, game.root([0, 1, 2]), game, 50, generators=generators)
    assert [generator.draws for generator in generators] == [draws] * 3


def test_the_prior_of_a_root_is_mixed_with_noise() -> None:
    game = RandomTree()
    root = game.root(NAMES)
    clean = run(PUCT(dirichlet_fraction=0.0), root, game).trees.nodes.prior[:, 0]
    noisy = run(PUCT(), root, game).trees.nodes.prior[:, 0]
    np.testing.assert_allclose(noisy.sum(1), 1.0)
    assert ((noisy == 0) == ~root.legal).all()
    noise = (noisy - 0.75 * clean) / 0.25
    assert (noise > -1e-12).all() and (np.abs(noisy - clean).max(1) > 0.01).any()


def test_without_noise_gumbel_is_deterministic_and_with_it_samples_the_prior() -> None:
    root = Root(
        Path(np.ones(4000, np.int64)), np.tile(np.log([0.7, 0.2, 0.1]), (4000, 1)), np.zeros(4000), np.ones((4000, 3))
    )

    def nothing(state: Path, action: np.ndarray) -> tuple[Path, Step]:
        size = len(action)
        return state, Step(np.zeros(size), np.ones(size), np.zeros((size, 3)), np.zeros(size), np.zeros((size, 3)))

    greedy = run(Gumbel(), root, nothing, 1, temperature=0.0)
    assert (greedy.action == 0).all()
    sampled = run(Gumbel(), root, nothing, 1, temperature=1.0)
    np.testing.assert_allclose(np.bincount(sampled.action) / 4000, [0.7, 0.2, 0.1], atol=0.03)


def test_the_temperature_is_that_of_visits_and_each_root_has_its_own() -> None:
    game = RandomTree()
    root = game.root([5] * 3000)
    heat = np.repeat([0.0, 0.5, 1.0], 1000)
    result = run(UCT(), root, game, 30, temperature=heat)
    visits = result.visits[0].astype(float)
    for index, power in ((1, 2.0), (2, 1.0)):
        chosen = np.bincount(result.action[1000 * index : 1000 * (index + 1)], minlength=game.num_actions) / 1000
        np.testing.assert_allclose(chosen, visits**power / (visits**power).sum(), atol=0.05)
    assert (result.action[:1000] == visits.argmax()).all()


# -- states, and what is refused --------------------------------------------------------------------------


class Mixed(NamedTuple):
    """A state of a tensor and a dict."""

    name: torch.Tensor
    more: dict[str, np.ndarray]


@by_player
def test_states_may_be_tensors_dicts_and_objects(method: Method) -> None:
    game = RandomTree()
    plain = game.root(NAMES)

    def expand(state: Mixed, action: np.ndarray) -> tuple[Mixed, Step]:
        assert isinstance(state, Mixed) and state.more["depth"].dtype == object
        name = state.name.numpy().astype(np.uint64)
        (name, depth), step = game((name, state.more["depth"].astype(np.int64)), action)
        tensors = Step(*(torch.as_tensor(field) for field in step))
        return Mixed(torch.as_tensor(name.astype(np.int64)), {"depth": depth.astype(object)}), tensors

    state = Mixed(torch.as_tensor(plain.state[0].astype(np.int64)), {"depth": plain.state[1].astype(object)})
    root = Root(state, *(torch.as_tensor(field) for field in plain[1:]))
    np.testing.assert_array_equal(run(method, root, expand).visits, run(method, plain, game).visits)


def with_row(array: np.ndarray, value: Any) -> np.ndarray:
    array = array.copy()
    array[1] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r._replace(legal=with_row(r.legal, False)), r"legal action, got none for roots \[1\]"),
        (lambda r: r._replace(legal=r.legal[0]), r"root.legal must have shape \[B, A\], got \(5,\)"),
        (lambda r: r._replace(logits=r.logits[:, 1:]), r"root.logits must have shape \(3, 5\), got \(3, 4\)"),
        (lambda r: r._replace(value=r.value[:2]), r"root.value must have shape \(3,\), got \(2,\)"),
        (lambda r: r._replace(state=(r.state[0][:2], r.state[1])), r"root.state must have 3 rows.*got \(2,\)"),
        (lambda r: r._replace(value=with_row(r.value, np.nan)), r"root must be finite.*for root 1"),
        (lambda r: r._replace(logits=with_row(r.logits, np.inf)), r"root must be finite.*for root 1"),
    ],
)
def test_bad_roots_are_refused(change: Any, message: str) -> None:
    game = RandomTree()
    with pytest.raises(ValueError, match=message):
        run(Gumbel(), change(game.root([0, 1, 2])), game)


def test_ended_roots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"root\.legal must have a legal action, got none for roots"):
        run(Gumbel(), IGNORANT.root(GAME.after("03142", "03")), IGNORANT)


@by_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(legal=s.legal[:, 1:]), r"expand's legal must have shape \(3, 5\), got \(3, 4\)"),
        (lambda s: s._replace(reward=s.reward[:, None]), r"expand's reward must have shape \(3,\), got \(3, 1\)"),
        (
            lambda s: s._replace(ended=with_row(s.ended, False), legal=with_row(s.legal, False)),
            "legal action.*for root 1",
        ),
        (lambda s: s._replace(reward=with_row(s.reward, np.nan)), "finite.*nan.*for root 1"),
        (lambda s: s._replace(ended=with_row(s.ended, False), value=with_row(s.value, np.inf)), "finite.*for root 1"),
    ],
)
def test_bad_steps_are_refused(change: Any, message: str, compiled: bool) -> None:
    game = RandomTree()

    def expand(state: Any, action: np.ndarray) -> tuple[Any, Step]:
        state, step = game(state, action)
        return state, change(step)

    with pytest.raises(ValueError, match=message):
        run(Gumbel(), game.root([0, 1, 2]), expand, compiled=compiled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeSearch(0), "num_simulations must be a whole number of at least 1, got 0"),
        (lambda: TreeSearch(discount=0.0), r"discount must be in \(0, 1\], got 0.0"),
        (lambda: PUCT(c_base=0), "c_base must be in"),
        (lambda: PUCT(dirichlet_alpha=np.inf), "dirichlet_alpha must be in"),
        (lambda: PUCT(dirichlet_fraction=1.5), "dirichlet_fraction must be in"),
        (lambda: Gumbel(max_considered=0), "max_considered must be"),
        (lambda: Gumbel(value_scale=-1.0), "value_scale must be in"),
        (lambda: UCT(exploration=np.nan), "exploration must be in"),
        (lambda: UCT(prior_bonus=-1), "prior_bonus must be in"),
    ],
)
def test_bad_settings_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_arguments_of_a_search_are_refused() -> None:
    game = RandomTree()
    root = game.root([0, 1, 2])
    with pytest.raises(ValueError, match="generators must be 3, one for each root, got 2"):
        run(Gumbel(), root, game, generators=root_generators(0, 2))
    for heat in (-1.0, np.nan, np.ones(2)):
        with pytest.raises(ValueError, match="temperature must be at least 0"):
            run(Gumbel(), root, game, temperature=heat)


def test_without_numba_it_works_and_says_what_is_missing() -> None:
    program = """
import sys
sys.modules["numba"] = None
import importlib.util as util
found = util.find_spec
util.find_spec = lambda name, *rest: None if name == "numba" else found(name, *rest)
from mbrl_wrappers.planners.tree import TreeSearch, UCT
from testing.trees import RandomTree
from mbrl_wrappers.planners.tree import root_generators
game = RandomTree()
print(TreeSearch(20, UCT()).search(game.root([0, 1]), game, root_generators(0, 2), temperature=0).visits.sum())
try:
    TreeSearch(compiled=True)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="tests")
    assert done.stdout.split("\n")[:2] == ["40", "compiled=True needs numba: pip install 'mbrl-wrappers[games]'"], done
