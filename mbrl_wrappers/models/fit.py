"""Maximum-likelihood training of an ensemble, with a fixed hold-out and a best snapshot per member."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_wrappers.acceleration.cuda_graphs import GraphCapture, objection_to_capture
from mbrl_wrappers.models.network import EnsembleMLP

MAX_HOLDOUT_ROWS = 5000
HOLDOUT_METRICS = {"mse": torch.square, "mae": torch.abs}
_LEAST_GAIN = 0.05
_LEAST_GAIN_OF_LIKELIHOOD = 0.02
_TINY = 1e-5
_SECONDS_A_LINE = 2.0
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class FitData:
    """Normalised training tensors of ``N`` rows for a network with ``T`` continuous and ``L`` discrete targets.

    Attributes:
        x: ``[N, in_dim]`` inputs.
        y: ``[N, T]`` continuous targets.
        label: ``[N, L]`` zeros and ones: one-hot blocks, then flags.
        y_counts: ``[T]``, 1 for the continuous targets that are to be learned, 0 for the others.
        label_counts: ``[L]``, the same for the discrete targets.
    """

    x: Tensor
    y: Tensor
    label: Tensor
    y_counts: Tensor
    label_counts: Tensor

    def __getitem__(self, rows: Tensor) -> FitData:
        """Return the rows of an index tensor; an index ``[E, B]`` gives fields ``[E, B, ...]``."""
        return replace(self, x=self.x[rows], y=self.y[rows], label=self.label[rows])


@dataclass(frozen=True)
class FitSettings:
    """How an ensemble is trained; see :class:`~mbrl_wrappers.models.EnsembleDynamics` for each."""

    learning_rate: float
    weight_decay: Sequence[float]
    batch_size: int
    patience: int
    min_epoch_steps: int
    max_steps: int | None
    beta_nll: float
    holdout_metric: str
    averaging: float


@dataclass(frozen=True)
class FitReport:
    """The result of a fit.

    Attributes:
        errors: on the hold-out, of each member's kept weights.
        steps: gradient steps taken.
        train_loss: loss of the last batch, summed over members.
    """

    errors: TargetErrors
    steps: int
    train_loss: float

    @property
    def score(self) -> Tensor:
        """Hold-out errors ``[E]`` of the members."""
        return self.errors.score


class Progress:
    """Prints how a fit is getting on, a line every few seconds.

    Args:
        rows: number of training rows.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._last = time.monotonic()

    def of(self, name: str) -> Callable[[int, float], None]:
        """Return a function that reports each evaluation of a network."""

        def tell(steps: int, error: float) -> None:
            if time.monotonic() - self._last > _SECONDS_A_LINE:
                self._last = time.monotonic()
                print(f"fitting {name} on {self._rows:,} rows: {steps:,} gradient steps, hold-out error {error:.4g}")

        return tell


def holdout_mask(key: Tensor, ratio: float) -> Tensor:
    """Tell for each transition whether it is held out; a pure function of its lasting key.

    Multiples of the golden ratio are spread so evenly over [0, 1) that any run of consecutive keys
    has close to its share held out.

    Args:
        key: ``[N]`` int64; used modulo 2^32.
        ratio: share to hold out, in [0, 1).

    Returns:
        ``[N]`` bool.
    """
    return ((key % 2**32).double() * _GOLDEN) % 1.0 < ratio


def spread_rows(mask: Tensor, most: int) -> Tensor:
    """Return the indices at which a mask is True; if there are more than ``most``, evenly spread ones."""
    rows = mask.nonzero()[:, 0]
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device, dtype=torch.float64).long()]


def ensemble_loss(network: EnsembleMLP, batch: FitData, beta_nll: float = 0.0) -> Tensor:
    """Return the training loss of a batch ``[E, B, ...]``: mean over rows and targets, sum over members.

    The Gaussians' negative log-likelihood with the penalty of their bounds (Chua et al. 2018, appendix A.1), plus the
    cross-entropy of the discrete targets.
    """
    heads, outputs = network.heads, network(batch.x)
    loss = outputs.mean.new_zeros(())
    if heads.targets:
        loss = heads.gaussian_loss(outputs, batch.y, batch.y_counts, beta_nll).mean(-1).sum()
        loss = loss + network.bound_penalty(batch.y_counts.repeat(heads.components))
    if batch.label.shape[-1]:
        loss = loss + heads.discrete_loss(outputs, batch.label, batch.label_counts).mean(-1).sum()
    return loss


class TargetErrors(NamedTuple):
    """The hold-out errors of ``E`` members, of each target that counts.

    Attributes:
        continuous: ``[E, T']`` errors of the means; for a mixture ``[E, 1]``, its negative log-likelihood, since its
            mean may lie between the components, where there are no data.
        blocks: ``[E, B']`` cross-entropies.
        flags: ``[E, F']`` cross-entropies.
    """

    continuous: Tensor
    blocks: Tensor
    flags: Tensor

    @property
    def score(self) -> Tensor:
        """Errors of the members ``[E]``: the means of the three kinds, added up."""
        return sum((part.mean(-1) for part in self if part.shape[-1]), self.continuous.new_zeros(len(self.continuous)))


