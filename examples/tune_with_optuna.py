"""Tune MBPO with Optuna: trials that lag behind are pruned, and the same command goes on with the study.

python examples/tune_with_optuna.py
"""

import gymnasium as gym
import numpy as np
import optuna
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import Dyna, EnsembleDynamics, ModelBased

ENV = "Pendulum-v1"


def objective(trial: optuna.Trial) -> float:
    """Train on a seed that no result will be reported on, and return the last mean return."""
    agent = SAC(
        "MlpPolicy",
        ENV,
        learning_starts=200,
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
        gradient_steps=trial.suggest_int("gradient_steps", 1, 10),
        policy_kwargs={"net_arch": [64, 64]},
        seed=100,
    )
    dynamics = EnsembleDynamics.for_env(ENV, hidden=(64, 64), max_steps=500)
    strategy = Dyna(real_ratio=trial.suggest_float("real_ratio", 0.05, 0.5), rollouts_per_step=100)
    model_based = ModelBased(strategy, dynamics)
    mean = float("-inf")
    for part in range(3):  # the same agent goes on; the model stays with it
        agent.learn(400, callback=model_based, reset_num_timesteps=part == 0)
        returns, _ = evaluate_policy(agent, Monitor(gym.make(ENV)), n_eval_episodes=5, return_episode_rewards=True)
        mean = float(np.mean(returns))
        trial.report(mean, part)
        if trial.should_prune():
            raise optuna.TrialPruned
    return mean


def main() -> None:
    """Go on with the study in mbpo.db, or begin it."""
    torch.set_num_threads(1)
    study = optuna.create_study(
        study_name="mbpo",
        storage="sqlite:///mbpo.db",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.optimize(objective, n_trials=20)
    print(f"best return {study.best_value:.0f} with {study.best_params}")


if __name__ == "__main__":
    main()
