"""The records: what Transitions refuses, and how rows are taken from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mbrl_wrappers.types import Prediction, Transitions

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "key")


def _fields(rows: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "obs": torch.randn(rows, 3, generator=generator),
        "action": torch.randn(rows, 2, generator=generator),
        "reward": torch.randn(rows, generator=generator),
        "next_obs": torch.randn(rows, 3, generator=generator),
        "terminated": torch.arange(rows) % 3 == 0,
        "key": torch.arange(rows) + 10,
    }


def test_length_and_rows():
    fields = _fields()
    transitions = Transitions(**fields)
    assert len(transitions) == 6
    mask = torch.tensor([True, False, True, False, False, True])
    for rows in (slice(1, 4), mask, torch.tensor([5, 0, 0]), slice(0, 0)):
        taken = transitions[rows]
        assert isinstance(taken, Transitions)
        for name in FIELDS:
            assert torch.equal(getattr(taken, name), fields[name][rows])


@pytest.mark.parametrize("record", [Transitions, Prediction])
def test_records_are_frozen(record):
    values = _fields() if record is Transitions else dict.fromkeys(("next_obs", "reward", "terminated", "uncertainty"))
    instance = record(**values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.reward = torch.zeros(6)


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_row(name, bad):
    fields = _fields()
    fields[name][4:] = bad
    with pytest.raises(ValueError, match=rf"Transitions\.{name} must be finite, got .*(nan|inf).* in row 4$"):
        Transitions(**fields)


@pytest.mark.parametrize("name", FIELDS[1:])
def test_another_number_of_rows_is_named(name):
    fields = _fields()
    fields[name] = fields[name][:-1]
    with pytest.raises(ValueError, match=rf"Transitions\.{name} must have 6 rows like obs, got 5"):
        Transitions(**fields)


@pytest.mark.parametrize("name", FIELDS)
def test_another_shape_is_named(name):
    fields = _fields()
    fields[name] = fields[name][..., None]
    with pytest.raises(ValueError, match=rf"Transitions\.{name} must have shape \[N.*\], got \(6, .*1\)"):
        Transitions(**fields)


def test_no_rows_at_all_are_a_record_too():
    assert len(Transitions(**_fields(0))) == 0
