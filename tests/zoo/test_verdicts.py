"""What a report says in words: of a model, of agents compared, and of how a run is made again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mbrl_wrappers.zoo.analysis.findings import Diagnosis, ExploitationGap, RewardError, TerminationErrors
from mbrl_wrappers.zoo.analysis.model_error import HorizonError
from mbrl_wrappers.zoo.report.reproduction import link_from
from mbrl_wrappers.zoo.report.runs import Group, Run
from mbrl_wrappers.zoo.report.sentences import MINUS
from mbrl_wrappers.zoo.report.verdicts import comparison_sentences, model_verdict
from mbrl_wrappers.zoo.training.job_making import make_job
from mbrl_wrappers.zoo.training.progress import Evaluation


def diagnosis(trusted: int, rmse: float, hits: int, misses: int, imagined: float) -> Diagnosis:
    return Diagnosis(
        seed=0,
        steps=100,
        error=[HorizonError(step, 0.0, 0.1 if step <= trusted else 1.0, 2.0) for step in range(1, 31)],
        calibration=None,
        reward=RewardError(False, rmse, 1.0),
        termination=TerminationErrors(False, hits, misses, 0, 90),
        exploitation=ExploitationGap(100, [100.0, 100.0], [imagined, imagined]),
        threshold=0.25,
        trusted_steps=trusted,
    )


@pytest.mark.parametrize(
    ("of_model", "says"),
    [
        (
            diagnosis(30, 0.8**0.5, 0, 0, 49.0),
            "The model's states hold for 30 steps or more, but its reward is not right (R² 0.20). "
            "Imagined returns are 51 too low: 49, 100 in reality.",
        ),
        (
            diagnosis(1, 0.1, 9, 1, 104.0),
            "The model's states hold for 1 step, its reward is right (R² 0.99) and it foresees 9 of 10 ends. "
            "Imagined returns are about right: 104, and 100 in reality.",
        ),
        (
            diagnosis(0, float("inf"), 1, 9, 300.0),
            "The model's states do not hold for even one step, its reward is not right at all and it foresees 1 of "
            "10 ends. Imagined returns are 200 too high, which the policy may exploit: 300, 100 in reality.",
        ),
        (
            diagnosis(5, 0.1, 2, 8, float("inf")),
            "The model's states hold for 5 steps and its reward is right (R² 0.99), but it foresees 2 of 10 ends. "
            "Imagined returns run off to infinity: the model is not to be used for long rollouts.",
        ),
    ],
)
def test_a_model_is_weighed_in_one_paragraph(of_model: Diagnosis, says: str) -> None:
    assert model_verdict(of_model) == says


class Finished(Run):
    """A finished run of some evaluation episodes."""

    @property
    def returns(self) -> list[float]:
        return [self.last_return]


def group(label: str, returns: list[float], cpu: float, steps: int = 1000) -> Group:
    spec = make_job("mbpo", "Pendulum-v1")
    runs: list[Run] = [
        Finished(Path("."), dataclasses.replace(spec, seed=seed), [Evaluation(steps, value, 1.0, 9, cpu, cpu)], None)
        for seed, value in enumerate(returns)
    ]
    return Group(label, runs)


def test_the_better_agent_is_named_with_its_lead_and_its_cost() -> None:
    (says,) = comparison_sentences([group("SAC", [-300, -280], 40.0), group("MBPO(SAC)", [-150, -170], 160.0)])
    assert says == (
        f"MBPO(SAC) was better than SAC by 130: its last return is {MINUS}160, the other's "
        f"{MINUS}290. Each of its 2 seeds was better than all 2 of the other. It took 4.0 times the "
        "CPU time (2 min 40 s, 40 s), after as many env steps."
    )
    (overlap,) = comparison_sentences([group("A", [1.0, 5.0], 100.0, 500), group("B", [2.0, 3.0], 300.0)])
    assert "Their seeds overlap" in overlap and "3.0 times less CPU time" in overlap
    assert "after 500 env steps against 1,000" in overlap
    (single,) = comparison_sentences([group("A", [1.0], 100.0), group("B", [2.0], 101.0)])
    assert "With one seed of each that says little" in single and "about as much CPU time" in single
    assert comparison_sentences([group("A", [1.0], 100.0)]) == []


def test_a_link_leads_from_the_page_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    assert link_from(tmp_path / "report.html", tmp_path / "runs" / "a b" / "x.csv") == "runs/a%20b/x.csv"
    assert link_from(tmp_path / "out" / "report.html", tmp_path / "runs") == "../runs"
    assert link_from(tmp_path / "report.html", tmp_path / "javascript:alert(1)").startswith("javascript%3A")
