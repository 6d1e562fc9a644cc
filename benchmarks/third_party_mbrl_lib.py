"""mbrl-lib's ensemble on stored rows, in an environment of its own (see ``peer.py``): ROWS RECORD.

Its ensemble, trainer and settings are those of its MBPO recipe, except that batches are smaller: with 256 rows
its patience, which counts epochs, stops a fit of so few rows after some hundred gradient steps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mbrl.models import GaussianMLP, ModelTrainer, OneDTransitionRewardModel
from mbrl.util.common import get_basic_buffer_iterators
from mbrl.util.replay_buffer import ReplayBuffer
from third_party_rows import Array, Predict, Rows, load_rows, skills, update_record

NUM_MEMBERS, NUM_ELITES, NUM_LAYERS, HIDDEN = 7, 5, 4, 200
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, PATIENCE, VALIDATION_RATIO = 64, 1e-3, 5e-5, 5, 0.2


def fit(train: Rows) -> tuple[Predict, int]:
    """Return its mean prediction, over the elites, and how many epochs its fit took."""
    obs_dim, action_dim = train.obs.shape[1], train.action.shape[1]
    network = GaussianMLP(
        obs_dim + action_dim,
        obs_dim + 1,
        "cpu",
        num_layers=NUM_LAYERS,
        ensemble_size=NUM_MEMBERS,
        hid_size=HIDDEN,
        learn_logvar_bounds=True,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )
    model = OneDTransitionRewardModel(network, normalize=True, learned_rewards=True, num_elites=NUM_ELITES)
    memory = ReplayBuffer(len(train), (obs_dim,), (action_dim,), rng=np.random.default_rng(0))
    ends = train.terminated
    memory.add_batch(train.obs, train.action, train.next_obs, train.reward, ends, np.zeros_like(ends))
    model.update_normalizer(memory.get_all())
    parts = get_basic_buffer_iterators(memory, BATCH_SIZE, VALIDATION_RATIO, NUM_MEMBERS)
    trainer = ModelTrainer(model, optim_lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses, _ = trainer.train(*parts, patience=PATIENCE, silent=True)

    @torch.no_grad()
    def predict(obs: Array, action: Array) -> Array:
        x = model._get_model_input(obs.astype(np.float32), action.astype(np.float32))
        mean, _ = network(x, use_propagation=False)
        return obs + mean[network.elite_models, :, :obs_dim].mean(0).double().numpy()

    return predict, len(losses)


def main(rows: Path, record: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_rows(rows)
    start = time.process_time()
    predict, epochs = fit(data.train)
    result: dict[str, Any] = {"fit_seconds": time.process_time() - start, "epochs": epochs}
    update_record(record, "mbrl-lib", {**result, **skills(predict, data)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
