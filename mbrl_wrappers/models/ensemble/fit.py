"""The data that each network of an ensemble is fitted on, and how the fitted model does on rewards and ends."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl_wrappers.models import routing
from mbrl_wrappers.models.ensemble.step import NetworkSteps
from mbrl_wrappers.models.fit import FitData, FitReport, FitSettings, Progress, TargetErrors, fit_ensemble
from mbrl_wrappers.models.heads import MOST_SPREADS
from mbrl_wrappers.types import Outcome, Transitions

_LEAST_ENDS = 5
_LEAST_STEPS = 100


def fit_networks(
    model: NetworkSteps,
    train: Transitions,
    holdout: Transitions,
    generator: torch.Generator | None,
    progress: Progress | None,
) -> dict[str, FitReport]:
    """Fit the normalisers and then each network, for as long as that network improves.

    The network of next observations comes first, since the others' inputs are blurred by the noise that it predicts.

    Args:
        model: fitted in place.
        train: rows to learn from.
        holdout: rows to score on.
        generator: CPU generator of all randomness.
        progress: prints how each fit is getting on; None to print nothing.
    """
    _fit_normalizers(model, train)
    if model.termination_network is not None and not len(model.start_obs):  # the first fit starts from the base rate
        rate = train.terminated.double().mean().clamp(1e-9, 1 - 1e-9)
        model.termination_network.biases[-1].data.fill_(float(rate.logit()))
    reports = {}
    seen: list[Tensor] = []  # inputs of the networks of rewards and terminations, made once for both
    for name, network in model.networks.items():
        if name == "network":
            learned, scored = (_observation_data(model, part) for part in (train, holdout))
        else:
            seen = seen or [_outcome_inputs(model, part, generator) for part in (train, holdout)]
            learned, scored = (
                _outcome_data(model, name, x, part) for x, part in zip(seen, (train, holdout), strict=True)
            )
        told = None if progress is None else progress.of(name)
        reports[name] = fit_ensemble(network, learned, scored, _fit_settings(model, name), generator, told)
    return reports


def total_score(reports: dict[str, FitReport]) -> Tensor:
    """Return the hold-out error ``[E]`` over all networks.

    The mean error of the continuous targets (with a learned reward among them), plus the mean cross-entropy of the
    one-hot blocks, plus that of the flags (with a learned termination among them).
    """
    errors = [report.errors for report in reports.values()]
    continuous = torch.cat([part.continuous for part in errors], dim=-1)
    blocks, flags = (torch.cat([part[kind] for part in errors], dim=-1) for kind in (1, 2))
    return TargetErrors(continuous, blocks, flags).score


def _targets(model: NetworkSteps, transitions: Transitions) -> Tensor:
    """Return the continuous targets ``[N, T]`` of the network of next observations, differences in float64."""
    target = model.columns.targets_of(transitions.obs.double(), transitions.next_obs.double())
    return torch.cat([target, transitions.reward[:, None].double()], dim=-1) if model.has_joint_reward else target


def _fit_normalizers(model: NetworkSteps, train: Transitions) -> None:
    model.input_normalizer.fit(torch.cat([train.obs, train.action], dim=-1))
    if model.settings["normalize_targets"]:
        # The spacing of floating-point numbers at each column's largest value: smaller changes are rounding errors.
        size = torch.maximum(train.obs.abs(), train.next_obs.abs()).amax(0)
        spacing = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
        resolution = F.pad(model.columns.targets_of(0 * spacing, spacing), (0, int(model.has_joint_reward)))
        model.target_normalizer.fit(_targets(model, train).to(train.obs.dtype), resolution)
        if model.reward_normalizer is not None:
            model.reward_normalizer.fit(train.reward[:, None])


def _inputs_and_targets(model: NetworkSteps, transitions: Transitions) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised inputs ``[N, D + A]`` and targets ``[N, T]``, and the discrete columns ``[N, L]``."""
    t, dtype = transitions, model.dtype
    x = model.input_normalizer.normalize(torch.cat([t.obs, t.action], dim=-1)).to(dtype)
    y = model.target_normalizer.normalize(_targets(model, t).to(t.obs.dtype)).to(dtype)
    return x, y, model.columns.discrete_of(t.next_obs).to(dtype)


