"""AlphaZero (Silver et al. 2018): a network learns from the searches of its own games, which it guides."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from mbrl_wrappers.agents.networks.alphazero import AlphaZeroPolicy, ResidualPolicy
from mbrl_wrappers.agents.self_play import ExampleBuffer, Examples, SelfPlay
from mbrl_wrappers.agents.self_play_workers import SelfPlayWorkers
from mbrl_wrappers.arguments import check_device, check_number, check_whole_number
from mbrl_wrappers.envs.games import GAMES, Game, make_game
from mbrl_wrappers.envs.games.base import Opponent, State, take_games
from mbrl_wrappers.planners.tree import PUCT, Gumbel, Method, SearchResult, TreeSearch, root_generators
from mbrl_wrappers.planners.tree.games import GameExpansion
from mbrl_wrappers.seeding import stream_seed
from mbrl_wrappers.workers import LocalWorkers, WorkerExecutor

_METHODS: dict[str, type[Method]] = {"gumbel": Gumbel, "puct": PUCT}


class AlphaZero(BaseAlgorithm):
    """Self-play with tree search, and a network that learns the searches' policies and the games' outcomes.

    All games make a move at a time, each after a search that the network guides; the positions of games that have
    ended go into a buffer, and the network takes ``gradient_steps`` steps on

        ``(z - v)^2 - pi^T log p``                                                   (Silver et al. 2018, equation 1)

    with weight decay, on positions that are turned and mirrored at random. A step of ``learn``'s count is a move.

    ``predict`` searches too, with the same number of simulations, and without noise if ``deterministic``. Legal moves
    are those of the rules, so masks need not be given.

    With ``workers``, self-play is theirs, and this process learns: they live in processes of this machine while
    ``learn`` goes on, or where :attr:`executor` starts them, such as on a Ray cluster. Each plays ``num_games`` games
    on one core, with weights that are up to three moves of all workers older than the learner's; updates per move
    are as many as without workers. A worker that is killed loses its unfinished games, and another takes its place.

    A run with workers is resumed bit for bit like one without, and repeated by its seed. It is another run than that
    with another number of workers; and neither holds where a worker was killed, since what it had played depends on
    when. A script that uses workers needs ``if __name__ == "__main__":``.

    Deviations: the search is Gumbel AlphaZero's by default (Danihelka et al. 2022), which needs fewer simulations, and
    then the target is its improved policy; the paper's is ``search="puct"``. Adam; value and policy of a dense network.

    Args:
        policy: ``"MlpPolicy"``, or ``"CnnPolicy"`` for the paper's residual network.
        env: of a game, such as ``"mbrl_wrappers.envs:mbrl_wrappers/ConnectFour-v0"``. Its opponent plays no part in
            training; callbacks that evaluate in such an env meet it.
        learning_rate: Adam's.
        game: the game's name, where there is no env; default: the env's.
        num_simulations: of each search.
        search: ``"gumbel"`` or ``"puct"``.
        search_kwargs: arguments of :class:`~mbrl_wrappers.planners.tree.Gumbel` or
            :class:`~mbrl_wrappers.planners.tree.PUCT`, such as Gumbel's ``value_scale``.
        deterministic_search_kwargs: replace entries of ``search_kwargs`` in searches without noise: those of
            ``predict(..., deterministic=True)`` and of matches. Play can then trust values more than learning does.
            PUCT's ``dirichlet_fraction`` is 0 there in any case.
        num_games: games at a time.
        explored_moves: moves of each game that are chosen with temperature 1, the others with 0; default: all.
        random_opening: games of self-play begin with some random moves, a number from 0 to this, whose positions are
            not learned from: so that the agent also meets positions which it would never come to by itself.
        value_mix: ``w`` of the value's target ``(1 - w) z + w v``: ``v`` is the root's value in the search.
        reuse_trees: whether a search goes on with the subtree of the last one.
        buffer_size: newest positions that are kept.
        learning_starts: positions in the buffer before the first update.
        batch_size: positions of an update.
        gradient_steps: updates after each move of all games, of one worker where there are workers.
        workers: the number of processes that play; 0: this one plays.
        stats_window_size, tensorboard_log, policy_kwargs, verbose, seed, device: as in SB3.

    Attributes:
        executor: starts the workers.

    Raises:
        ValueError: for an argument out of its range, or an env that is not of a game.

    Example:
        >>> agent = AlphaZero("MlpPolicy", "mbrl_wrappers.envs:mbrl_wrappers/TicTacToe-v0")
        >>> agent.learn(50_000)  # doctest: +SKIP
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": AlphaZeroPolicy,
        "CnnPolicy": ResidualPolicy,
    }

    searches: ClassVar[tuple[str, ...]] = tuple(_METHODS)

    policy: AlphaZeroPolicy
    rules: Game
    examples: ExampleBuffer
    self_play: SelfPlay | SelfPlayWorkers
    executor: WorkerExecutor

    def __init__(
        self,
        policy: str | type[AlphaZeroPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        game: str | None = None,
        num_simulations: int = 32,
        search: str = "gumbel",
        search_kwargs: dict[str, Any] | None = None,
        deterministic_search_kwargs: dict[str, Any] | None = None,
        num_games: int = 128,
        explored_moves: int | None = None,
        random_opening: int = 0,
        value_mix: float = 0.0,
        reuse_trees: bool = False,
        buffer_size: int = 100_000,
        learning_starts: int = 2_000,
        batch_size: int = 512,
        gradient_steps: int = 1,
        workers: int = 0,
        stats_window_size: int = 1000,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if search not in self.searches:
            raise ValueError(f"search must be one of {list(self.searches)}, got {search!r}")
        for name, value in (
            ("num_simulations", num_simulations),
            ("num_games", num_games),
            ("buffer_size", buffer_size),
            ("learning_starts", learning_starts),
            ("batch_size", batch_size),
            ("gradient_steps", gradient_steps),
        ):
            check_whole_number(name, value)
        if explored_moves is not None:
            check_whole_number("explored_moves", explored_moves, 0)
        check_whole_number("random_opening", random_opening, 0)
        check_whole_number("workers", workers, 0)
        check_number("value_mix", value_mix, 0, 1)
        check_device("device", device)
        self.game = game
        self.num_simulations, self.search = num_simulations, search
        self.search_kwargs, self.deterministic_search_kwargs = search_kwargs, deterministic_search_kwargs
        for name, is_quiet in (("search_kwargs", False), ("deterministic_search_kwargs", True)):
            try:
                self._method(is_quiet)
            except TypeError as error:
                names = sorted(inspect.signature(_METHODS[search]).parameters)
                raise ValueError(
                    f"{name} must be arguments of {search!r}, {names}, got {getattr(self, name)}"
                ) from error
        self.num_games, self.explored_moves, self.random_opening = num_games, explored_moves, random_opening
        self.value_mix, self.reuse_trees = value_mix, reuse_trees
        self.buffer_size, self.learning_starts = buffer_size, learning_starts
        self.batch_size, self.gradient_steps = batch_size, gradient_steps
        self.workers, self.executor = workers, LocalWorkers()
        self._n_updates = self._n_predictions = 0
        self._prediction_generator: np.random.Generator | None = None
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Discrete,),
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        if self.env is not None:
            self._take_rules(self.env)
        elif self.game in GAMES:
            self.rules = make_game(self.game)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Take an env of the same game; games in progress go on."""
        super().set_env(env, force_reset)
        assert self.env is not None
        self._take_rules(self.env)

    def _take_rules(self, env: VecEnv) -> None:
        try:
            (self.rules, *_) = env.get_attr("game")
        except AttributeError as error:
            raise ValueError(f"env must be of a game, with an attribute game, got {env}") from error
        self.game = self.rules.name
        if not hasattr(self, "self_play"):
            self._begin()

    def _begin(self) -> None:
        """Begin all games, with an empty buffer."""
        self.examples = ExampleBuffer(self.rules, self.buffer_size, stream_seed(self.seed, "batches"))
        self.self_play = SelfPlayWorkers(self.workers) if self.workers else self._new_games("games")

    def _new_games(self, stream: str) -> SelfPlay:
        """Begin games with random numbers from a stream of their own."""
        moves = self.rules.max_length if self.explored_moves is None else self.explored_moves
        return SelfPlay(
            self.rules,
            self._tree_search(),
            self.num_games,
            explored_moves=moves,
            random_opening=self.random_opening,
            value_mix=self.value_mix,
            reuses_trees=self.reuse_trees,
            seed=None if self.seed is None else stream_seed(self.seed, stream),
        )

    def _tree_search(self, num_simulations: int | None = None, is_quiet: bool = False) -> TreeSearch:
        """Make the search; a quiet one mixes no noise into priors."""
        count = self.num_simulations if num_simulations is None else num_simulations
        return TreeSearch(count, self._method(is_quiet))

    def _method(self, is_quiet: bool) -> Method:
        kwargs = {**(self.search_kwargs or {}), **((self.deterministic_search_kwargs or {}) if is_quiet else {})}
        noise = {"dirichlet_fraction": 0.0} if is_quiet and self.search == "puct" else {}
        return _METHODS[self.search](**{**kwargs, **noise})

    def _expansion(self, generators: Sequence[np.random.Generator]) -> GameExpansion:
        """Return the game as a search sees it; ``generators`` are for evaluations that draw random numbers."""
        return GameExpansion(self.rules, self.evaluate)

    # -- acting ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's logits ``[B, A]`` and values ``[B]`` of states."""
        planes = torch.as_tensor(self.rules.observation(state), device=self.device)
        logits, value = self.policy.evaluate(planes)
        return logits.cpu().numpy(), value.cpu().numpy()

    def player(self, num_simulations: int | None = None) -> Opponent:
        """Return the agent as a player for matches: it searches without noise.

        Args:
            num_simulations: default: the agent's; 0: the network's policy alone.
        """

        def play(game: Game, state: State, generator: np.random.Generator) -> np.ndarray:
            return self._choose(state, num_simulations, 0.0, int(generator.integers(2**63)))

        return play

    def think(
        self, state: State, num_simulations: int | None = None, temperature: float = 0.0, seed: int | None = None
    ) -> SearchResult:
        """Search from states ``[B]`` of games that go on.

        Args:
            state: of the games.
            num_simulations: of the search; default: the agent's.
            temperature: of the chosen moves; at 0 the search is without noise.
            seed: of the search.
        """
        self.policy.set_training_mode(False)
        search = self._tree_search(num_simulations, is_quiet=temperature == 0)
        streams = (stream_seed(seed, name) for name in ("search", "rollouts"))
        generators, rollout_generators = (root_generators(stream, len(state.ended)) for stream in streams)
        expansion = self._expansion(rollout_generators)
        return search.search(expansion.root(state), expansion, generators, temperature=temperature)

    def _choose(self, state: State, num_simulations: int | None, heat: float, seed: int) -> np.ndarray:
        """Return moves ``[B]`` in games; anything where a game has ended."""
        going = np.flatnonzero(~state.ended)
        action = np.zeros(len(state.ended), np.int64)
        if len(going) == 0:
            return action
        state = take_games(state, going)
        if num_simulations == 0:
            self.policy.set_training_mode(False)
            action[going] = np.where(self.rules.legal_actions(state), self.evaluate(state)[0], -np.inf).argmax(1)
        else:
            action[going] = self.think(state, num_simulations, heat, seed).action
        return action

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Search from the positions that observations show, ``[C, H, W]`` or ``[B, C, H, W]``.

        Args:
            observation: from an env of the game, where it is the agent's move.
            state: not used.
            episode_start: not used.
            deterministic: whether the search is without noise, the same for the same positions.
            action_masks: ``[A]`` or ``[B, A]`` bool; the rules are obeyed without them.

        Raises:
            ValueError: for observations of another shape, or a position without a legal move.
        """
        if not hasattr(self, "rules"):
            raise ValueError(f"env must be given for the rules of {self.game}, which is none of {sorted(GAMES)}")
        planes = np.asarray(observation)
        if planes.shape[-3:] != self.rules.observation_shape or planes.ndim not in (3, 4):
            raise ValueError(f"observation must have shape {self.rules.observation_shape}, got {planes.shape}")
        games = self.rules.state_of(planes.reshape(-1, *self.rules.observation_shape))
        legal = self.rules.legal_actions(games)
        if not legal.any(1).all():
            raise ValueError(f"observation must be of games with a legal move, got {observation}")
        if deterministic:
            action = self._choose(games, None, 0.0, seed=0)
        else:
            action = self._choose(games, None, 1.0, self._prediction_seed())
        return (action if planes.ndim == 4 else action[0]), state

    def seed_predictions(self, seed: int | None) -> None:
        """Draw the noise of the next predictions from a seed; None: from the agent's own, as after ``__init__``."""
        self._prediction_generator = None if seed is None else np.random.default_rng(seed)

    def _prediction_seed(self) -> int:
        if self._prediction_generator is not None:
            return int(self._prediction_generator.integers(2**62))
        self._n_predictions += 1
        return stream_seed(self.seed, f"prediction {self._n_predictions}")

    # -- learning --------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "AlphaZero",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> AlphaZero:
        """Play and train.

        Args:
            total_timesteps: moves in all games together.
            callback: as in SB3; a step is a move of every game.
            log_interval: moves of every game between two logs.
            tb_log_name: as in SB3, like the next two.
            reset_num_timesteps: whether to count anew; the games in progress, and the buffer, stay.
            progress_bar: whether to show one.
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        dones, rounds = np.ones(1, np.bool_), 0  # for callbacks: a checkpoint may be made after any move
        with self._at_work():
            while self.num_timesteps < total_timesteps:
                callback.on_rollout_start()
                examples, lengths = self._play()
                self.num_timesteps += self.num_games
                callback.update_locals(locals())
                if not callback.on_step():
                    break
                callback.on_rollout_end()
                self._keep(examples, lengths)
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                if len(self.examples) >= self.learning_starts:
                    self.train(self.gradient_steps, self.batch_size)
                rounds += 1
                if log_interval and rounds % log_interval == 0:
                    self.dump_logs()
        callback.on_training_end()
        return self

    def _at_work(self) -> AbstractContextManager[None]:
        """Return a context in which the workers exist, if there are any."""
        if isinstance(self.self_play, SelfPlay):
            return nullcontext()
        return self.self_play.at_work(self, self.executor)

    def _play(self) -> tuple[Examples, np.ndarray]:
        """Make a move in all games, or let a worker hand over one of its own."""
        if isinstance(self.self_play, SelfPlayWorkers):
            return self.self_play.move()
        self.policy.set_training_mode(False)
        return self.self_play.move(self._expansion(self.self_play.rollout_generators))

    @property
    def worker_seconds(self) -> float:
        """CPU time that workers have played for."""
        return self.self_play.seconds if isinstance(self.self_play, SelfPlayWorkers) else 0.0

    def _keep(self, examples: Examples, lengths: np.ndarray) -> None:
        assert self.ep_info_buffer is not None
        self.examples.add(examples)
        self._episode_num += len(lengths)
        self.ep_info_buffer.extend({"l": int(length)} for length in lengths)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on positions of the buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for _ in range(gradient_steps):
            batch = self.examples.sample(batch_size)
            planes, legal, policy, value = (torch.as_tensor(field, device=self.device) for field in batch)
            logits, predicted = self.policy.evaluate(planes.float())
            log_probs = logits.masked_fill(~legal, -torch.inf).log_softmax(1).masked_fill(~legal, 0.0)
            policy_loss = -(policy * log_probs).sum(1).mean()
            value_loss = F.mse_loss(predicted, value)
            self.policy.optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        target_entropy = -(policy * policy.clamp(min=1e-12).log()).sum(1).mean()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/policy_loss", policy_loss.item())
        self.logger.record("train/policy_divergence", (policy_loss - target_entropy).item())
        self.logger.record("train/value_loss", value_loss.item())

    def dump_logs(self) -> None:
        """Write the log."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/games", self._episode_num, exclude="tensorboard")
        self.logger.record("time/moves_per_second", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if self.ep_info_buffer:
            self.logger.record("rollout/game_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        self.logger.dump(step=self.num_timesteps)

    # -- saving ----------------------------------------------------------------------------------------

    def save_replay_buffer(self, path: Any) -> None:
        """Write the buffer, and the games in progress with their random numbers, as a pickle."""
        if isinstance(self.self_play, SelfPlayWorkers):
            self.self_play.gather()
        save_to_pkl(path, (self.examples, self.self_play), self.verbose)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = False) -> None:
        """Read what :meth:`save_replay_buffer` wrote; a pickle, so only files of your own.

        Games in progress of another number of workers end here, and those of this agent go on.
        """
        self.examples, games = load_from_pkl(path, self.verbose)
        if isinstance(games, SelfPlay):
            games.search = self._tree_search()
        if self.workers == (0 if isinstance(games, SelfPlay) else len(games)):
            self.self_play = games

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_prediction_generator", "examples", "executor", "rules", "self_play"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
