"""Models of images: the same envs, agents and buffers as for vectors, and bytes where there is nothing but images."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env
from torch import Tensor

from mbrl_wrappers.envs import ImaginedEnv, ImaginedVecEnv, ImaginedVectorEnv
from mbrl_wrappers.envs.imagined import row_of
from mbrl_wrappers.envs.rendering import frames_of
from mbrl_wrappers.experience import Experience
from mbrl_wrappers.imagination import AgentView, replay_experience
from mbrl_wrappers.imagination.replay_experience import ReplayExperience
from mbrl_wrappers.models import EnsembleDynamics
from mbrl_wrappers.models.world_model import StepPrediction, WorldModel, select
from mbrl_wrappers.spaces import FlatSpace
from mbrl_wrappers.tasks.grids import BreakoutGames, MiniPacmanGames, SokobanGames
from mbrl_wrappers.wrappers import LatentObservation

HEIGHT, WIDTH = 36, 40
LAST = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
FIRST = spaces.Box(0, 255, (3, HEIGHT, WIDTH), np.uint8)
SPEED = spaces.Box(-WIDTH, WIDTH, (1,), np.float32)
SPACES: dict[str, spaces.Space] = {
    "channels last": LAST,
    "channels first": FIRST,
    "dict, channels last": spaces.Dict(camera=LAST, speed=SPEED),
    "dict, channels first": spaces.Dict(camera=FIRST, speed=SPEED),
}
ACTION = spaces.Discrete(3)


def drawn(position: Tensor) -> Tensor:
    """Return frames ``[B, 3, H, W]`` of a square at positions ``[B]``: red where it is, green how far, blue a floor."""
    frames = torch.zeros(len(position), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    near = (torch.arange(WIDTH) - position[:, None]).abs() <= 2
    frames[:, 0, 10:15] = 255 * near[:, None].byte()
    frames[:, 1] = position.byte()[:, None, None]
    frames[:, 2, 30:] = 7
    return frames


class Slider(gym.Env[Any, int]):
    """A square that is pushed to the left and to the right; its observations are frames, alone or with its speed."""

    action_space: Any = ACTION

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.speed, self.steps = int(self.np_random.integers(10, 30)), 0, 0
        return self._obs(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.speed += int(action) - 1
        self.position = int(np.clip(self.position + self.speed, 2, WIDTH - 3))
        self.steps += 1
        return self._obs(), -float(abs(self.position - 20)), False, self.steps >= 9, {}

    def _obs(self) -> Any:
        frame = drawn(torch.tensor([self.position]))[0].numpy()
        space: Any = self.observation_space
        has_speed = isinstance(space, spaces.Dict)
        if (space["camera"] if has_speed else space).shape == LAST.shape:
            frame = np.moveaxis(frame, 0, -1)
        return {"camera": frame, "speed": np.array([self.speed], np.float32)} if has_speed else frame


class Sliding(NamedTuple):
    position: Tensor
    speed: Tensor


class SliderModel(WorldModel):
    """The slider's equations behind its pixels; alone they do not show how fast it is, but two of them do."""

    takes_images: ClassVar[bool] = True

    def __init__(self, space: spaces.Space) -> None:
        super().__init__(space, ACTION)
        position = torch.arange(10, 30)
        self.start_obs = self._flat(position, torch.zeros(20)).to(self.obs_dtype)

    def _flat(self, position: Tensor, speed: Tensor) -> Tensor:
        has_speed = not self.obs_codec.is_pixel.all()
        return self.obs_codec.assemble([drawn(position)], speed[:, None] if has_speed else None)

    def _seen(self, obs: Tensor) -> Tensor:
        assert obs.dtype == self.obs_dtype
        red = self.obs_codec.image(obs)[:, 0, 12].float() / 255
        return (red * torch.arange(WIDTH)).sum(-1) / red.sum(-1).clamp(min=1)

    def begin(self, obs: Tensor, generator: torch.Generator | None = None) -> Sliding:
        position = self._seen(obs)
        return Sliding(position, torch.zeros_like(position))

    def observe(
        self, state: Sliding, action: Tensor, obs: Tensor, is_first: Tensor, generator: torch.Generator | None = None
    ) -> Sliding:
        speed = state.speed + action.argmax(-1) - 1
        return select(is_first, self.begin(obs), Sliding(self._seen(obs), speed))

    def step(
        self, state: Sliding, action: Tensor, generator: torch.Generator | None = None, deterministic: bool = False
    ) -> tuple[Sliding, StepPrediction]:
        speed = state.speed + action.argmax(-1) - 1
        position = (state.position + speed).clamp(2, WIDTH - 3)
        never = torch.zeros_like(position, dtype=torch.bool)
        return Sliding(position, speed), StepPrediction(-(position - 20).abs(), never, torch.zeros_like(speed), never)

    def features(self, state: Sliding) -> Tensor:
        return torch.stack([state.position, state.speed], dim=-1)

    @property
    def num_features(self) -> int:
        return 2

    def decode(self, state: Sliding) -> Tensor:
        return self._flat(state.position, state.speed)

    def fit(self, experience: Experience, generator: torch.Generator | None = None) -> dict[str, float]:
        """Know everything already: only keep where episodes begin."""
        drawn = experience.sequences(200, 1, generator)
        self._keep_start_states(drawn.obs[drawn.is_first], generator)
        return {}


