"""What ``mbrl-zoo`` does, a class a command. Heavy libraries are imported when a command runs, not for its help."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from mbrl_wrappers.zoo.training.recipe import available_agents, parse_params

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.evaluation import Episode

OK, FAILED = 0, 1

Name = Annotated[Positional[str], arg(metavar="NAME|DIR")]
Folders = Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR", help_behavior_hint="")]
Env = Annotated[str | None, arg(metavar="ENV", help_behavior_hint="(default: the recorded one)")]
Assignments = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE", help_behavior_hint="")]
Function = Annotated[str | None, arg(metavar="MODULE:FUNCTION", help_behavior_hint="")]
Deterministic = Annotated[
    Literal["true", "false"] | None, arg(metavar="{true,false}", help_behavior_hint="(default: as recorded)")
]
Steps = Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: a tenth of all)")]


@dataclass(frozen=True)
class Train:
    """Train an agent and, for comparison, the same agent without a model.

    Prints a table and writes curves.png; the same command again goes on.
    """

    agent: Annotated[Positional[str], arg(metavar="AGENT", help_behavior_hint="")] = ""
    """
    alphazero, dhmbpo, dreamer, exit, i2a, m2ac, maac,
    macura, mad_td, mbpo, mve, pets, planet, poplin, rs, sac_svg, steve, svg, tdmpc2, world_models
    """
    env: Annotated[str, arg(metavar="ENV")] = "Pendulum-v1"
    """an id or package.module:Class"""
    env_kwargs: Assignments = ()
    """arguments of the env"""
    num_envs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """envs to train in at once"""
    steps: Annotated[int | None, arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """env steps"""
    seed: int = 0
    """of agents, model and episodes"""
    algo: Annotated[str | None, arg(metavar="ALGO", help_behavior_hint="(default: by action space)")] = None
    """SAC, TD3, DDPG, TQC, CrossQ, DQN or QRDQN"""
    params: Assignments = ()
    """changes to the recipe; --help AGENT lists all"""
    recipe: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the library's)")] = None
    """recipes of your own"""
    folder: Annotated[Path | None, arg(aliases=["-f"], metavar="DIR", help_behavior_hint="(default: in runs)")] = None
    """where to write"""
    resume: Annotated[Path | None, arg(aliases=["-i"], metavar="DIR", help_behavior_hint="")] = None
    """go on with a run of yours; with -n, for longer"""
    eval_freq: Steps = None
    """env steps between evaluations"""
    eval_episodes: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 20; planners: 5)")] = None
    """episodes of an evaluation"""
    deterministic: Annotated[Deterministic, arg(help_behavior_hint="(default: the recipe's)")] = None
    """the policy's mode, not a sample"""
    save_freq: Steps = None
    """env steps between checkpoints, 0 for none"""
    device: Annotated[str, arg(metavar="DEVICE")] = "cpu"
    """cpu, cuda or auto"""
    track: Literal["tensorboard", "wandb"] | None = None
    """log what SB3 logs"""
    progress: bool = True
    """show a progress bar"""
    baseline: bool = True
    """train the agent without a model too"""
    with_optimizer: bool = False
    """keep optimizer and replay buffer"""
    executor: Literal["local", "ray"] = "local"
    """where an agent's workers (agent.workers in params) live: processes here, or actors of a Ray cluster"""
    address: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="(default: a cluster of its own)")] = (
        None
    )
    """of the Ray cluster"""

    def run(self) -> int:
        """Run the command."""
        params, env_kwargs = parse_params(self.params), parse_params(self.env_kwargs, "env_kwargs")
        if self.resume is not None:
            self._check_that_nothing_else_is_given()
        elif not self.agent:
            raise ValueError(f"agent must be one of {available_agents()}, or --resume given, got neither")

        from rich.console import Console

        from mbrl_wrappers.zoo.comparison import default_folder, resume, train
        from mbrl_wrappers.zoo.terminal import result_table, size_text

        folder = self.resume or self.folder or default_folder(self.agent, self.env, self.seed)
        try:
            if self.resume is not None:
                training = resume(
                    folder,
                    steps=self.steps,
                    track=self.track,
                    with_optimizer=self.with_optimizer,
                    progress_bar=self.progress,
                    executor=self.executor,
                    address=self.address,
                    tell=say,
                )
            else:
                training = train(
                    self.agent,
                    self.env,
                    steps=self.steps,
                    seed=self.seed,
                    algo=self.algo,
                    params=params,
                    recipe=self.recipe,
                    env_kwargs=env_kwargs,
                    num_envs=self.num_envs,
                    folder=folder,
                    eval_freq=self.eval_freq,
                    eval_episodes=self.eval_episodes,
                    deterministic=_truth(self.deterministic),
                    save_freq=self.save_freq,
                    device=self.device,
                    track=self.track,
                    baseline=self.baseline,
                    with_optimizer=self.with_optimizer,
                    progress_bar=self.progress,
                    executor=self.executor,
                    address=self.address,
                    tell=say,
                )
        except (KeyboardInterrupt, SystemExit):  # the latter by SIGTERM
            say(_where_it_goes_on(folder))
            raise
        alone = len(training.curves) == 1
        title = " vs ".join(training.curves) + ("" if alone else " (same agent, no model, equal updates)")
        console = Console()
        console.print(result_table(f"{training.spec.env}\n{title}", training.curves, training.spec.eval_episodes))
        console.print(f"Curves: {folder / 'curves.png'}", soft_wrap=True, highlight=False)
        console.print(f"Agents: {folder}/*", soft_wrap=True, highlight=False)
        if size := sum(file.stat().st_size for file in folder.glob("*/checkpoint/*")):
            more = self._longer(folder, 2 * training.spec.steps)
            text = f"Longer: {more} (for which {folder}/*/checkpoint keep {size_text(size)})"
            console.print(text, soft_wrap=True, highlight=False)
        return OK

    def _longer(self, folder: Path, steps: int) -> str:
        """Return the command that goes on to more steps, with the options that no run keeps for itself."""
        words = ["mbrl-zoo", "train", "--resume", str(folder), "-n", str(steps)]
        for name in ("track", "executor", "address"):
            if (value := getattr(self, name)) != getattr(Train(), name):
                words += [f"--{name}", value]
        return shlex.join([*words, *["--with-optimizer"] * self.with_optimizer])

    def _check_that_nothing_else_is_given(self) -> None:
        own = {"agent", "resume", "steps", "track", "progress", "with_optimizer", "executor", "address"}
        default = Train(self.agent)
        given = [name for name in vars(self) if name not in own and getattr(self, name) != getattr(default, name)]
        if given:
            raise ValueError(f"resume goes on with the arguments of the run in {self.resume}, leave out {given}")


