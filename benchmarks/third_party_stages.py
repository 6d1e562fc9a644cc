"""What is tried in one env, each stage in a process of its own: STAGE ENV FOLDER NUM_TRAIN NUM_TEST SETTINGS."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from third_party_envs import TASKS, Task, collect
from third_party_rows import (
    Array,
    Data,
    Predict,
    Rows,
    changing_columns,
    load_rows,
    save_rows,
    skills,
    update_record,
)

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.spaces import space_from_json, space_to_json
from mbrl_wrappers.types import Transitions


class Spaces(gym.Env[Any, Any]):
    """What a model needs of an env, so that it can be fitted again where the env is not installed."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.observation_space = space_from_json(described["observation"])
        self.action_space = space_from_json(described["action"])


# -- the models ---------------------------------------------------------------------------------


def as_transitions(rows: Rows) -> Transitions:
    return Transitions(
        obs=torch.as_tensor(rows.obs),
        action=torch.as_tensor(rows.action).float(),
        reward=torch.as_tensor(rows.reward).float(),
        next_obs=torch.as_tensor(rows.next_obs),
        terminated=torch.as_tensor(rows.terminated),
        key=torch.arange(len(rows)),
    )


def fit_ours(data: Data, settings: dict[str, Any]) -> tuple[EnsembleDynamics, dict[str, Any]]:
    """Return the library's model and what there is to say of it."""
    model = EnsembleDynamics.for_env(Spaces(data.spaces), **settings)
    start = time.process_time()
    logs = model.fit(as_transitions(data.train), generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - start
    found = {"fit_seconds": seconds, "rows": len(data.train), "settings": settings, "logs": logs}
    return model, {**found, **heads(model, data), **skills(mean_of(model), data)}


def mean_of(model: EnsembleDynamics) -> Predict:
    @torch.no_grad()
    def predict(obs: Array, action: Array) -> Array:
        prediction = model.predict(torch.as_tensor(obs), torch.as_tensor(action), deterministic=True)
        return prediction.next_obs.double().numpy()

    return predict


@torch.no_grad()
def heads(model: EnsembleDynamics, data: Data) -> dict[str, Any]:
    """Tell how terminations and rewards of the test rows are foreseen."""
    rows = as_transitions(data.test)
    prediction = model.predict(rows.obs, rows.action, deterministic=True)
    real, said = data.test.terminated, prediction.terminated.numpy()
    error, spread = data.test.reward - prediction.reward.double().numpy(), data.test.reward.var()
    return {
        "ends_in_train": int(data.train.terminated.sum()),
        "ends": int(real.sum()),
        "ends_foreseen": int(said.sum()),
        "ends_met": int((real & said).sum()),
        "reward_r2": float(1 - np.square(error).mean() / spread) if spread > 0 else None,
    }


def fit_trees(train: Rows) -> Predict:
    """Return a histogram gradient boosting for the change of each column that ever changes."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, change = np.hstack([train.obs, train.action]), train.next_obs - train.obs
    trees = {
        column: HistGradientBoostingRegressor(random_state=0).fit(x, change[:, column])
        for column in np.flatnonzero(changing_columns(train))
    }

    def predict(obs: Array, action: Array) -> Array:
        x, next_obs = np.hstack([obs, action]), obs.copy()
        for column, tree in trees.items():
            next_obs[:, column] += tree.predict(x)
        return next_obs

    return predict


# -- the stages ---------------------------------------------------------------------------------


def run_stage(stage: str, task: Task, folder: Path, num_train: int, num_test: int, settings: dict[str, Any]) -> None:
    """Do one stage and put what it found into the env's record, or the error."""
    rows, record, weights = (folder / f"{task.file}{suffix}" for suffix in (".npz", ".json", ".safetensors"))
    try:
        if stage == "collect":
            env = task.make()
            described = {"observation": space_to_json(env.observation_space), "action": space_to_json(env.action_space)}
            start = time.process_time()
            save_rows(rows, collect(env, num_train + num_test), num_train, described)
            update_record(record, stage, {"seconds": time.process_time() - start})
        elif stage == "hgb":
            data, start = load_rows(rows), time.process_time()
            predict = fit_trees(data.train)
            seconds = time.process_time() - start
            update_record(record, stage, {"fit_seconds": seconds, **skills(predict, data)})
        elif stage == "ours":
            model, found = fit_ours(load_rows(rows), settings)
            model.save(weights)
            update_record(record, stage, found)
        else:
            from third_party_uses import try_uses  # an SB3 to import, which no other stage needs

            model = EnsembleDynamics.load(weights)
            try_uses(task, model, lambda answers: update_record(record, stage, answers))
    except Exception as error:
        update_record(record, stage, {"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    stage, name, folder, num_train, num_test, settings = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = next(task for task in TASKS if task.name == name)
    run_stage(stage, task, Path(folder), int(num_train), int(num_test), json.loads(settings))


if __name__ == "__main__":
    main()