@torch.no_grad()
def target_errors(network: EnsembleMLP, data: FitData, metric: str = "mse") -> TargetErrors:
    """Return the members' errors on rows, target by target.

    Args:
        network: to score.
        data: rows to score on.
        metric: one of ``HOLDOUT_METRICS``, averaged over the rows.
    """
    heads, size = network.heads, HOLDOUT_METRICS[metric]
    count_blocks, count_flags = (counts.bool() for counts in heads.counts_of_groups(data.label_counts))
    found = []
    for index in range(network.num_members):
        outputs = network.member(index, data.x)
        if heads.components > 1:
            continuous = heads.gaussian_loss(outputs, data.y, data.y_counts).mean()[None]
        else:
            continuous = size(outputs.mean - data.y).mean(0)[data.y_counts.bool()]
        blocks, flags = (terms.mean(0) for terms in heads.discrete_terms(outputs, data.label))
        found.append((continuous, blocks[count_blocks], flags[count_flags]))
    return TargetErrors(*(torch.stack(part) for part in zip(*found, strict=True)))


def holdout_score(network: EnsembleMLP, data: FitData, metric: str = "mse") -> Tensor:
    """Return each member's hold-out error ``[E]``: of the means, plus the cross-entropies of discrete targets."""
    return target_errors(network, data, metric).score


class _Judge:
    """Decides which weights of a member are the best, and whether to go on, by each target in its own proportion.

    In a mean over the targets, the largest errors would dominate, and these belong to targets that can't be predicted:
    noise, coin flips. So errors are compared by their logarithms (linearly, beyond the error of a constant prediction),
    and a target that is not predicted better than by a constant has no influence on whether to go on.

    Args:
        network: to be fitted.
        holdout: rows to score on.
        metric: one of ``HOLDOUT_METRICS``.
        patience: a fit stops when the errors fell by less than 5% (a mixture's negative log-likelihood by less than
            0.02) over ``patience + 1`` evaluations.
    """

    def __init__(self, network: EnsembleMLP, holdout: FitData, metric: str, patience: int) -> None:
        self._network, self._holdout, self._metric, self._patience = network, holdout, metric, patience
        self._is_mixture = network.heads.components > 1
        self._least_gain = _LEAST_GAIN_OF_LIKELIHOOD if self._is_mixture else _LEAST_GAIN
        self._unforeseen = self._errors_of_a_constant()
        self._history: list[Tensor] = []

    def look(self) -> tuple[TargetErrors, Tensor]:
        """Return the current errors of the network, and the criterion to minimise, ``[E]``."""
        errors = target_errors(self._network, self._holdout, self._metric)
        logs = self._logarithms(errors)
        least = logs.mean(0)
        self._history.append(torch.minimum(least, self._history[-1]) if self._history else least)
        return errors, logs.mean(-1)

    def is_stale(self) -> bool:
        """Tell whether the errors have stopped falling."""
        if len(self._history) <= self._patience + 1:
            return False
        before, now = self._history[-self._patience - 2], self._history[-1]
        foreseen = now < self._unforeseen + math.log(0.9)
        gain = before - now
        return not bool((gain[foreseen] if foreseen.any() else gain).mean() > self._least_gain)

    def _logarithms(self, errors: TargetErrors) -> Tensor:
        """Return the logarithms of errors, ``[E, G]``; a likelihood is one already."""
        continuous = errors.continuous if self._is_mixture else (errors.continuous + self._tiny).log()
        logs = torch.cat([continuous, (torch.cat(errors[1:], dim=-1) + _TINY).log()], dim=-1)
        worse = (logs - self._unforeseen).clamp(min=0.0)  # than a constant prediction
        return logs + worse.exp() - 1 - worse

    def _errors_of_a_constant(self) -> Tensor:
        """Return the logarithms of the errors ``[G]`` of predicting the mean and the rates of the hold-out."""
        holdout, heads, size = self._holdout, self._network.heads, HOLDOUT_METRICS[self._metric]
        y = holdout.y[:, holdout.y_counts.bool()]
        spread = size(y - y.mean(0)).mean(0)
        # Added to errors, or noiseless data would be fitted for ever: a tiny error can always shrink by another 5%.
        self._tiny = _TINY * torch.where(spread > 0, spread, 1.0)
        rates = holdout.label.mean(0)
        *blocks, flags = rates.split([*heads.categories, heads.flags])
        entropies = [torch.special.entr(block).sum() for block in blocks]
        of_blocks = torch.stack(entropies) if entropies else flags[:0]
        of_flags = torch.special.entr(flags) + torch.special.entr(1 - flags)
        count_blocks, count_flags = (counts.bool() for counts in heads.counts_of_groups(holdout.label_counts))
        continuous = y.new_full((1,), torch.inf) if self._is_mixture else (spread + self._tiny).log()
        discrete = torch.cat([of_blocks[count_blocks], of_flags[count_flags]]) + _TINY
        return torch.cat([continuous, discrete.log()])