def same(one: Any, other: Any) -> bool:
    parts = [list(obs.values()) if isinstance(obs, dict) else [obs] for obs in (one, other)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*parts, strict=True))


def network(name: str) -> dict[str, Any]:
    """Return a small policy for a space."""
    width = "cnn_output_dim" if "dict" in name else "features_dim"
    policy = "MultiInputPolicy" if "dict" in name else "CnnPolicy"
    return {"policy": policy, "policy_kwargs": {"net_arch": [8], "features_extractor_kwargs": {width: 8}}}


@pytest.mark.parametrize("name", SPACES)
def test_imagined_frames_and_features_are_the_real_ones_in_every_facade(name: str) -> None:
    space = SPACES[name]
    env, model = Slider(space), SliderModel(space)
    latent = LatentObservation(Slider(space), SliderModel(space))
    seen, _ = env.reset(seed=0)
    features, _ = latent.reset(seed=0)
    start = (
        {key: np.stack([value] * 3) for key, value in seen.items()} if isinstance(seen, dict) else np.stack([seen] * 3)
    )
    single, sb3 = ImaginedEnv(model, start_obs=start), ImaginedVecEnv(model, 3, start_obs=start)
    vector = ImaginedVectorEnv(model, 3, start_obs=start)
    inside = ImaginedVecEnv(model, 3, start_obs=start, observe="features")
    shown = [single.reset()[0], row_of(sb3.reset(), 1), row_of(vector.reset()[0], 2)]
    imagined = inside.reset()[0]
    for action in [2, 2, 1, 0, 0, 0, 2, 0]:
        assert space.contains(seen) and all(same(seen, other) for other in shown)
        assert features.tolist() == imagined.tolist() == [env.position, env.speed]
        seen, reward, *_ = env.step(action)
        features, *_ = latent.step(action)
        actions = np.full(3, action)
        steps = [single.step(action), sb3.step(actions), vector.step(actions)]
        shown = [steps[0][0], row_of(steps[1][0], 1), row_of(steps[2][0], 2)]
        assert [float(np.ravel(step[1])[0]) for step in steps] == [reward] * 3
        imagined = inside.step(actions)[0][0]


@pytest.mark.parametrize("name", SPACES)
def test_starts_are_bytes_where_there_are_only_images(name: str) -> None:
    space = SPACES[name]
    model, dtype = SliderModel(space), torch.float32 if "dict" in name else torch.uint8
    assert model.obs_dtype == model.start_obs.dtype == model.obs_codec.exact_dtype == dtype
    assert model.double().start_obs.dtype == (torch.float64 if "dict" in name else torch.uint8)
    untouched = SliderModel(space)
    # Numbers that are no bytes are rounded and clipped before they are kept as such.
    wild = untouched.start_obs.float()
    wild = wild + torch.where(wild == 255, 90.0, 0.4) * untouched.obs_codec.is_pixel
    env = ImaginedVecEnv(untouched, 5, start_obs=wild, observe="features", seed=0)
    assert (env.reset()[:, 0] == ImaginedVecEnv(untouched, 5, observe="features", seed=0).reset()[:, 0]).all()


