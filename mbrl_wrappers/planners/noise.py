"""Noise that planners search with."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers within two standard deviations."""
    numbers = torch.empty(*shape, device=generator.device)
    return torch.nn.init.trunc_normal_(numbers, a=-2.0, b=2.0, generator=generator)


def coloured_noise(*shape: int, steps: int, exponent: float, generator: torch.Generator) -> Tensor:
    """Draw sequences whose power spectrum falls as ``1 / frequency^exponent`` (Timmer and Koenig 1995).

    Each value has mean 0 and variance 1; the sequences are stationary on a circle of ``steps``, as the discrete
    Fourier transform sees them. The constant component gets the power of the lowest frequency, as in iCEM
    (Pinneri et al. 2020, section 3.1).

    Args:
        *shape: leading dimensions of the result.
        steps: length of a sequence.
        exponent: 0 is white noise, 2 Brownian.
        generator: the source of randomness.

    Returns:
        ``[*shape, steps]``.
    """
    frequencies = torch.fft.rfftfreq(steps, device=generator.device)
    frequencies[0] = 1.0 / steps
    amplitude = frequencies ** (-exponent / 2)
    parts = torch.randn(*shape, len(frequencies), 2, generator=generator, device=generator.device)
    spectrum = torch.view_as_complex(parts) * amplitude
    # A real sequence's spectrum is symmetric: each component counts twice, with real and imaginary parts, except the
    # constant one and, for an even number of steps, the highest one, which are real and count once.
    alone = torch.zeros_like(amplitude)
    alone[0] = 1.0
    if steps % 2 == 0:
        alone[-1] = 1.0
    power = (amplitude.square() * torch.where(alone > 0, 1.0, 4.0)).sum()
    return torch.fft.irfft(spectrum, n=steps, norm="forward") / power.sqrt()
