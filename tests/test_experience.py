"""Experience in memory is given back as it happened: as rows, and as sequences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_wrappers.experience import Episodes, drawn_starts
from mbrl_wrappers.types import Transitions


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(lengths: list[int], dtype: torch.dtype = torch.float32) -> tuple[Transitions, Tensor]:
    """Make steps whose observations are [episode, step]; every other episode terminates, the others are cut."""
    rows = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    obs = torch.tensor(rows).to(dtype)
    next_obs = obs + torch.tensor([0, 1]).to(dtype)
    ended = torch.tensor([step + 1 == lengths[episode] for episode, step in rows])
    terminated = ended & torch.tensor([episode % 2 == 0 for episode, _ in rows])
    index = torch.arange(len(rows))
    return Transitions(obs, index[:, None] + 1.0, 10.0 * index, next_obs, terminated, index), ended


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("lengths", [[1], [4], [1, 1, 1], [3, 2, 5, 1]])
def test_rows_of_steps_are_the_steps(lengths: list[int], dtype: torch.dtype) -> None:
    steps, ended = told(lengths, dtype)
    episodes = Episodes.from_steps(steps, ended)
    assert len(episodes) == sum(lengths) + len(lengths)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "key"):
        found, expected = getattr(episodes.rows(), name), getattr(steps, name)
        assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_an_episode_that_goes_on_at_the_end_is_kept_too() -> None:
    steps, ended = told([3, 3])
    found = Episodes.from_steps(steps[:5], ended[:5])
    assert torch.equal(found.rows().obs, steps.obs[:5]) and len(found) == 5 + 2


def test_sequences_are_what_happened() -> None:
    steps, ended = told([3, 1, 4, 2])
    found = Episodes.from_steps(steps, ended).sequences(500, 5, seeded())
    assert found.obs.shape == (500, 5, 2) and found.action.shape == (500, 5, 1) and found.reward.shape == (500, 5)
    row_of = {tuple(obs): row for row, obs in enumerate(steps.next_obs.tolist())}
    for sequence in range(500):
        for t in range(5):
            episode, step = found.obs[sequence, t].tolist()
            is_first = step == 0
            assert bool(found.is_first[sequence, t]) == is_first
            if is_first:
                assert found.action[sequence, t] == found.reward[sequence, t] == 0
                assert not found.terminated[sequence, t]
            else:
                row = row_of[episode, step]
                assert found.action[sequence, t] == row + 1 and found.reward[sequence, t] == 10 * row
                assert found.terminated[sequence, t] == steps.terminated[row]
            if t:
                before = found.obs[sequence, t - 1].tolist()
                assert [episode, step] == ([before[0] + 1, 0] if is_first else [before[0], before[1] + 1])


def test_what_stands_beside_a_first_observation_is_not_used() -> None:
    obs = torch.arange(4.0)[:, None]
    is_first = torch.tensor([True, False, True, False])
    noise = torch.tensor([torch.nan, 7.0, torch.nan, 7.0])
    episodes = Episodes(obs, noise[:, None], noise, torch.tensor([True, True, True, False]), is_first)
    found = episodes.sequences(1, 4, seeded())
    assert found.action[0, :, 0].tolist() == found.reward[0].tolist() == [0, 7, 0, 7]
    assert found.terminated[0].tolist() == [False, True, False, False]


@pytest.mark.parametrize("entries", [[10], [4, 9, 2, 3], [3, 3]])
def test_every_start_is_as_likely_as_any_other(entries: list[int]) -> None:
    stream, start = drawn_starts(entries, 60_000, 3, seeded())
    places = [(own, at) for own, length in enumerate(entries) for at in range(length - 2)]
    counts = [int(((stream == own) & (start == at)).sum()) for own, at in places]
    assert sum(counts) == 60_000
    assert min(counts) > 0.9 * 60_000 / len(places)


def test_the_same_generator_draws_the_same() -> None:
    episodes = Episodes.from_steps(*told([5, 5]))
    one, two, other = (episodes.sequences(9, 3, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.obs, other.obs)


def entries(**changes: Any) -> Episodes:
    is_first = torch.tensor([True, False, False])
    fields = {
        "obs": torch.zeros(3, 2), "action": torch.zeros(3, 1), "reward": torch.zeros(3),
        "terminated": torch.zeros(3, dtype=torch.bool), "is_first": is_first,
    }  # fmt: skip
    return Episodes(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": torch.zeros(2, 1)}, r"action must have shape \[3, width\], got \(2, 1\)"),
        ({"is_first": torch.zeros(3, dtype=torch.bool)}, r"is_first must begin with True, got \[False\]"),
        (
            {"terminated": torch.tensor([False, True, False])},
            "is_first must be True behind a termination, got False behind entry 1",
        ),
        ({"reward": torch.tensor([0.0, torch.nan, 0.0])}, "reward must be finite, got nan in row 0"),
        ({"action": torch.zeros(3)}, r"action must have shape \[3, width\], got \(3,\)"),
        ({"is_first": torch.tensor([1, 0, 0])}, "is_first must have dtype torch.bool, got torch.int64"),
        (
            {"obs": torch.tensor([[torch.nan], [1.0], [2.0]]), "is_first": torch.tensor([True, True, False])},
            r"obs must be finite, got \[nan\] in entry 0",
        ),
    ],
)
def test_entries_that_are_no_episodes_are_refused(changes: dict[str, Any], message: str) -> None:
    entries()
    with pytest.raises(ValueError, match=message):
        entries(**changes)


def test_steps_that_are_no_episodes_are_refused() -> None:
    steps, ended = told([3, 2])
    with pytest.raises(ValueError, match=r"ended must have shape \(5,\) and dtype torch.bool, got \(4,\)"):
        Episodes.from_steps(steps, ended[:4])
    with pytest.raises(ValueError, match=r"ended must have shape .* got \(5,\) and torch.int64"):
        Episodes.from_steps(steps, ended.long())
    with pytest.raises(ValueError, match="steps must hold at least one row, got 0"):
        Episodes.from_steps(steps[:0], ended[:0])
    with pytest.raises(ValueError, match=r"ended must be True where steps.terminated is, got False in row 2"):
        Episodes.from_steps(steps, torch.zeros_like(ended))
    with pytest.raises(ValueError, match=r"must be the next_obs before it within an episode, got another in row 2"):
        Episodes.from_steps(steps[torch.tensor([0, 1, 3])], torch.zeros(3, dtype=torch.bool))


def test_what_can_not_be_drawn_is_refused() -> None:
    steps, ended = told([3])
    with pytest.raises(ValueError, match="length must be at most 4, the entries of the longest stream, got 5"):
        Episodes.from_steps(steps, ended).sequences(1, 5)
    with pytest.raises(ValueError, match="experience must have an order to draw sequences, got Transitions"):
        steps.sequences(1, 2)
    for name, count, length in (("count", 0, 2), ("length", 1, 0), ("length", 1, -1)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            drawn_starts([5], count, length)
    with pytest.raises(ValueError, match="experience must hold at least one step, got none"):
        drawn_starts([0, 0], 1, 1)