@pytest.mark.filterwarnings("ignore:.*environment not having a spec")
@pytest.mark.parametrize("name", SPACES)
def test_an_agent_of_pixels_trains_in_imagined_frames(name: str) -> None:
    model = SliderModel(SPACES[name])
    check_env(ImaginedEnv(model, horizon=5))
    imagined = ImaginedVecEnv(model, 2, horizon=5, seed=0)
    agent = PPO(env=imagined, n_steps=6, batch_size=12, n_epochs=1, seed=0, device="cpu", **network(name))
    agent.learn(12)
    assert agent.num_timesteps == 12
    real = Slider(SPACES[name])
    assert real.action_space.contains(int(agent.predict(real.reset(seed=0)[0])[0]))


# -- real experience ---------------------------------------------------------------------------------------------


def experience_of(
    name: str, learn: tuple[int, ...] = (60,), buffer_size: int = 100
) -> tuple[ReplayExperience, SliderModel]:
    """Return the experience of an agent that acted at random in the real env, and a model of its space."""
    env = gym.wrappers.RecordEpisodeStatistics(Slider(SPACES[name]))
    agent = DQN(env=env, buffer_size=buffer_size, learning_starts=10_000, seed=0, device="cpu", **network(name))
    for steps in learn:
        agent.learn(steps)
    model = SliderModel(agent.observation_space)
    view = AgentView(agent, model)
    return ReplayExperience(agent.replay_buffer, view, model), model


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("piece", [1, 3 * HEIGHT * WIDTH * 7, 1 << 20])
def test_sequences_are_bytes_and_what_happened(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable-Baselines3 turns frames channels first; learning once more breaks an episode off."""
    monkeypatch.setattr(replay_experience, "_PIECE", piece)
    drawn_from, model = experience_of(name, (60, 25), buffer_size=70)
    assert model.obs_codec.images[0].channels_first
    found = drawn_from.sequences(50, 12, torch.Generator().manual_seed(0))
    assert found.obs.dtype == model.obs_codec.exact_dtype == (torch.float32 if "dict" in name else torch.uint8)
    position = model._seen(found.obs.flatten(0, 1)).reshape(50, 12)
    frames = model.obs_codec.image(found.obs)
    assert torch.equal(frames.flatten(0, 1), drawn(position.flatten()).to(frames.dtype))
    lengths: list[int] = []
    for sequence in range(50):
        speed, steps = None, None
        for t in range(12):
            if found.is_first[sequence, t]:
                lengths.append(steps)
                speed, steps = 0.0, 0
            elif speed is not None and steps is not None:
                speed, steps = speed + float(found.action[sequence, t].argmax()) - 1, steps + 1
                expected = min(max(float(position[sequence, t - 1]) + speed, 2), WIDTH - 3)
                assert position[sequence, t] == expected
                assert found.reward[sequence, t] == -abs(expected - 20)
    assert {9, 6} <= set(lengths)  # whole episodes, and the one that was broken off


def test_rows_of_a_buffer_are_bytes() -> None:
    drawn_from, model = experience_of("channels last", (20,))
    rows = drawn_from.rows()
    assert rows.obs.dtype == rows.next_obs.dtype == torch.uint8 and rows.obs.shape == (20, model.obs_codec.dim)


# -- what is refused ---------------------------------------------------------------------------------------------


def test_frames_of_the_other_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"observation_space must have shape \[B, 3, 36, 40\], got \(1, 36, 40, 3\)"):
        ImaginedEnv(SliderModel(FIRST), start_obs=Slider(LAST).reset(seed=0)[0][None])
    with pytest.raises(ValueError, match=r"dynamics\.observation_space must equal"):
        LatentObservation(Slider(LAST), SliderModel(FIRST))


def test_a_model_without_an_encoder_says_which_models_take_images() -> None:
    with pytest.raises(ValueError, match=r"observation_space\['camera'\] is an image, .*takes_images.*Flatten"):
        EnsembleDynamics(SPACES["dict, channels last"], ACTION)


@pytest.mark.parametrize("name", ["channels last", "dict, channels last"])
def test_start_frames_of_a_fit_are_kept_and_saved_as_they_are(name: str) -> None:
    experience, model = experience_of(name, (20,))
    model.fit(experience, torch.Generator().manual_seed(0))
    is_alone = name == "channels last"
    assert len(model.start_obs) > 2 and model.start_obs.dtype == (torch.uint8 if is_alone else torch.float32)
    again = SliderModel(model.observation_space)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.start_obs, model.start_obs) and again.obs_dtype == model.start_obs.dtype
    wrong = {**model.state_dict(), "start_obs": model.start_obs[:, 1:]}
    with pytest.raises(RuntimeError, match=r"start_obs must have shape \[S, \d+\], got"):
        again.load_state_dict(wrong)


# -- dreams to look at -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_dreams_are_rendered_as_they_are_observed(name: str) -> None:
    def camera(obs: Any) -> np.ndarray:
        frame = obs["camera"] if isinstance(obs, dict) else obs
        return frame if frame.shape[-1] == 3 else np.moveaxis(frame, -3, -1)

    model = SliderModel(SPACES[name])
    single = ImaginedEnv(model, render_mode="rgb_array")
    several = ImaginedVecEnv(model, 2, render_mode="rgb_array", seed=0)
    single.reset(seed=0)
    several.reset()
    for _ in range(3):
        seen = camera(single.step(2)[0])
        assert np.array_equal(single.render(), seen)
        seen = camera(several.step(np.array([0, 2]))[0])
        assert np.array_equal(np.stack(several.get_images()), seen)
    assert several.render().shape[-1] == 3


def shown_of(frames: np.ndarray) -> np.ndarray:
    codec = FlatSpace(spaces.Box(0, 255, frames.shape[1:], np.uint8), images=True)
    return frames_of(codec, codec.encode(frames))


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("first", [True, False])
def test_of_grey_frames_stacked_as_channels_the_newest_is_shown(count: int, first: bool) -> None:
    shape = (count, 32, 33) if first else (32, 33, count)
    frames = np.random.default_rng(0).integers(256, size=(3, *shape), dtype=np.uint8)
    newest = frames[:, -1] if first else frames[..., -1]
    assert np.array_equal(shown_of(frames), np.repeat(newest[..., None], 3, -1))


def test_of_planes_stacked_colours_and_opaque_ones_the_colours_are_shown() -> None:
    for games in (BreakoutGames(2), MiniPacmanGames(2), SokobanGames(2, size=5, num_boxes=1)):
        games.reset()
        planes = games.observations()
        assert np.array_equal(shown_of(planes), planes[:, :3].transpose(0, 2, 3, 1))
    colours = np.random.default_rng(0).integers(256, size=(2, 32, 33, 9), dtype=np.uint8)
    assert np.array_equal(shown_of(colours), colours[..., -3:])
    opaque = np.concatenate([colours[..., :3], np.full((2, 32, 33, 1), 255, np.uint8)], -1)
    assert np.array_equal(shown_of(opaque), opaque[..., :3])


def test_gray_frames_of_which_the_newest_is_shown() -> None:
    stack = FlatSpace(spaces.Box(0, 255, (4, 16, 20, 1), np.uint8), images=True)
    frames = torch.arange(4, dtype=torch.uint8)[:, None].expand(4, 320).reshape(1, -1)
    shown = frames_of(stack, frames)
    assert shown.shape == (1, 16, 20, 3) and shown.dtype == np.uint8 and (shown == 3).all()


def test_without_images_a_real_env_has_to_render() -> None:
    model = EnsembleDynamics(SPEED, ACTION, num_members=2, num_elites=1, hidden=(4,))
    model.start_obs = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="render_env must be one of"):
        ImaginedEnv(model, render_mode="rgb_array")
    with pytest.raises(ValueError, match="render_mode must be None, or 'rgb_array' for a model of images"):
        ImaginedVecEnv(model, 2, render_mode="rgb_array")
    with pytest.raises(ValueError, match="render_mode must be None, or 'rgb_array' for a model of images, got 'human'"):
        ImaginedVecEnv(SliderModel(LAST), 2, render_mode="human")
