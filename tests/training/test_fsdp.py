"""FSDP2 forced on two CPU processes, where accelerate would make DDP of it: the steps of DDP, and what is refused."""

import copy
import os
import warnings
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor

from mtl_hf.training import arguments
from tests.conftest import two_source_config
from tests.training.conftest import Built, FixedBatches, build, make_trainer, task_losses, weights
from tests.training.test_trainer import labelled_config

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


@pytest.fixture
def force_fsdp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are forked from here shard their model."""
    init = Accelerator.__init__

    def sharding(self: Accelerator, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if self.num_processes > 1:
            state = AcceleratorState._shared_state
            state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": FullyShardedDataParallelPlugin()}
            # About views that the model returns, which nothing here writes to.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")

    monkeypatch.setattr(Accelerator, "__init__", sharding)
    monkeypatch.setattr(arguments, "check_fsdp_device", lambda requested, on_cpu: None)


@pytest.mark.parametrize("pieces", [1, 2])
def test_fsdp_takes_the_steps_of_one_process(pieces, still_encoder_folder, tmp_path, two_processes, force_fsdp):
    config = two_source_config(still_encoder_folder, tmp_path)
    config["model"]["dropout"] = 0.0
    built = build(config)
    built.model.double()

    def train(batch_size: int) -> tuple[list[dict[str, float]], dict[str, Tensor], int]:
        own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
        options = {"layerwise_lr_decay": 0.8, "weight_decay": 0.1, "freeze": ["embeddings"]}
        trainer = make_trainer(
            own, tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=pieces, max_steps=10,
            eval_strategy="steps", eval_steps=5, **options
        )  # fmt: skip
        trainer.train()
        whole = {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                 for name, tensor in weights(trainer.model).items()}  # fmt: skip
        return task_losses(trainer), whole, sum(isinstance(p, DTensor) for p in trainer.model.parameters())

    losses, after, sharded = train(8)
    assert len(losses) == 10
    assert not sharded

    def train_sharded() -> tuple[list[dict[str, float]], dict[str, Tensor], int]:
        os.environ.update(FSDP)  # of this process, as a launcher does
        return train(4)

    for own_losses, own_after, sharded in two_processes(train_sharded):
        assert sharded == len(list(built.model.parameters())), "it should be cut up"
        assert all(own == pytest.approx(one, abs=1e-9) for own, one in zip(own_losses, losses, strict=True))
        for name, tensor in after.items():
            assert (own_after[name] - tensor).abs().max() < 1e-9, name


def test_labels_of_a_task_on_some_ranks_only_are_refused(encoder_folder, tmp_path, two_processes):
    built = build(labelled_config(encoder_folder))

    def train() -> str:
        trainer = make_trainer(built, tmp_path, num_train_epochs=1)
        trainer.is_fsdp_enabled = True
        rank, world_size = trainer.args.process_index, trainer.args.world_size
        trainer.batch_sampler = FixedBatches([[33, 35, 37, 39], [33, 1, 7, 3]], rank=rank, world_size=world_size)
        batches = iter(trainer.get_train_dataloader())
        said = ""
        for _ in range(2):
            try:
                trainer.get_batch_samples(batches, 1, trainer.args.device)
            except ValueError as error:
                said += str(error)
        return said

    first, second = two_processes(train)
    assert not first
    assert second.startswith("task 'rare' has labels in step 1, but none on rank 1, which FSDP does not support: use ")
