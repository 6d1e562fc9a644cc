"""Videos of agents, as MP4 files that browsers play: H.264, yuv420p, even sizes, the index in front."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mbrl_wrappers.arguments import check_whole_number
from mbrl_wrappers.envs.imagined import encode_one
from mbrl_wrappers.envs.rendering import can_render, check_renderable, frames_of, set_state_from_obs
from mbrl_wrappers.models import DynamicsModel, WorldModel
from mbrl_wrappers.zoo.analysis.dreams import WARM_UP
from mbrl_wrappers.zoo.choices import undisturbed
from mbrl_wrappers.zoo.environment import as_shown_to_agents, render_without_display
from mbrl_wrappers.zoo.errors import ZooError
from mbrl_wrappers.zoo.evaluation import FIRST_SEED, play_steps

MAX_FRAMES = 500
MAX_WIDTH = 480
HALF_WIDTH = 320
CAPTION_HEIGHT = 32
GAP = 4
DEFAULT_FPS = 30
# Faster simulators are shown in slow motion: at 125 frames a second, a fall is too quick to be seen.
MAX_FPS = 50

EnvFactory = Callable[[], gym.Env]


def record_video(
    agent: BaseAlgorithm,
    env_factory: EnvFactory,
    path: str | Path,
    *,
    episodes: int = 1,
    seed: int = FIRST_SEED,
    max_frames: int = MAX_FRAMES,
    deterministic: bool = True,
) -> int:
    """Record the episodes that :func:`~mbrl_wrappers.zoo.evaluation.play_episodes` plays from the same seeds.

    Args:
        agent: the agent; if it has a VecNormalize, that normalises its observations.
        env_factory: makes the env, with ``render_mode="rgb_array"``.
        path: the MP4 file to write.
        episodes: number of episodes, one after the other.
        seed: of the first episode; the following episodes count up from it.
        max_frames: the video ends after this number of frames, even within an episode.
        deterministic: take the policy's mode instead of a sample.

    Returns:
        The number of frames.

    Raises:
        ZooError: if the env does not render to arrays.
    """
    check_whole_number("episodes", episodes)
    check_whole_number("max_frames", max_frames)
    render_without_display()
    with closing(env_factory()) as env, undisturbed(agent, deterministic):
        _check_renders(env)
        _follow(env)
        frames = (
            _at_width(frame := _frame(env), min(frame.shape[1], MAX_WIDTH))
            for number in range(episodes)
            for _ in play_steps(agent, env, seed + number, deterministic)
        )
        return write_video(path, islice(frames, max_frames), _fps(env))


def side_by_side_video(
    agent: BaseAlgorithm,
    dynamics: WorldModel,
    env_factory: EnvFactory,
    path: str | Path,
    *,
    seed: int = FIRST_SEED,
    max_frames: int = 200,
    deterministic: bool = True,
) -> int:
    """Record one real episode next to the model's open-loop prediction from its start and its actions.

    The policy sees the real half. The model predicts means and is fed its own predictions; the video ends with the real
    episode, or when a prediction is not finite. A model with a memory sees the first observations
    too, of which it shows what it makes, and imagines on from there. A model of images is shown by its own frames,
    unless a renderer can show them.

    Args:
        agent: as for :func:`record_video`.
        dynamics: the model.
        env_factory: makes an env; unless observations are images, its renderer has to show observations, see
            :mod:`mbrl_wrappers.envs.rendering`.
        path: the MP4 file to write.
        seed: of the episode.
        max_frames: the video ends after this number of frames.
        deterministic: as for :func:`record_video`.

    Returns:
        The number of frames.

    Raises:
        ZooError: if the env does not render to arrays, or can't show observations.
    """
    check_whole_number("max_frames", max_frames)
    render_without_display()
    with closing(env_factory()) as env, closing(env_factory()) as imagined_env, undisturbed(agent, deterministic):
        _check_renders(env)
        _follow(env)
        _follow(imagined_env)
        show: Callable[[Tensor], np.ndarray] | None = None
        if can_render(imagined_env) or not dynamics.obs_codec.images:
            try:
                check_renderable(imagined_env)
            except ValueError as error:
                raise ZooError(str(error)) from error

            def show(obs: Tensor) -> np.ndarray:
                set_state_from_obs(imagined_env, dynamics.obs_codec.decode_numpy(obs)[0])
                return _frame(imagined_env)

        shown = as_shown_to_agents(env, dynamics.observation_space)
        frames = _paired_frames(agent, dynamics, shown, show, seed, deterministic)
        return write_video(path, islice(frames, max_frames), _fps(env))


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write frames as MP4, atomically: the file is complete or not there.

    Args:
        path: the MP4 file to write.
        frames: at least one, ``[H, W, 3]`` uint8, all of one size; an odd last row or column is cut off.
        fps: frames per second.

    Returns:
        The number of frames.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / "video.mp4"
        count = _encode(temporary, frames, fps)
        temporary.replace(path)
    return count


def _encode(file: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    encoder: Generator[None, Any, None] | None = None
    count = 0
    try:
        for frame in frames:
            height, width = (size - size % 2 for size in frame.shape[:2])  # yuv420p halves both
            if encoder is None:
                encoder = _encoder(file, (width, height), fps)
            encoder.send(np.ascontiguousarray(frame[:height, :width]))
            count += 1
    finally:
        if encoder is not None:
            encoder.close()
    if not count:
        raise ValueError(f"frames must hold at least one frame, got {count}")
    return count


def _encoder(file: Path, size: tuple[int, int], fps: float) -> Generator[None, Any, None]:
    encoder = imageio_ffmpeg.write_frames(
        str(file),
        size,
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        quality=None,
        # Without date and encoder version, so that the same frames give the same bytes.
        output_params=["-crf", "26", "-movflags", "+faststart", "-map_metadata", "-1", "-bitexact"],
    )
    encoder.send(None)
    return encoder


def _paired_frames(
    agent: BaseAlgorithm,
    dynamics: WorldModel,
    env: gym.Env,
    show: Callable[[Tensor], np.ndarray] | None,
    seed: int,
    deterministic: bool,
) -> Iterator[np.ndarray]:
    """Yield pictures of an episode next to the model's, which ``show`` draws from ``[1, D]``, or else its pixels."""
    generator = torch.Generator(dynamics.device).manual_seed(seed)
    state: Any = None
    for step, played in enumerate(play_steps(agent, env, seed, deterministic)):
        real = encode_one(dynamics, played.obs).clone()
        state = _followed(dynamics, state, played.action, real, step, generator)
        imagined = dynamics.decode(state)
        if not torch.isfinite(imagined).all():
            return
        if show is None:
            yield _side_by_side(_pixels(dynamics, real), _pixels(dynamics, imagined), step)
        else:
            yield _side_by_side(_frame(env), show(imagined), step)


