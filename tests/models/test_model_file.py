"""A model in a file: what comes back is what was saved, and a file that is something else is refused."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mbrl_wrappers.files import write_atomically
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.tasks.registry import REWARDS, TERMINATIONS
from mbrl_wrappers.types import Transitions

OBSERVATION_SPACE = spaces.Dict(
    speed=spaces.Box(-np.inf, np.inf, (2,), np.float64), gear=spaces.Discrete(3, start=-1), lamps=spaces.MultiBinary(2)
)
ACTION_SPACE = spaces.Box(-2.0, 1 / 3, (1,), np.float32)
FIELDS = ("next_obs", "reward", "terminated", "uncertainty")


def _reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[..., 0] - action[..., 0]


def _termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[..., 0] > 1


def _data(model: EnsembleDynamics, rows: int = 80) -> Transitions:
    generator = torch.Generator().manual_seed(0)
    obs, next_obs = (
        model.obs_codec.project(torch.randn(rows, model.obs_codec.dim, generator=generator)) for _ in range(2)
    )
    action = torch.randn(rows, model.action_codec.dim, generator=generator)
    terminated = next_obs[:, 0] > 1
    return Transitions(obs, action, obs[:, 0], next_obs, terminated, torch.arange(rows))


def _fitted(**kwargs: Any) -> EnsembleDynamics:
    settings = {"hidden": (8, 8), "num_members": 4, "num_elites": 2, "max_steps": 40, "seed": 3, "patience": 1}
    model = EnsembleDynamics(OBSERVATION_SPACE, ACTION_SPACE, **(settings | kwargs))
    model.fit(_data(model), torch.Generator().manual_seed(0))
    return model


def _predictions(model: EnsembleDynamics) -> list[Tensor]:
    data = _data(model)
    with torch.no_grad():
        made = [
            model.predict(
                data.obs, data.action, generator=torch.Generator().manual_seed(1), deterministic=deterministic
            )
            for deterministic in (True, False)
        ]
    return [getattr(prediction, name) for prediction in made for name in FIELDS]


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a saved model's tensors and its description."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["mbrl_wrappers"])


def _rewrite(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    save_file(tensors, path, metadata={"mbrl_wrappers": json.dumps(description)})


@pytest.fixture(scope="module")
def model() -> EnsembleDynamics:
    return _fitted()


@pytest.fixture
def saved(model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    model.save(path)
    return path


# ------------------------------------------------------------------------------------ round trip


def test_a_loaded_model_predicts_the_same_bits(model, saved):
    loaded = EnsembleDynamics.load(saved)
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(loaded), strict=True))


def test_everything_comes_back(model, saved):
    loaded = EnsembleDynamics.load(saved)
    assert loaded.observation_space == OBSERVATION_SPACE and loaded.action_space == ACTION_SPACE
    assert loaded.settings == model.settings
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    assert model.elites.tolist() != [0, 1]
    assert len(loaded.start_obs) == len(model.start_obs) > 0
    assert not torch.equal(loaded.input_normalizer.std, torch.ones(len(loaded.input_normalizer.std)))


def test_a_model_that_was_never_fitted_comes_back(tmp_path):
    model = EnsembleDynamics(OBSERVATION_SPACE, ACTION_SPACE, hidden=(8,))
    model.save(tmp_path / "new.safetensors")
    loaded = EnsembleDynamics.load(tmp_path / "new.safetensors")
    assert loaded.start_obs.shape == (0, 7)
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(loaded), strict=True))


@pytest.mark.filterwarnings("ignore:the model foresees none:UserWarning")  # few steps on few rows
def test_a_loaded_model_goes_on_learning_like_the_saved_one(tmp_path):
    model = _fitted()
    model.save(tmp_path / "model.safetensors")
    loaded = EnsembleDynamics.load(tmp_path / "model.safetensors")
    reports = [one.fit(_data(one, 120), torch.Generator().manual_seed(2)) for one in (model, loaded)]
    assert reports[0] == reports[1]
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(loaded), strict=True))


def test_saving_again_writes_the_same_bytes(saved, tmp_path):
    EnsembleDynamics.load(saved).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_state_dict_takes_the_elites_along(model):
    fresh = EnsembleDynamics(OBSERVATION_SPACE, ACTION_SPACE, hidden=(8, 8), num_members=4, num_elites=2, seed=8)
    fresh.load_state_dict(model.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(fresh), strict=True))


def test_path_may_be_a_string_in_a_folder_to_be_made(model, tmp_path):
    path = tmp_path / "new" / "folder" / "model"
    model.save(str(path))
    assert torch.equal(EnsembleDynamics.load(str(path)).elites, model.elites)


# ------------------------------------------------------------------------------- given functions


def test_functions_of_known_environments_are_stored_by_id(tmp_path):
    path = tmp_path / "pendulum.safetensors"
    space = spaces.Box(-8.0, 8.0, (3,), np.float32)
    model = EnsembleDynamics(space, ACTION_SPACE, hidden=(8,), reward_fn="Pendulum-v1", termination_fn="Pendulum-v1")
    model.save(path)
    loaded = EnsembleDynamics.load(path)
    assert loaded.reward_fn is REWARDS["Pendulum-v1"] and loaded.termination_fn is TERMINATIONS["Pendulum-v1"]
    assert (loaded.reward_name, loaded.termination_name) == ("Pendulum-v1", "Pendulum-v1")
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(loaded), strict=True))


@pytest.mark.filterwarnings("ignore:.*contradicts the real environment:UserWarning")  # random data obey no rule
def test_functions_of_ones_own_must_be_given_again(tmp_path):
    path = tmp_path / "own.safetensors"
    model = _fitted(reward_fn=_reward, termination_fn=_termination)
    model.save(path)
    for given, missing in (({}, "reward_fn"), ({"reward_fn": _reward}, "termination_fn")):
        with pytest.raises(
            ValueError, match=rf"own\.safetensors: {missing} must be a function of your own for this model, got None"
        ):
            EnsembleDynamics.load(path, **given)
    loaded = EnsembleDynamics.load(path, reward_fn=_reward, termination_fn=_termination)
    assert all(torch.equal(one, other) for one, other in zip(_predictions(model), _predictions(loaded), strict=True))
    assert b"_reward" not in path.read_bytes()


def test_learned_heads_stay_learned(saved):
    loaded = EnsembleDynamics.load(saved)
    assert (loaded.reward_fn, loaded.termination_fn) == (None, None)


# -------------------------------------------------------------------------------------- the file


def test_the_file_is_safetensors_from_its_first_byte_to_its_last(saved):
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["mbrl_wrappers"])
    assert description["kind"] == "EnsembleDynamics"
    assert description["format_version"] == 2
    ends = [entry["data_offsets"][1] for entry in header.values()]
    assert 8 + length + max(ends) == len(data)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                _fitted(seed=9).save(saved)
            assert saved.read_bytes() == before
            assert os.listdir(saved.parent) == [saved.name]
    assert torch.equal(EnsembleDynamics.load(saved).elites, model.elites)


def test_an_interrupt_in_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# --------------------------------------------------------------------------------- what is refused


def _refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        EnsembleDynamics.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04K\x01.", b"{}" * 100, bytes(1000)])
def test_a_file_of_something_else(content, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    _refused(path, "not a safetensors file")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    _refused(saved, "not a safetensors file")


def test_a_safetensors_file_of_something_else(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    _refused(path, "must hold a model of kind 'EnsembleDynamics', got None")
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    _refused(path, "must hold a model of kind 'EnsembleDynamics', got None")


def test_another_kind_of_model(saved):
    tensors, description = _contents(saved)
    _rewrite(saved, tensors, description | {"kind": "KnownDynamics"})
    _refused(saved, "must hold a model of kind 'EnsembleDynamics', got 'KnownDynamics'")


def test_a_file_of_a_later_release(saved):
    tensors, description = _contents(saved)
    _rewrite(saved, tensors, description | {"format_version": 3})
    _refused(saved, "must have a format_version of up to 2, got 3")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold a JSON object, got list"),
        ('{"kind": ' + 100 * "[" + 100 * "]" + "}", "nested at most 50 levels deep"),
        (100_000 * "[", "is not JSON"),
        ('{"format_version": ' + 400 * "9" + "}", "at most 40 digits, got 400"),
        ('{"kind": "' + 4_000_000 * "x" + '"}', "at most 4000000 bytes"),
    ],
)
def test_a_description_that_is_out_of_bounds(saved, description, message):
    tensors, _ = _contents(saved)
    save_file(tensors, saved, metadata={"mbrl_wrappers": description})
    _refused(saved, message)


def test_a_missing_tensor(saved):
    tensors, description = _contents(saved)
    for name in tensors:
        _rewrite(saved, {other: value for other, value in tensors.items() if other != name}, description)
        _refused(saved, rf"(?s)tensors do not fit the description.*{name}")
    _rewrite(saved, tensors | {"network.extra": torch.zeros(1)}, description)
    _refused(saved, r"(?s)tensors do not fit the description.*network\.extra")


def test_a_tensor_of_another_shape(saved):
    tensors, description = _contents(saved)
    for name, tensor in tensors.items():
        _rewrite(saved, tensors | {name: torch.zeros(11, 13, dtype=tensor.dtype)}, description)
        _refused(
            saved,
            rf"(?s)tensors do not fit the description.*(size mismatch for {name}|(start_obs|seen_range) must have)",
        )


def test_values_that_no_model_has(saved):
    tensors, description = _contents(saved)
    for name, value in (("elites", torch.tensor([0, 9])), ("elites", torch.tensor([0.0, 1.0]))):
        _rewrite(saved, tensors | {name: value}, description)
        _refused(saved, "elites must be int64 in")
    _rewrite(
        saved,
        tensors | {"target_normalizer.std": torch.full_like(tensors["target_normalizer.std"], torch.nan)},
        description,
    )
    _refused(saved, "tensor target_normalizer.std must be finite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": "1"}, "format_version"),
        ({"settings": None}, "settings of the description must be an object"),
        ({"functions": []}, "functions of the description must be an object"),
        ({"observation_space": {"type": "Text"}}, "not that of an EnsembleDynamics"),
        ({"settings": {"hiden": [8]}}, "not that of an EnsembleDynamics"),
        ({"settings": {"num_members": 0}}, "not that of an EnsembleDynamics"),
        ({"functions": {"reward_fn": "NoSuch-v0", "termination_fn": "learned"}}, "not that of an EnsembleDynamics"),
    ],
)
def test_a_description_of_no_model(saved, change, message):
    tensors, description = _contents(saved)
    _rewrite(saved, tensors, description | change)
    _refused(saved, message)


def test_a_function_for_a_model_that_learned_its_own(saved):
    with pytest.raises(ValueError, match="reward_fn must be None, since it is 'learned' there"):
        EnsembleDynamics.load(saved, reward_fn=_reward)


def test_settings_of_another_model(saved):
    tensors, description = _contents(saved)
    settings = description["settings"]
    _rewrite(saved, tensors, description | {"settings": settings | {"hidden": [8, 9]}})
    _refused(saved, "tensors do not fit the description")


def test_a_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        EnsembleDynamics.load(tmp_path / "nowhere.safetensors")
