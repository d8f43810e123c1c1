"""Tests of `mtl_hf.training.ranges`: numbers that no run can use, and refusals of transformers by the field's name."""

from typing import Any

import pytest

from mtl_hf.training.arguments import MultiTaskTrainingArguments, read_arguments


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_steps", 10**14, "at least 1 and at most 1,000,000,000, or -1 to train for `num_train_epochs`"),
        ("max_steps", 0, "at least 1"),
        ("num_train_epochs", 1e300, "above 0 and at most 1,000,000"),
        ("num_train_epochs", float("inf"), "above 0 and at most 1,000,000"),
        ("num_train_epochs", float("nan"), "above 0"),
        ("num_train_epochs", -3, "above 0"),
        ("per_device_train_batch_size", 10**9, "at least 1 and at most 1,000,000"),
        ("learning_rate", float("nan"), "at least 0 and at most 1,000"),
        ("learning_rate", -1, "at least 0"),
        ("seed", -1, "at least 0 and at most 4,294,967,295"),
        ("seed", 2**32, "at least 0 and at most 4,294,967,295"),
        ("data_seed", 2**64, "at least 0 and at most 4,294,967,295"),
        ("warmup_steps", 1.5, "a fraction below 1, or an integer number of steps"),
        ("adam_beta1", 1, "at least 0 and below 1"),
        ("max_grad_norm", float("inf"), "at least 0 and finite"),
        ("save_total_limit", 0, "at least 1"),
        ("logging_steps", 0, "above 0"),
        ("eval_steps", 2.5, "a fraction below 1, or an integer number of steps"),
        ("dataloader_num_workers", 10**8, "at least 0 and at most 1,024"),
    ],
)
def test_a_number_outside_of_its_range_is_refused_with_the_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"`training\.{name}` is .*; it is {expected}"):
        MultiTaskTrainingArguments(**{name: value})


def test_ends_of_ranges_are_inside() -> None:
    arguments = MultiTaskTrainingArguments(
        seed=2**32 - 1, warmup_steps=0.1, max_grad_norm=0, max_steps=1, learning_rate=0, adam_beta1=0, logging_steps=0.5
    )
    assert arguments.seed == 2**32 - 1


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"seed": 1, "accelerator_config": {"a": 1}}, "accelerator_config"),
        ({"accelerator_config": "nothing.json", "seed": 1}, "accelerator_config"),
        ({"lr_scheduler_type": "nonsense"}, "lr_scheduler_type"),
        ({"optim": "nonsense", "seed": 1}, "optim"),
    ],
)
def test_what_transformers_refuses_is_refused_by_the_name_of_the_field(section: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^`training\.{name}`(: | is 'nonsense'; valid are)"):
        read_arguments(section)
