"""Videos as they lie on the disk: format, size, number of frames, and what can be seen."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC

from mbrl_wrappers.models import KnownDynamics
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.video import record_video, side_by_side_video, write_video

PENDULUM = KnownDynamics.for_env("Pendulum-v1")


class Screen(gym.Env):
    """Shows a number of the given size that grows brighter with every step; an episode has 6."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, height: int = 60, width: int = 80, render_mode: str | None = "rgb_array") -> None:
        self.size = (height, width)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, False, self.steps == 6, {}

    def render(self) -> Any:
        return np.full((*self.size, 3), 30 * self.steps, np.uint8)


class Still:
    """An agent that does nothing."""

    def get_vec_normalize_env(self) -> None:
        return None

    def predict(self, obs: np.ndarray, state: None, start: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert deterministic
        return np.zeros(1, np.float32), None


class About(NamedTuple):
    codec: str
    pixels: str
    size: tuple[int, int]
    fps: float


def read(file: Path) -> tuple[About, np.ndarray]:
    """Return what ffmpeg says of a file, and its frames ``[N, H, W, 3]``."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(file), *raw], capture_output=True, check=True)
    line = next(line for line in done.stderr.decode().splitlines() if "Video:" in line)
    codec, pixels, width, height, fps = re.search(
        r"Video: (\w+).*?, (\w+)[(,].*?, (\d+)x(\d+).*?, ([\d.]+) fps", line
    ).groups()
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return About(codec, pixels, (int(width), int(height)), float(fps)), frames


def pendulum() -> gym.Env:
    return gym.make("Pendulum-v1", render_mode="rgb_array")


def test_browsers_can_play_it(tmp_path):
    file = tmp_path / "deep" / "a.mp4"
    assert record_video(Still(), Screen, file) == 7  # the start, and six steps
    about, frames = read(file)
    assert about == About("h264", "yuv420p", (80, 60), 10.0)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), np.arange(0, 210, 30), atol=6)
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # playing starts before all has arrived
    assert [path.name for path in file.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("size", "shown"),
    [((61, 81), (80, 60)), ((300, 1000), (480, 144)), ((501, 500), (480, 480)), ((75, 480), (480, 74))],
)
def test_sizes_are_even_and_small(tmp_path, size, shown):
    record_video(Still(), lambda: Screen(*size), tmp_path / "a.mp4", max_frames=2)
    assert read(tmp_path / "a.mp4")[0].size == shown


def test_episodes_follow_each_other_up_to_a_limit(tmp_path):
    assert record_video(Still(), Screen, tmp_path / "a.mp4", episodes=3) == len(read(tmp_path / "a.mp4")[1]) == 21
    assert record_video(Still(), Screen, tmp_path / "a.mp4", episodes=3, max_frames=9) == 9
    assert len(read(tmp_path / "a.mp4")[1]) == 9


def test_the_same_frames_make_the_same_file(tmp_path):
    for name in "ab":
        record_video(Still(), Screen, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failure_leaves_nothing_behind(tmp_path):
    def failing() -> Any:
        yield np.zeros((20, 20, 3), np.uint8)
        raise RuntimeError("the renderer broke")

    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(RuntimeError, match="the renderer broke"):
        write_video(tmp_path / "a.mp4", failing(), 10)
    with pytest.raises(ValueError, match="frames must hold at least one frame"):
        write_video(tmp_path / "a.mp4", [], 10)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_real_and_imagined_stand_side_by_side(tmp_path):
    agent = SAC("MlpPolicy", gym.make("Pendulum-v1"), policy_kwargs={"net_arch": [8]}, seed=0)
    frames = {}
    for name, model in (("right", PENDULUM), ("wrong", frozen())):
        assert side_by_side_video(agent, model, pendulum, tmp_path / "a.mp4", seed=3, max_frames=12) == 12
        about, frames[name] = read(tmp_path / "a.mp4")
        assert about.size == (2 * 320 + 4, 320 + 32) and about.codec == "h264"
    # The pole is red. Captions, and the arrow of the torque, which an observation does not hold, are not.
    right, wrong = (frames[name][:, 32:, :, 1] < 120 for name in ("right", "wrong"))
    assert shared(right[-1]) > 0.5 > shared(wrong[-1])
    assert shared(wrong[0]) > 0.9  # both start from the same state
    captions = frames["right"][:, :32]
    assert (captions[:, :, :320] < 128).any() and (captions[:, :, 324:] < 128).any()
    assert (captions[1] != captions[9]).any()  # the step counts


class FarAway(gym.Wrapper):
    """Puts a robot 50 metres from where it starts."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        obs, info = super().reset(seed=seed, options=options)
        simulated: Any = self.unwrapped
        simulated.set_state(simulated.data.qpos + 50 * np.eye(simulated.model.nq)[0], simulated.data.qvel)
        return obs, info


def orange(file: Path) -> int:
    """Return how many pixels of the first frame have the colour of a hopper."""
    frame = read(file)[1][0].astype(int)
    return int((frame[..., 0] - frame[..., 2] > 50).sum())


def test_a_robot_that_runs_away_stays_in_the_picture(tmp_path):
    counts = []
    for wrap in (lambda env: env, FarAway):
        record_video(
            Still(), lambda wrap=wrap: wrap(gym.make("Hopper-v5", render_mode="rgb_array")), tmp_path / "a.mp4",
            max_frames=1,
        )  # fmt: skip
        counts.append(orange(tmp_path / "a.mp4"))
    assert counts[0] > 1_000
    assert counts[1] == pytest.approx(counts[0], rel=0.2)

    own = {"default_camera_config": {"lookat": np.zeros(3)}}  # a camera that the user set up is left alone
    record_video(
        Still(), lambda: FarAway(gym.make("Hopper-v5", render_mode="rgb_array", **own)), tmp_path / "a.mp4",
        max_frames=1,
    )  # fmt: skip
    assert orange(tmp_path / "a.mp4") == 0


def frozen() -> KnownDynamics:
    return KnownDynamics(
        PENDULUM.observation_space,
        PENDULUM.action_space,
        lambda obs, action: obs,
        lambda obs, action, next_obs: obs[:, 0],
    )


def shared(dark: np.ndarray) -> float:
    """Return the share of the pole's pixels that both halves have in common."""
    real, imagined = dark[:, :320], dark[:, 324:]
    return float((real & imagined).sum() / (real | imagined).sum())


def test_the_video_ends_where_the_model_runs_off(tmp_path):
    model = KnownDynamics(
        PENDULUM.observation_space,
        PENDULUM.action_space,
        lambda obs, action: obs * float("nan"),
        lambda obs, action, next_obs: obs[:, 0],
    )
    assert side_by_side_video(Still(), model, pendulum, tmp_path / "a.mp4") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Screen(render_mode=None), "must be made with render_mode='rgb_array', got None"),
        (lambda: gym.make("Pendulum-v1"), "must be made with render_mode='rgb_array', got None"),
        (Screen, "render_env must be one of"),
    ],
)
def test_what_can_not_be_shown_is_refused(tmp_path, make: Callable[[], gym.Env], message: str):
    with pytest.raises(ZooError, match=message):
        side_by_side_video(Still(), PENDULUM, make, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_what_is_no_picture_is_refused(tmp_path):
    class Text(Screen):
        def render(self) -> str:
            return "a wall"

    with pytest.raises(ZooError, match=r"env.render\(\) must return a frame \[H, W, 3\] of uint8, got 'a wall'"):
        record_video(Still(), Text, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="episodes must be a whole number of at least 1, got 0"):
        record_video(Still(), Screen, tmp_path / "a.mp4", episodes=0)