def _where_it_goes_on(folder: Path) -> str:
    """Tell the user what an interrupted run has kept."""
    from mbrl_wrappers.imagination import checkpoint_extra, has_checkpoint

    kept = [path for path in sorted(folder.glob("*/")) if has_checkpoint(path / "checkpoint")]
    if not kept:
        return "interrupted before the first checkpoint: the same command starts anew"
    steps = " and ".join(f"step {checkpoint_extra(path / 'checkpoint')['steps']} of {path}" for path in kept)
    return f"interrupted: the same command goes on from {steps}"


@dataclass(frozen=True)
class Doctor:
    """Look an env over before you train on it: faults, a small model, what to train.

    The exit code is 1 if there are faults.
    """

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """Gymnasium id or package.module:Class"""
    env_kwargs: Assignments = ()
    """arguments of the env"""
    reward_fn: Function = None
    """a reward function of yours to compare with the env"""
    termination_fn: Function = None
    """a rule for terminations to compare with the env"""
    steps: Annotated[int, arg(aliases=["-n"], metavar="N")] = 3000
    """random steps to take"""
    seed: int = 0
    """of everything random"""
    model: bool = True
    """fit a small model"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.doctor import examine
        from mbrl_wrappers.zoo.doctor.text import text_of
        from mbrl_wrappers.zoo.environment import import_function

        result = examine(
            self.env,
            env_kwargs=parse_params(self.env_kwargs, "env_kwargs"),
            reward_fn=import_function("reward_fn", self.reward_fn),
            termination_fn=import_function("termination_fn", self.termination_fn),
            steps=self.steps,
            seed=self.seed,
            model=self.model,
            estimate=self.model,
        )
        print(text_of(result))
        return FAILED if result.faults else OK


@dataclass(frozen=True)
class List:
    """List the zoo's agents: their returns, their env steps, and where they lie."""

    agent: Annotated[str, arg(metavar="AGENT")] = ""
    """only this agent's"""
    env: Annotated[str, arg(metavar="ENV")] = ""
    """only this env's"""
    agents: bool = False
    """list what train can train, with the papers"""
    markdown: bool = False
    """as a table for a page"""

    def run(self) -> int:
        """Run the command."""
        from rich.console import Console

        from mbrl_wrappers.zoo.catalogue.lookup import places, try_to_open
        from mbrl_wrappers.zoo.registry import agent_table
        from mbrl_wrappers.zoo.terminal import algorithm_table, catalogue_markdown, catalogue_table

        if self.agents:
            Console().print(algorithm_table()) if not self.markdown else print(agent_table())
            return OK
        wanted = [place for place in places() if self._is_wanted(place.name)]
        found = [(place, try_to_open(place)) for place in wanted]
        Console().print(catalogue_table(found)) if not self.markdown else print(catalogue_markdown(found))
        return OK

    def _is_wanted(self, name: str) -> bool:
        agent, _, env = name.partition("/")
        return self.agent in ("", agent) and self.env in ("", env)


