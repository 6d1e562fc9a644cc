"""Frames of screens, as World Models sees them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

SIZE = 64


def scaled_down(screen: np.ndarray, share: float) -> np.ndarray:
    """Return the upper ``share`` of a screen ``[H, W, 3]`` as a frame ``[64, 64, 3]`` of uint8: the means of areas."""
    view = torch.from_numpy(screen[: round(share * len(screen))]).movedim(-1, 0).float()
    frame = F.adaptive_avg_pool2d(view[None], SIZE)[0]
    return frame.round().to(torch.uint8).movedim(0, -1).contiguous().numpy()
