"""Training runs in processes of their own, so that several take the time of one.

Nothing heavy is imported here: a new process is ready for signals before it loads its libraries.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import signal
import sys
import traceback
from collections.abc import MutableSequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbrl_wrappers.zoo.training import RunSpec

STOP_SECONDS = 20.0


class TrainingFailed(RuntimeError):
    """A run ended in an error that is not the user's mistake; the message holds its traceback."""


def is_finished(spec: RunSpec, folder: Path) -> bool:
    """Tell whether a :class:`TrainingProcess` would have nothing left to do in a folder."""
    return (folder / "agent.zip").exists() and (not spec.model or (folder / "model_error.csv").exists())


class TrainingProcess:
    """One run (:func:`mbrl_wrappers.zoo.training.run`) that has been started in a process of its own.

    It computes on one thread, so that two runs on two cores do not slow each other down and numbers do
    not depend on the number of cores. With a model, it also writes ``model_error.csv`` in the end.

    Args:
        label: how the run is called on the screen.
        spec: what to train.
        folder: where to.
    """

    def __init__(self, label: str, spec: RunSpec, folder: Path) -> None:
        self.label = label
        self.folder = folder
        self.total_steps = spec.steps
        context = multiprocessing.get_context("spawn")
        self._state = context.Array("d", [0.0, 0.0, math.nan, math.nan], lock=False)
        self._errors, errors = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_train, args=(dataclasses.asdict(spec), str(folder), self._state, errors), daemon=True
        )
        self._process.start()
        errors.close()

    @property
    def steps(self) -> int:
        """Env steps done."""
        return int(self._state[0])

    @property
    def last_evaluation(self) -> tuple[int, float]:
        """Env steps before the last evaluation, and its mean return; NaN before the first one."""
        return int(self._state[1]), self._state[2]

    @property
    def model_error(self) -> float:
        """Hold-out error of the last fit, NaN before the first one."""
        return self._state[3]

    def is_running(self) -> bool:
        """Tell whether the run goes on.

        Raises:
            ValueError: if it ended in a user's mistake.
            TrainingFailed: if it ended in any other error.
        """
        is_alive = self._process.is_alive()
        if self._errors.poll():  # also while it lives: a message longer than the pipe keeps it alive until it is read
            self._raise_what_was_sent()
        if is_alive:
            return True
        self._process.join()
        if self._process.exitcode:
            raise TrainingFailed(f"the run in {self.folder} died with exit code {self._process.exitcode}")
        return False

    def _raise_what_was_sent(self) -> None:
        try:
            is_users_mistake, message = self._errors.recv()
        except (EOFError, OSError):  # it ended without a message, or was killed in the middle of one
            return
        raise ValueError(message) if is_users_mistake else TrainingFailed(f"the run in {self.folder} failed\n{message}")

    def stop(self) -> None:
        """End the process; its last checkpoint stays."""
        self._process.terminate()
        self._process.join(STOP_SECONDS)
        self._process.kill()
        self._process.join()


def _train(spec: dict[str, Any], folder: str, state: MutableSequence[float], errors: Connection) -> None:
    """Run in the new process: train, measure, and send an error instead of printing it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    try:
        _train_and_measure(spec, Path(folder), state)
    except Exception as error:
        is_users_mistake = isinstance(error, ValueError) and _is_ours(error)
        errors.send((is_users_mistake, str(error) if is_users_mistake else traceback.format_exc()))
        sys.exit(1)


def _leave(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)


def _is_ours(error: Exception) -> bool:
    """Tell whether the library itself raised an error, which then is about what the user gave."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("mbrl_wrappers.")


def _train_and_measure(spec_fields: dict[str, Any], folder: Path, state: MutableSequence[float]) -> None:
    import torch
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    from mbrl_wrappers.zoo.model_error import measure_model_error
    from mbrl_wrappers.zoo.recipe import Recipe
    from mbrl_wrappers.zoo.rows import write_rows
    from mbrl_wrappers.zoo.training import Evaluation, RunSpec, make_env, run

    torch.set_num_threads(1)
    spec = RunSpec(**{**spec_fields, "recipe": Recipe(**spec_fields["recipe"])})
    parent = multiprocessing.parent_process()

    def on_step(agent: OffPolicyAlgorithm) -> None:
        state[0] = agent.num_timesteps
        state[3] = agent.logger.name_to_value.get("dynamics/holdout_error", state[3])
        if parent is not None and not parent.is_alive():
            sys.exit(1)  # nobody is left who could stop this run, and another one may want its folder

    def on_evaluation(row: Evaluation) -> None:
        state[1], state[2] = row.steps, row.return_mean

    agent, rows = run(spec, folder, on_evaluation=on_evaluation, on_step=on_step)
    state[0] = rows[-1].steps
    on_evaluation(rows[-1])
    if spec.model and not (folder / "model_error.csv").exists():
        dynamics = agent.model_based.dynamics  # type: ignore[attr-defined]
        with make_env(spec.env) as env:
            error = measure_model_error(agent, dynamics, env, seed=spec.seed)
        write_rows(folder / "model_error.csv", error)
