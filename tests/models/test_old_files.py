"""Models that an older release wrote: they load and predict as they did, or are refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import save_file
from torch import Tensor

from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models import model_file as storage
from mbrl_wrappers.types import Transitions
from testing.models import seeded

OBS, ACTION = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)
NEW_SETTINGS = {"joint", "num_components", "range_margin", "averaging"}


def data_of(rows: int = 120) -> Transitions:
    obs = torch.rand(rows, 3, generator=seeded()) * 2 - 1
    action = torch.rand(rows, 2, generator=seeded(1)) * 2 - 1
    next_obs = (obs.roll(1, -1) + 0.1 * action.sum(-1, keepdim=True)).clamp(-1, 1)
    return Transitions(obs, action, obs[:, 0], next_obs, next_obs[:, 0] > 0.5, torch.arange(rows))


def as_of_format_1(model: EnsembleDynamics) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and description as the first format had them: one network, and none of what came later."""
    later = ("seen_range", "columns.changes", "input_normalizer.offset")
    tensors = {name: value for name, value in model.state_dict().items() if name not in later}
    description = model.description()
    del description["format_version"]
    settings = {name: value for name, value in description["settings"].items() if name not in NEW_SETTINGS}
    return tensors, {**description, "settings": settings}


def write_format_1(path: Path, model: EnsembleDynamics) -> None:
    tensors, description = as_of_format_1(model)
    header = {"format_version": 1, "kind": "EnsembleDynamics", **description}
    save_file(tensors, path, metadata={"mbrl_wrappers": json.dumps(header)})


@pytest.fixture(scope="module", params=[{}, {"termination_fn": "Pendulum-v1"}], ids=["learned end", "given end"])
def old(request) -> EnsembleDynamics:
    model = EnsembleDynamics(
        OBS,
        ACTION,
        hidden=(8, 8),
        num_members=4,
        num_elites=2,
        max_steps=60,
        joint=True,
        range_margin=None,
        averaging=0.0,
        **request.param,
    )
    data = data_of()
    if request.param:  # an env that never terminates
        never = torch.zeros(len(data), dtype=torch.bool)
        data = Transitions(data.obs, data.action, data.reward, data.next_obs, never, data.key)
    model.fit(data, seeded())
    return model


def test_the_tensors_are_those_of_one_network(old):
    tensors, description = as_of_format_1(old)
    assert {name.split(".")[0] for name in tensors} == {
        "network", "input_normalizer", "target_normalizer", "elites", "start_obs",
    }  # fmt: skip
    assert NEW_SETTINGS.isdisjoint(description["settings"])
    assert len(tensors["target_normalizer.mean"]) == 4  # the reward among them


@torch.no_grad()
def test_a_file_of_the_first_format_predicts_as_it_did(old, tmp_path):
    write_format_1(tmp_path / "old.safetensors", old)
    loaded = EnsembleDynamics.load(tmp_path / "old.safetensors")
    tensors, _ = as_of_format_1(old)
    data = data_of()
    for deterministic in (True, False):
        one, other = (
            m.predict(data.obs, data.action, generator=seeded(), deterministic=deterministic) for m in (old, loaded)
        )
        for name in ("next_obs", "reward", "terminated", "uncertainty"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    # And as the tensors say, worked out by hand: the mean over the elites of change and reward.
    x = (torch.cat([data.obs, data.action], -1) - tensors["input_normalizer.mean"]) / tensors["input_normalizer.std"]
    outs = []
    for member in tensors["elites"].tolist():
        hidden = x
        for layer in range(3):
            hidden = hidden @ tensors[f"network.weights.{layer}"][member] + tensors[f"network.biases.{layer}"][member]
            hidden = torch.nn.functional.silu(hidden) if layer < 2 else hidden
        outs.append(hidden[:, :4])
    target = torch.stack(outs).mean(0) * tensors["target_normalizer.std"] + tensors["target_normalizer.mean"]
    p = loaded.predict(data.obs, data.action, deterministic=True)
    torch.testing.assert_close(p.next_obs, data.obs + target[:, :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p.reward, target[:, 3], rtol=1e-4, atol=1e-5)


def test_a_description_without_a_version_is_of_the_first_format(old):
    tensors, description = as_of_format_1(old)
    model = EnsembleDynamics.from_description(description)
    assert model.settings["joint"] and model.settings["range_margin"] is None
    assert (model.settings["num_components"], model.settings["averaging"]) == (1, 0.0)
    model.load_state_dict(storage.upgraded(tensors, model))
    data = data_of()
    one, other = (m.predict(data.obs, data.action, generator=seeded()) for m in (old, model))
    assert torch.equal(one.next_obs, other.next_obs)


def test_an_old_model_goes_on_learning_and_is_written_in_the_new_format(old, tmp_path):
    write_format_1(tmp_path / "old.safetensors", old)
    loaded = EnsembleDynamics.load(tmp_path / "old.safetensors")
    loaded.settings["max_steps"] = 5
    data = data_of()
    never = torch.zeros(len(data), dtype=torch.bool)
    loaded.fit(Transitions(data.obs, data.action, data.reward, data.next_obs, never, data.key), seeded())
    loaded.save(tmp_path / "new.safetensors")
    again = EnsembleDynamics.load(tmp_path / "new.safetensors")
    assert again.settings == loaded.settings
    one, other = (m.predict(data.obs, data.action, generator=seeded()) for m in (loaded, again))
    assert torch.equal(one.next_obs, other.next_obs)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiBinary(2), spaces.Box(0, 1, (2,), np.uint8)], ids=lambda s: str(s)
)
def test_discrete_parts_of_the_first_format_are_refused_with_what_to_do(space, tmp_path):
    write_format_1(tmp_path / "old.safetensors", EnsembleDynamics(space, ACTION, hidden=(8,), joint=True))
    with pytest.raises(ValueError, match=r"old\.safetensors: the model is of an older release.*fit it anew"):
        EnsembleDynamics.load(tmp_path / "old.safetensors")


def test_a_file_of_the_first_format_with_a_missing_tensor_is_refused(old, tmp_path):
    tensors, description = as_of_format_1(old)
    header = json.dumps({"format_version": 1, "kind": "EnsembleDynamics", **description})
    for missing in ("network.weights.0", "input_normalizer.mean", "target_normalizer.std", "elites"):
        rest = {name: value for name, value in tensors.items() if name != missing}
        save_file(rest, tmp_path / "old.safetensors", metadata={"mbrl_wrappers": header})
        with pytest.raises(ValueError, match=rf"(?s)do not fit the description.*{missing}"):
            EnsembleDynamics.load(tmp_path / "old.safetensors")


def test_a_pickle_of_an_older_release_is_refused_with_what_to_do(old):
    modules = {name: module for name, module in old._modules.items() if name != "columns"}
    with pytest.raises(ValueError, match=r"pickled by an older release.*write it by dynamics\.save"):
        EnsembleDynamics.__new__(EnsembleDynamics).__setstate__({**old.__dict__, "_modules": modules})