def _observation_data(model: NetworkSteps, transitions: Transitions) -> FitData:
    """Return the data of the network of next observations."""
    x, y, label = _inputs_and_targets(model, transitions)
    y_counts, label_counts = (counts.to(x) for counts in model.columns.counts())
    one = x.new_ones(1)
    if model.has_joint_reward:
        y_counts = torch.cat([y_counts, one])
    if model.has_joint_end:
        end = transitions.terminated[:, None].to(x)
        label, label_counts = torch.cat([label, end], dim=-1), torch.cat([label_counts, one])
    return FitData(x, y, label, y_counts, label_counts)


@torch.no_grad()
def _outcome_inputs(model: NetworkSteps, transitions: Transitions, generator: torch.Generator | None) -> Tensor:
    """Return the inputs of the networks of rewards and terminations, ``[2 N, 2 D + A]``.

    Real steps lie on thin surfaces, imagined ones are noisy. So each row comes twice: as it is, and with noise of a
    random share of the standard deviation that one of the members, taken in turn, predicts for it.
    """
    x, y, label = _inputs_and_targets(model, transitions)
    members = torch.arange(len(x), device=x.device) % model.network.num_members
    deal = routing.grouped(members, model.network.num_members)
    std = model.network.heads.moments(routing.evaluate(model.network, x, deal))[1]
    noise, share = torch.randn(y.shape, generator=generator), torch.rand(len(y), 1, generator=generator)
    blurred = y + model.columns.counts()[0].to(y) * std * (noise * share).to(y)
    targets = [target.clamp(-MOST_SPREADS, MOST_SPREADS) for target in (y, blurred)]
    return torch.cat([torch.cat([x, target, label], dim=-1) for target in targets])


def _outcome_data(model: NetworkSteps, name: str, x: Tensor, transitions: Transitions) -> FitData:
    """Return the data of the network of rewards or of terminations, from its inputs."""
    t, none, one = transitions, x[:, :0], x.new_ones(1)
    if name == "termination_network":
        return FitData(x, none, t.terminated[:, None].to(x).repeat(2, 1), one[:0], one)
    assert model.reward_normalizer is not None
    reward = model.reward_normalizer.normalize(t.reward[:, None].to(x))
    return FitData(x, reward.repeat(2, 1), none, one, one[:0])


def _fit_settings(model: NetworkSteps, name: str) -> FitSettings:
    settings = FitSettings(**{field.name: model.settings[field.name] for field in fields(FitSettings)})
    layers = len(model.networks[name].weights)
    decay = [*settings.weight_decay[: layers - 1], settings.weight_decay[-1]]
    return replace(settings, weight_decay=decay)


@torch.no_grad()
def check_outcomes(
    model: NetworkSteps, holdout: Transitions, foreseen: Outcome, chance: Tensor | None, reports: dict[str, FitReport]
) -> dict[str, float]:
    """Return how mean predictions do on rewards and ends, and warn where ends are not foreseen at all.

    Args:
        model: fitted.
        holdout: rows to judge it by.
        foreseen: the mean predictions of these rows.
        chance: ``[B]`` predicted probabilities that these rows terminate; None if the termination is given.
        reports: of the fit; there is no warning after only a few gradient steps.
    """
    report, real = {}, holdout.terminated
    spread = (holdout.reward - holdout.reward.mean()).square().sum()
    if model.reward_fn is None and spread > 0:
        report["reward_r2"] = 1 - float((foreseen.reward - holdout.reward).square().sum() / spread)
    num_ends, num_found = int(real.sum()), int((foreseen.terminated & real).sum())
    if num_ends:
        report["ends_recall"] = num_found / num_ends
    if num_said := int(foreseen.terminated.sum()):
        report["ends_precision"] = num_found / num_said
    if chance is not None:
        chance = chance.clamp(1e-6, 1 - 1e-6)
        loss = F.binary_cross_entropy(chance, real.to(chance))
        report["ends_log_loss"] = float(loss)
        rate = real.to(chance).mean().clamp(1e-6, 1 - 1e-6)
        of_rate = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
        steps = reports["network" if model.has_joint_end else "termination_network"].steps
        if num_ends >= _LEAST_ENDS and not num_found and loss > 0.95 * of_rate and steps >= _LEAST_STEPS:
            model.warn_once(
                "ends",
                f"the model foresees none of the {num_ends} terminations among {len(real)} held-out transitions: their "
                f"chance is {float(chance[real].mean()):.2g} on average, no more than elsewhere. Either they happen by "
                "chance, or the observation does not show what ends an episode. If you know the rule, give the model a "
                "termination_fn",
            )
    return report
