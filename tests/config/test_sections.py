"""Tests of `mtl_hf.config.sections`."""

import dataclasses

from mtl_hf.config import Model, OurTraining, Source, Task, describe


def test_help_names_every_field_of_ours_with_its_meaning() -> None:
    text = describe()
    for section in (Model, Source, Task, OurTraining):
        for item in dataclasses.fields(section):
            if item.name not in ("loader", "dataset"):  # not keys of the YAML
                assert f"  {item.name.removesuffix('_')}: {item.metadata['help']}" in text
    assert "\n  encoder: " in text
    assert "[round_robin]" in text
    assert "(required)" in text
    assert "${name}" in text