def fit_ensemble(
    network: EnsembleMLP,
    train: FitData,
    holdout: FitData,
    settings: FitSettings,
    generator: torch.Generator | None,
    progress: Callable[[int, float], None] | None = None,
) -> FitReport:
    """Train all members until their hold-out errors have fallen by less than 5% over ``patience + 1`` epochs.

    Running averages of the weights are scored: they have the effect of a decayed learning rate at any time. Each member
    keeps the average, or its starting weights, with the lowest hold-out errors, by the mean of their logarithms over
    the targets; the returned errors are those of exactly these weights. Deviations from MBPO: the averages
    (``averaging=0`` for the last weights); errors are compared target by target; the optimiser starts afresh at each
    fit; and an epoch has at least ``min_epoch_steps`` gradient steps, since with little data, a few passes over it
    would use up the patience long before anything is learned.

    Args:
        network: trained in place.
        train: rows to learn from; each member sees its own bootstrap resample of them.
        holdout: rows to score on.
        settings: see :class:`FitSettings`.
        generator: CPU generator of the bootstrap and the order of batches.
        progress: called at each evaluation, with the number of steps and the mean hold-out error.
    """
    optimizer = _optimizer(network, settings)
    parameters = [p.detach() for p in network.parameters()]
    best, average, last = ([p.clone() for p in parameters] for _ in range(3))
    judge = _Judge(network, holdout, settings.holdout_metric, settings.patience)
    best_errors, best_merit = judge.look()
    rows = len(train.x)
    epoch_steps = max(-(-rows // settings.batch_size), settings.min_epoch_steps)
    steps, loss = 0, torch.zeros(())
    descend = _descent(network, optimizer, train, settings.beta_nll)
    for index in _bootstrap_batches(rows, network.num_members, settings.batch_size, generator, train.x.device):
        loss = descend(index)
        torch._foreach_lerp_(average, parameters, 1 - settings.averaging)
        steps += 1
        out_of_steps = settings.max_steps is not None and steps >= settings.max_steps
        if steps % epoch_steps and not out_of_steps:
            continue
        torch._foreach_copy_(last, parameters)
        torch._foreach_copy_(parameters, average)
        errors, merit = judge.look()
        torch._foreach_copy_(parameters, last)
        improved = merit < best_merit
        best_merit = torch.where(improved, merit, best_merit)
        for kept, value in zip([*best_errors, *best], [*errors, *average], strict=True):
            kept[improved] = value[improved]
        if progress is not None:
            progress(steps, float(best_errors.score.mean()))
        if out_of_steps or judge.is_stale():
            break
    torch._foreach_copy_(parameters, best)
    return FitReport(best_errors, steps, float(loss))


def _descent(
    network: EnsembleMLP, optimizer: torch.optim.Optimizer, train: FitData, beta_nll: float
) -> Callable[[Tensor], Tensor]:
    """Return a function that takes a gradient step on rows ``[E, B]`` and returns the loss; on a GPU it is captured."""

    def descend(index: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = ensemble_loss(network, train[index], beta_nll)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if objection_to_capture(train.x.device):
        return descend
    recorder = GraphCapture(train.x.device)

    def descend_on_gpu(index: Tensor) -> Tensor:
        if not optimizer.state:  # it is created by the first step, which can't be captured yet
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*capturable=True")  # warns that this step isn't captured
                return descend(index)
        moments = [value for state in optimizer.state.values() for value in state.values()]
        return recorder.captured(descend, [*network.parameters(), *moments])(index)

    return descend_on_gpu


def _optimizer(network: EnsembleMLP, settings: FitSettings) -> torch.optim.Optimizer:
    decayed: list[dict[str, Any]] = [
        {"params": [weight], "weight_decay": decay}
        for weight, decay in zip(network.weights, settings.weight_decay, strict=True)
    ]
    others = [*network.biases, network.max_logvar, network.min_logvar]
    is_captured = objection_to_capture(others[0].device) is None
    return torch.optim.Adam(
        [*decayed, {"params": others}], lr=settings.learning_rate, fused=True, capturable=is_captured
    )


def _bootstrap_batches(
    rows: int, num_members: int, batch_size: int, generator: torch.Generator | None, device: torch.device
) -> Iterator[Tensor]:
    """Yield indices ``[E, B]`` for ever: each member passes over its own resample with replacement."""
    bootstrap = torch.randint(rows, (num_members, rows), generator=generator)
    while True:
        there = bootstrap.to(device)
        for start in range(0, rows, batch_size):
            yield there[:, start : start + batch_size]
        bootstrap = bootstrap[:, torch.randperm(rows, generator=generator)]