@dataclass(frozen=True)
class Pull:
    """Download an agent from the Hugging Face Hub, pinned by an index."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """such as mbpo/Hopper-v5"""
    index: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the library's)")] = None
    """an index of your own, as push writes it"""
    force: bool = False
    """download again what is there"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.catalogue.hub import pull
        from mbrl_wrappers.zoo.catalogue.index import embedded, read_index

        if self.index is None and self.name in embedded():
            print(f"{self.name} ships with the library: {embedded()[self.name]}")
            return OK
        index = None if self.index is None else read_index(self.index)
        print(pull(self.name, index=index, force=self.force))
        return OK


@dataclass(frozen=True)
class Push:
    """Upload an agent's folder to the Hugging Face Hub; print its index entry."""

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """as export writes it"""
    repo: Annotated[str, arg(metavar="ORG/NAME")]
    """where to"""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: agent/env)")] = None
    """what the index calls it"""
    index: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """an index of your own to add the agent to"""
    private: bool = False
    """make a new repository private"""

    def run(self) -> int:
        """Run the command."""
        import json

        from mbrl_wrappers.zoo.catalogue.hub import push
        from mbrl_wrappers.zoo.catalogue.index import check_agent_name, index_entry_json, read_index, write_index
        from mbrl_wrappers.zoo.catalogue.lookup import open_agent
        from mbrl_wrappers.zoo.environment import in_file_names

        folder = open_agent(self.folder)
        name = self.name or f"{folder.name.lower()}/{in_file_names(folder.env.name)}"
        check_agent_name(name)
        known = read_index(self.index) if self.index is not None and self.index.exists() else {}
        entry = push(folder.path, self.repo, private=self.private)
        print(json.dumps({name: index_entry_json(entry)}, indent=1))
        if self.index is not None:
            write_index(self.index, {**known, name: entry})
        return OK


