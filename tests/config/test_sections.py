"""Tests of `mtl_hf.config.sections`."""

import dataclasses

from mtl_hf.config import Model, OurTraining, Source, Task, describe
from mtl_hf.tasks import TASK_TYPES


def test_help_names_every_field_of_ours_with_its_meaning() -> None:
    options = {name: kind.options for name, kind in TASK_TYPES.items()}
    text = describe(options)
    for section in (Model, Source, Task, OurTraining, *options.values()):
        for item in dataclasses.fields(section):
            if item.name not in ("loader", "options", "dataset"):  # not keys of the YAML
                assert f"  {item.name.removesuffix('_')}: {item.metadata['help']}" in text
    assert "\n  encoder: " in text
    assert "[round_robin]" in text
    assert "(required)" in text
    assert "tasks.<name>: with type: masked_lm" in text
    assert "with type: regression" not in text  # it has no keys of its own
    assert "${name}" in text