@torch.no_grad()
def _followed(dynamics: WorldModel, state: Any, action: Any, obs: Tensor, step: int, generator: torch.Generator) -> Any:
    """Return a model's next state: of what it sees while it warms up, and of its own prediction afterwards."""
    if state is None:
        return dynamics.begin(obs, generator)
    flat_action = dynamics.action_codec.encode(np.asarray(action)[None], dynamics.device)
    if step < WARM_UP and not isinstance(dynamics, DynamicsModel):
        going_on = torch.zeros(1, dtype=torch.bool, device=dynamics.device)
        return dynamics.observe(state, flat_action, obs, going_on, generator)
    return dynamics.step(state, flat_action, deterministic=True)[0]


def _pixels(dynamics: WorldModel, obs: Tensor) -> np.ndarray:
    """Return an observation's newest image, enlarged without blur."""
    frame = frames_of(dynamics.obs_codec, obs)[0]
    factor = max(1, HALF_WIDTH // frame.shape[1])
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def _side_by_side(real: np.ndarray, imagined: np.ndarray, step: int) -> np.ndarray:
    halves = [_at_width(frame, HALF_WIDTH) for frame in (real, imagined)]
    height = halves[0].shape[0] + CAPTION_HEIGHT
    picture = Image.new("RGB", (2 * HALF_WIDTH + GAP, height + height % 2), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=20)
    for place, (half, name) in enumerate(zip(halves, ("real", "imagined"), strict=True)):
        left = place * (HALF_WIDTH + GAP)
        picture.paste(Image.fromarray(half), (left, CAPTION_HEIGHT))
        draw.text((left + HALF_WIDTH // 2, CAPTION_HEIGHT // 2), name, fill="black", font=font, anchor="mm")
    draw.text((picture.width - 8, CAPTION_HEIGHT // 2), f"step {step}", fill="black", font=font, anchor="rm")
    return np.asarray(picture)


def _at_width(frame: np.ndarray, width: int) -> np.ndarray:
    height = max(2, round(frame.shape[0] * width / frame.shape[1]))
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def _frame(env: gym.Env) -> np.ndarray:
    frame: Any = env.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)
        raise ZooError(f"env.render() must return a frame [H, W, 3] of uint8, got {what}")
    return frame


def _check_renders(env: gym.Env) -> None:
    if env.render_mode != "rgb_array":
        raise ZooError(f"env must be made with render_mode='rgb_array', got {env.render_mode!r}")


def _follow(env: gym.Env) -> None:
    """Film a MuJoCo robot through its model's tracking camera, unless the user chose a camera.

    By default, Gymnasium 1.4 uses a camera that stands still, and robots run out of the picture.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    chosen = {"camera_id", "camera_name", "default_camera_config"} & set(env.spec.kwargs if env.spec else ())
    if renderer is None or chosen:
        return
    names = [renderer.model.camera(number).name for number in range(renderer.model.ncam)]
    if "track" in names:
        renderer.camera_id = names.index("track")


def _fps(env: gym.Env) -> float:
    return min(float(env.metadata.get("render_fps") or DEFAULT_FPS), MAX_FPS)