@dataclass(frozen=True)
class Enjoy:
    """Watch an agent play."""

    name: Name
    """the zoo's name of an agent, or a folder"""
    episodes: int = 5
    """how many"""
    seed: int = 12345
    """of the first episode"""
    env: Env = None
    """Gymnasium id or package.module:Class to play in"""
    record: Annotated[Path | None, arg(metavar="FILE.mp4", help_behavior_hint="")] = None
    """write a video; without a screen, enjoy.mp4"""
    render: bool = True
    """open a window"""
    deterministic: Deterministic = None
    """the policy's mode, not a sample"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.cli.enjoyment import enjoy, has_screen

        record = self.record
        if self.render and record is None and not has_screen():
            record = Path("enjoy.mp4")
            say(f"there is no screen (DISPLAY is not set): the episodes go into {record}; --no-render plays without")
        window = self.render and record is None
        played = enjoy(
            self.name,
            episodes=self.episodes,
            seed=self.seed,
            env=self.env,
            render=window,
            record=record,
            deterministic=_truth(self.deterministic),
        )
        for episode in played:
            print(f"seed {episode.seed}: return {episode.total_reward:.2f} in {episode.length} steps")
        print(_summary(played))
        if record is not None:
            print(f"Video: {record}")
        return OK


@dataclass(frozen=True)
class Dream:
    """Watch an agent play inside its own model, or play there yourself."""

    name: Name
    """the zoo's name of an agent, or a folder"""
    episodes: int = 1
    """how many"""
    steps: int = 200
    """of an episode"""
    seed: int = 12345
    """of the first episode"""
    temperature: Annotated[float | None, arg(metavar="T", help_behavior_hint="(default: the model's own)")] = None
    """below 1 for dreams more certain than the model is, above 1 for less certain ones"""
    record: Annotated[Path | None, arg(metavar="FILE.mp4", help_behavior_hint="")] = None
    """write a video"""
    keyboard: bool = False
    """choose the actions yourself; Ctrl-D quits after the episodes that have ended (exit code 0)"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.cli.dreaming import dream

        played = dream(
            self.name,
            episodes=self.episodes,
            steps=self.steps,
            seed=self.seed,
            temperature=self.temperature,
            record=self.record,
            by_keyboard=self.keyboard,
        )
        for episode in played:
            print(f"seed {episode.seed}: dreamed return {episode.total_reward:.2f} in {episode.length} steps")
        if self.record is not None:
            print(f"Video: {self.record}" if played else "No video: no episode came to its end")
        return OK


@dataclass(frozen=True)
class Evaluate:
    """Play episodes with an agent and print their mean return."""

    name: Name
    """the zoo's name of an agent, or a folder"""
    episodes: int = 20
    """how many"""
    seed: int = 12345
    """of the first episode"""
    env: Env = None
    """Gymnasium id or package.module:Class to play in"""
    device: Annotated[str, arg(metavar="DEVICE")] = "cpu"
    """cpu, cuda or auto"""
    deterministic: Deterministic = None
    """the policy's mode, not a sample"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.catalogue.verification import evaluate

        played = evaluate(
            self.name,
            episodes=self.episodes,
            seed=self.seed,
            env=self.env,
            device=self.device,
            deterministic=_truth(self.deterministic),
        )
        print(_summary(played))
        return OK


@dataclass(frozen=True)
class Verify:
    """Play an agent's recorded evaluation again: match, drift or incompatible.

    The exit code is 0 for a match only.
    """

    name: Name
    """the zoo's name of an agent, or a folder"""
    env: Env = None
    """Gymnasium id or package.module:Class to play in"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.catalogue.verification import verify

        verdict = verify(self.name, env=self.env)
        print(f"{verdict.status}: {verdict.reason}")
        return OK if verdict.status == "match" else FAILED


@dataclass(frozen=True)
class Export:
    """Write the median run's agent, all runs on its card, into a new folder."""

    runs: Folders
    """finished runs that differ in their seed only"""
    to: Annotated[Path, arg(metavar="DIR")]
    """a new folder"""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """the zoo's name for the agent, for its card"""
    with_optimizer: bool = False
    """keep optimizer and replay buffer"""
    episodes: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the run's last evaluation)")] = None
    """episodes to play for the card"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.catalogue.saving import export
        from mbrl_wrappers.zoo.terminal import size_text

        folder = export(self.runs, self.to, name=self.name, with_optimizer=self.with_optimizer, episodes=self.episodes)
        print(f"{folder.path}: {size_text(folder.total_bytes)}")
        return OK


@dataclass(frozen=True)
class Import:
    """Turn a zip of Stable-Baselines3 into an agent's folder, without unpickling it."""

    file: Annotated[Positional[Path], arg(metavar="FILE.zip")]
    """written by agent.save"""
    env: Annotated[str, arg(metavar="ENV")]
    """Gymnasium id or package.module:Class that it was trained on"""
    to: Annotated[Path, arg(metavar="DIR")]
    """a new folder"""
    algo: Annotated[str | None, arg(metavar="ALGO", help_behavior_hint="(default: by the zip's entries)")] = None
    """the agent's class, such as SAC"""
    normalize: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the .pkl next to the zip)")] = (
        None
    )
    """VecNormalize's statistics: what its save wrote, or JSON"""
    plain: bool = False
    """take no statistics, whatever lies next to the zip"""
    eval_episodes: int = 20
    """episodes of the evaluation that is recorded"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.catalogue.sb3_import import import_sb3

        notes = import_sb3(
            self.file,
            self.to,
            env=self.env,
            algo=self.algo,
            normalize=False if self.plain else self.normalize,
            episodes=self.eval_episodes,
        )
        for note in notes:
            say(note)
        print(self.to)
        return OK


@dataclass(frozen=True)
class Benchmark:
    """Train agents x envs x seeds; what is done is kept, and the same command goes on."""

    spec: Annotated[Positional[Path], arg(metavar="SPEC.yml")]
    """agents, envs, seeds and settings as YAML literals"""
    folder: Annotated[Path | None, arg(aliases=["-f"], metavar="DIR", help_behavior_hint="(default: runs/SPEC)")] = None
    """where to write, a folder a job"""
    executor: Literal["local", "ray"] = "local"
    """processes here, or tasks of a Ray cluster"""
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: one a core)")] = None
    """jobs at the same time"""
    address: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="(default: a cluster of its own)")] = (
        None
    )
    """of the Ray cluster"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.sweeps.executors import Executor, LocalExecutor, Outcome
        from mbrl_wrappers.zoo.sweeps.sweep import read_sweep, run_sweep

        executor: Executor
        if self.executor == "ray":
            from mbrl_wrappers.zoo.sweeps.ray_executor import RayExecutor

            executor = RayExecutor(self.address, self.workers)
        else:
            executor = LocalExecutor(self.workers)
        folder = self.folder or Path("runs") / self.spec.stem
        specs = read_sweep(self.spec)
        ended = 0

        def on_update(outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            spec = outcome.spec
            how = "failed" if outcome.error is not None else "finished" if outcome.was_run else "was finished"
            print(f"{ended}/{len(specs)}  {spec.label()} on {spec.env}, seed {spec.seed}: {how}", flush=True)

        run_sweep(specs, folder, executor, on_update=on_update)
        print(f"Jobs: {folder}; pictures: {shlex.join(['mbrl-zoo', 'report', str(folder)])}")
        return OK


@dataclass(frozen=True)
class Tune:
    """Search for better settings on an env with Optuna; the same command goes on."""

    agent: Annotated[Positional[str], arg(metavar="AGENT")]
    """as for train"""
    env: Annotated[str, arg(metavar="ENV")]
    """Gymnasium id or package.module:Class"""
    env_kwargs: Assignments = ()
    """arguments of the env"""
    num_envs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """envs to train in at once"""
    trials: Annotated[int, arg(aliases=["-t"], metavar="N")] = 20
    """settings to try in all"""
    steps: Annotated[int | None, arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: the recipe's)")] = None
    """env steps of each"""
    seed: int = 0
    """of all runs and choices"""
    algo: Annotated[str | None, arg(metavar="ALGO", help_behavior_hint="(default: by action space)")] = None
    """as for train"""
    params: Assignments = ()
    """changes to the recipe that stay as they are"""
    recipe: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the library's)")] = None
    """recipes of your own"""
    folder: Annotated[Path | None, arg(aliases=["-f"], metavar="DIR", help_behavior_hint="(default: in runs)")] = None
    """where to write"""
    workers: Annotated[int, arg(metavar="N")] = 1
    """settings to try at a time, on a core each"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.environment import in_file_names
        from mbrl_wrappers.zoo.sweeps.processes import sigterm_exits
        from mbrl_wrappers.zoo.sweeps.tuning import change, tune
        from mbrl_wrappers.zoo.training.command import command_of

        folder = self.folder or Path("runs") / f"tune_{self.agent}_{in_file_names(self.env)}"
        with sigterm_exits():
            found = tune(
                self.agent,
                self.env,
                folder=folder,
                trials=self.trials,
                workers=self.workers,
                seed=self.seed,
                steps=self.steps,
                algo=self.algo,
                params=parse_params(self.params),
                recipe=self.recipe,
                env_kwargs=parse_params(self.env_kwargs, "env_kwargs"),
                num_envs=self.num_envs,
                tell=lambda sentence: print(sentence, flush=True),
            )
        plain = "" if found.plain is None else f"; the recipe itself: {found.plain.value:.1f}"
        print(f"\nBest: trial {found.best.number}, return {found.best.value:.1f} with seed {self.seed}{plain}\n")
        print("What it changes in the recipe:" if found.changes else "It is the recipe itself.")
        for name, (own, best) in found.changes.items():
            print(f"  {name}: {change(own, best)}")
        print(f"\n{found.file}:\n{found.file.read_text(encoding='utf-8')}")
        print("Train it with another seed:")
        print(command_of(replace(found.job, seed=self.seed + 1), found.file))
        return OK


@dataclass(frozen=True)
class Report:
    """Write curves, tables and videos of runs into one page that opens offline."""

    folders: Folders
    """agents' folders, training runs, or the folder of a benchmark"""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE.html")] = Path("report.html")
    """where to write"""
    env: Env = None
    """Gymnasium id or package.module:Class of all runs, which may be imported"""
    videos: bool = True
    """show real next to imagined episodes"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.report import build_report

        print(build_report(self.folders, self.output, env=self.env, videos=self.videos))
        return OK


@dataclass(frozen=True)
class Play:
    """Play a board game against an agent in the terminal, and see what it thinks."""

    name: Name
    """the zoo's name of an agent that plays a game, or a folder"""
    against: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: you)")] = None
    """another agent, or random, one_ply, perfect, endgame or uct_N with N simulations; Ctrl-D resigns (exit code 0)"""
    simulations: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the agent's)")] = None
    """of each search"""
    first: bool = True
    """you begin"""
    seed: int = 0
    """of all random numbers"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.cli.board_games import play_against_agent

        outcome = play_against_agent(
            self.name, self.against, num_simulations=self.simulations, begins=self.first, seed=self.seed
        )
        who = "You have" if self.against is None else f"{self.against} has"
        print({1: f"{who} won", 0: "A draw", -1: f"{who} lost"}[outcome])
        return OK


@dataclass(frozen=True)
class Match:
    """Let players of a game meet, everybody everybody, and rate them by Elo."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")]
    """agents, folders, or random, one_ply, perfect, endgame or uct_N with N simulations"""
    games: Annotated[int, arg(aliases=["-n"], metavar="N")] = 100
    """of each match; each player begins in half of them"""
    game: Annotated[str | None, arg(metavar="GAME", help_behavior_hint="(default: the agents')")] = None
    """its name, where no agent plays"""
    simulations: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the agents')")] = None
    """of each search of an agent"""
    random_opening: Annotated[int, arg(metavar="N")] = 0
    """random moves that games begin with: without any, two AlphaZeros play the same two games over and over"""
    seed: int = 0
    """of all random numbers"""

    def run(self) -> int:
        """Run the command."""
        from mbrl_wrappers.zoo.cli.board_games import play_matches

        for line in play_matches(
            self.names,
            game=self.game,
            num_games=self.games,
            num_simulations=self.simulations,
            seed=self.seed,
            random_opening=self.random_opening,
        ):
            print(line)
        return OK


COMMANDS: dict[str, Callable[..., Any]] = {
    "doctor": Doctor,
    "train": Train,
    "list": List,
    "enjoy": Enjoy,
    "dream": Dream,
    "evaluate": Evaluate,
    "play": Play,
    "match": Match,
    "verify": Verify,
    "tune": Tune,
    "report": Report,
    "benchmark": Benchmark,
    "export": Export,
    "import": Import,
    "pull": Pull,
    "push": Push,
}


def say(message: str) -> None:
    """Print one line to stderr, whatever line breaks the message has."""
    print("mbrl-zoo:", " ".join(message.split()), file=sys.stderr)


def _truth(value: Literal["true", "false"] | None) -> bool | None:
    return None if value is None else value == "true"


def _summary(played: list[Episode]) -> str:
    from mbrl_wrappers.zoo.evaluation import mean_and_std

    mean, std = mean_and_std(played)
    return f"return {mean:.2f} ± {std:.2f} over {len(played)} episodes"
