"""Tests of `experiments.space` and `search_plan`: what a file declares, what that means, and what is refused."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from mtl_hf.config import RunConfig
from mtl_hf.experiments.search_plan import check_space, num_trials, read_checked, read_search
from mtl_hf.experiments.space import TRIALS, Dimension, Search, read_space
from tests.experiments.conftest import write_search

ROOT = Path(__file__).parent.parent.parent
SEARCHES = sorted((ROOT / "configs" / "tune").glob("*.yaml"))
RUN: dict[str, Any] = {
    "model": {"encoder": "some/encoder"},
    "sources": {"one": {"path": "json", "data_files": "one.jsonl", "text": "text"}},
    "tasks": {"a": {"type": "sequence_classification", "source": "one", "label": "a"}},
    "training": {"learning_rate": 1e-4},
}
RATE = {"training.learning_rate": "uniform(0, 1)"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a run's YAML, `run.yaml`."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN), encoding="utf-8")
    return tmp_path


def value_of(dimension: Dimension, value: Any) -> Any:
    """What a config has at the setting of a dimension."""
    found: Any = RunConfig.load(RUN, dimension.overrides(value)).to_dict()
    for key in dimension.name.split("."):
        found = found[key]
    return found


@pytest.mark.parametrize(
    ("expression", "low", "high", "whole", "log"),
    [
        ("uniform(0, 0.3)", 0.0, 0.3, False, False),
        ("uniform(-1.5, 2)", -1.5, 2.0, False, False),
        ("loguniform(1e-5, 1e-3)", 1e-5, 1e-3, False, True),
        (" loguniform ( 1.0e-5 , .001 ) ", 1e-5, 1e-3, False, True),
        ("int(1, 4)", 1.0, 4.0, True, False),
        ("logint(16, 256)", 16.0, 256.0, True, True),
    ],
)
def test_ranges(expression: str, low: float, high: float, whole: bool, log: bool) -> None:
    (dimension,) = read_space({"training.learning_rate": expression})
    assert dimension == Dimension("training.learning_rate", low, high, whole, log)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [dimension.suggest(study.ask()) for _ in range(300)]
    assert all(low <= value <= high for value in drawn)
    assert all(isinstance(value, int if whole else float) for value in drawn)
    if whole and not log:
        assert set(drawn) == set(range(int(low), int(high) + 1))
    # Half of the values lie below the middle, which of a range by ratios is the geometric one.
    middle = (low * high) ** 0.5 if log else (low + high) / 2
    share = sum(value < middle for value in drawn) / len(drawn)
    assert share == pytest.approx(0.5, abs=0.1)
    for value in (drawn[0], *dimension.ends):
        assert float(value_of(dimension, value)) == value, "to the last bit"


@pytest.mark.parametrize(
    ("name", "expression", "values"),
    [
        ("sources.one.batch_size", "choice(16, 32, 64)", [16, 32, 64]),
        ("training.learning_rate", "choice(1e-5, 0.001)", [1e-5, 1e-3]),
        ("model.encoder", "choice(me/one, 'me/two', \"012\")", ["me/one", "me/two", "012"]),
        ("model.peft", "choice(null, {type: LoraConfig, r: 8})", [None, {"type": "LoraConfig", "r": 8}]),
        ("training.freeze", "choice([], [embeddings, encoder.layers.0-1])", [[], ["embeddings", "encoder.layers.0-1"]]),
        ("model.trust_remote_code", "choice(true, no)", [True, False]),
        ("model.encoder_config", "choice({a: (x), b: 1.5}, {})", [{"a": "(x)", "b": 1.5}, {}]),
    ],
)
def test_choices_are_what_the_yaml_would_be(name: str, expression: str, values: list[Any]) -> None:
    (dimension,) = read_space({name: expression})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {dimension.suggest(study.ask()) for _ in range(60)}
    assert drawn == set(dimension.choices) == set(dimension.ends)
    defaults = {"model.peft": None, "model.trust_remote_code": False, "model.encoder_config": {}}
    for text, value in zip(dimension.choices, values, strict=True):
        if value == defaults.get(name, ...):  # of which `to_dict` says nothing
            section, key = name.split(".")
            assert getattr(getattr(RunConfig.load(RUN, dimension.overrides(text)), section), key) == value
        else:
            assert str(value_of(dimension, text)) == str(value) or value_of(dimension, text) == value


def test_settings_that_belong_together_are_one_choice() -> None:
    sets = {"plain": [], "upgrad": ["training.policy=round_robin", "training.gradient_aggregation=UPGrad"]}
    (dimension,) = read_space({"strategy": sets})
    assert dimension.overrides("upgrad") == sets["upgrad"]
    assert dimension.overrides("plain") == []
    assert dimension.keys == {"training.policy", "training.gradient_aggregation"}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "`space` is empty"),
        ({"a.b": "1e-4"}, "`space.a.b` is '1e-4'; it should be uniform(0, 0.3)"),
        ({"a.b": [1, 2]}, "it should be uniform(0, 0.3)"),
        ({"a.b": "logunifrom(1, 2)"}, "there is no logunifrom(...). Did you mean `loguniform`?"),
        ({"a.b": "uniform(1)"}, "uniform takes two numbers"),
        ({"a.b": "uniform(1, x)"}, "uniform takes two numbers"),
        ({"a.b": "uniform(2, 1)"}, "the first number is less than the second"),
        ({"a.b": "uniform(1, .inf)"}, "both are finite"),
        ({"a.b": "uniform(.nan, 1)"}, "the first number is less than the second"),
        ({"a.b": "loguniform(0, 1)"}, "its minimum is above 0"),
        ({"a.b": "int(1, 2.5)"}, "int takes integers"),
        ({"a.b": "choice(1)"}, "at least two values"),
        ({"a.b": "choice(1, 2, 1)"}, "at least two values, all different"),
        ({"a.b": "choice(1, {)"}, "`space.a.b` is not valid YAML"),
        ({"s": {"one": []}}, "it needs at least two lists of overrides"),
        ({"s": {"one": [], "two": []}}, "it needs at least two lists of overrides"),
        ({"s": {"one": ["x"], "two": []}}, "`space.s.one` should be a list of overrides"),
        ({"s": {"one": "a=b", "two": []}}, "`space.s.one` should be a list of overrides"),
        ({"a.b": "choice(1, 2)", "s": {"x": ["a.b=3"], "y": []}}, "`space.s` and `space.a.b` both set a.b"),
    ],
)
def test_what_cannot_be_read_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_space(space)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {"training.lerning_rate": "uniform(0, 1)"}}, "`training`. Did you mean `learning_rate`?"),
        ({"space": {"model.encodr": "choice(a, b)"}}, "unknown key `encodr` in `model`. Did you mean `encoder`?"),
        ({"space": {"tasks.b.loss_weight": "uniform(1, 2)"}}, "'b' is not in `tasks`."),
        ({"space": {"sources.two.batch_size": "int(1, 2)"}}, "'two' is not in `sources`."),
        ({"space": {"tasks.a.loss_weight": "uniform(-1, 1)"}}, "`space.tasks.a.loss_weight`, -1.0: `tasks.a"),
        ({"space": {"training.policy": "choice(fixed, free)"}}, "`space.training.policy`, free: `training.policy` is"),
        ({"space": {"training.num_train_epochs": "choice(1, many)"}}, "`space.training.num_train_epochs`, many:"),
        ({"space": {"tasks.a": "choice({type: regression}, {})"}}, "tasks.a is a section"),
        ({"space": {"data": "choice(here, there)"}}, "data is a section"),
        ({"space": {"training.max_steps": "int(5, 9)"}}, "max_steps cannot be searched with `prune: true`"),
        ({"space": {"s": {"x": [], "y": ["training.num_train_epochs=2"]}}}, "set `prune: false`."),
        ({"space": {"s": {"x": [], "y": ["training.polcy=fixed"]}}}, "`space.s`, y: unknown key `polcy`"),
        ({"space": {"training.metric_for_best_model": "choice(score, a_accuracy)"}}, "decides how trials are scored"),
        ({"space": {"s": {"x": [], "y": ["tasks.a.score_weight=2"]}}}, "`space.s`: tasks.a.score_weight decides how"),
        ({"space": {"sources.one.split.validation": "uniform(0.1, 0.2)"}}, "sources.one.split.validation decides how"),
        ({"space": RATE, "overrides": ["training.learning_rate=1"]}, "an override of it has no effect"),
        ({"space": RATE, "sampler": "grid"}, "a continuous range, which a grid cannot search"),
        ({"space": RATE, "sampler": "bayes"}, "`sampler` is bayes; valid are tpe, random, grid"),
        ({"space": RATE, "trials": 0}, "`trials` is 0; it is at least 1"),
        ({"space": RATE, "triels": 1}, "unknown key `triels`. Did you mean `trials`?"),
        ({}, "`space` is missing"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(folder: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_checked(write_search(folder, **keys), None, [])


@pytest.mark.parametrize(
    ("setting", "expression"),
    [
        ("training.eval_steps", "choice(10, 20)"),
        ("training.eval_strategy", "choice(steps, epoch)"),
        ("training.eval_delay", "choice(0, 1)"),
        ("training.eval_on_start", "choice(true, false)"),
        ("training.logging_steps", "int(1, 5)"),
        ("tasks.a.type", "choice(sequence_classification, regression)"),
        ("tasks.a.source", "choice(one, [one])"),
        ("tasks.a.label", "choice(a, b)"),
        ("tasks.a.labels", "choice([x, y], [y, x])"),
        ("tasks.a.train", "choice(true, false)"),
        ("tasks.a.bio", "choice(repair, refuse)"),
        ("tasks.a.mlm_probability", "uniform(0.05, 0.6)"),
        ("tasks.a.whole_word_mask", "choice(true, false)"),
        ("tasks.a.score_range", "choice([0, 1], [0, 5])"),
        ("sources.one.path", "choice(json, csv)"),
        ("sources.one.data_files", "choice(a.jsonl, b.jsonl)"),
        ("sources.one.data_files.validation", "choice(a.jsonl, b.jsonl)"),
        ("sources.one.text", "choice(text, other)"),
        ("sources.one.split.seed", "int(1, 2)"),
        ("sources.one.drop_bad_rows", "choice(true, false)"),
        ("sources.one.name", "choice(en, de)"),  # for the loader
    ],
)
def test_what_decides_how_trials_are_scored_cannot_be_searched(folder: Path, setting: str, expression: str) -> None:
    message = f"`space.{setting}`: {setting} decides how trials are scored or what they keep"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_checked(write_search(folder, space={setting: expression}), None, [])


def test_a_name_is_fixed_in_its_own_section_only(folder: Path) -> None:
    space = {
        "model.encoder_config.type": "choice(a, b)",
        "model.peft": "choice(null, {type: LoraConfig})",
        "tasks.a.temperature": "uniform(0.1, 1)",
        "training.seed": "int(1, 3)",
        "sources.one.max_train_rows": "int(5, 9)",
    }
    assert len(read_checked(write_search(folder, space=space), None, [])[1]) == 5


UNEVEN = [
    ("sources.one.batch_size", "choice(8, 16)"),
    ("sources.one.max_train_rows", "choice(8, 16)"),
    ("training.policy", "choice(round_robin, proportional)"),
    ("training.stopping_rule", "choice(all_exhausted, first_exhausted)"),
    ("training.examples_cap", "choice(10, 20)"),
    ("training.gradient_accumulation_steps", "int(1, 2)"),
    ("training.gradient_aggregation", "choice(null, UPGrad)"),
]


@pytest.mark.parametrize(("setting", "expression"), UNEVEN)
def test_pruning_is_refused_where_evaluations_come_at_unequal_shares(
    folder: Path, setting: str, expression: str
) -> None:
    def check(*overrides: str, prune: bool = True) -> None:
        path = write_search(folder, space={setting: expression}, overrides=list(overrides), prune=prune)
        read_checked(path, None, [])

    steps = ("training.eval_strategy=steps", "training.eval_steps=20")
    hint = "Set `eval_strategy: epoch`, `eval_steps` as a fraction, or `prune: false`."
    with pytest.raises(ValueError, match=re.escape(f"{setting} changes the number of steps per epoch")) as caught:
        check(*steps)
    assert str(caught.value).endswith(hint)
    with pytest.raises(ValueError, match="evaluations happen every 50 steps"):  # as of `logging_steps`
        check("training.eval_strategy=steps")
    check(*steps, prune=False)
    check("training.eval_strategy=steps", "training.eval_steps=0.1")
    check()
    # Where the end is a number of steps, it is the other way round.
    check(*steps, "training.max_steps=100")
    with pytest.raises(ValueError, match="every epoch of a fixed number of steps"):
        check("training.max_steps=100")


def test_trials_of_other_lengths_can_be_searched_without_pruning(folder: Path) -> None:
    path = write_search(folder, space={"training.num_train_epochs": "choice(1, 4)"}, prune=False)
    assert read_checked(path, None, [])


def test_a_runs_yaml_is_not_a_search(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"run.yaml is the config of a run. A search needs its own file"):
        read_search(folder / "run.yaml")


def test_an_override_of_the_command_line_is_checked_too(folder: Path) -> None:
    path = write_search(folder, space={"training.learning_rate": "uniform(0, 1)"})
    assert read_checked(path, None, ["training.seed=3"])[0].config == str(folder / "run.yaml")
    with pytest.raises(ValueError, match="has no effect"):
        read_checked(path, None, ["training.learning_rate=0.1"])


def test_how_many_trials(folder: Path) -> None:
    space = read_space({"training.seed": "int(1, 3)", "training.policy": "choice(round_robin, proportional)"})
    assert num_trials(Search(config="x", space={}), space) == TRIALS
    assert num_trials(Search(config="x", space={}, trials=7), space) == 7
    assert num_trials(Search(config="x", space={}, sampler="grid"), space) == 6
    assert num_trials(Search(config="x", space={}, sampler="grid", trials=4), space) == 4
    assert num_trials(Search(config="x", space={}, sampler="grid", trials=40), space) == 6
    assert read_search(write_search(folder, space={"a": "b"}, trials=5), 9).trials == 9


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_shipped_search_can_be_read(path: Path) -> None:
    search = read_search(path)
    check_space(search, read_space(search.space), ["data=elsewhere"])
    assert search.trials is not None


def test_the_search_that_the_chapter_shows_can_be_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "search.yaml").write_text(block.replace("configs/", f"{ROOT}/configs/"), encoding="utf-8")
    search, space = read_checked(tmp_path / "search.yaml", None, [])
    assert search.trials == 20
    assert [dimension.name for dimension in space][-1] == "sharing"


def test_searches_are_there() -> None:
    assert {path.stem for path in SEARCHES} >= {"snips"}
