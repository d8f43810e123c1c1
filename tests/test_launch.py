"""The real commands: two CPU processes by `accelerate launch` train and score, one of them killed, the ways that start
only one, `python -m mtl_hf.run`, and the configs of accelerate."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import mtl_hf
from tests.conftest import assistant_rows, review_rows
from tests.forked import ForkedPopen

ROOT = Path(__file__).parents[1]
(CONSOLE,) = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / "several_processes.md").read_text("utf-8"), re.DOTALL)
CHAPTER = CONSOLE.splitlines()
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.fixture
def config(encoder_folder: str, tmp_path: Path) -> Path:
    """A YAML file of two sources; nothing in it says how many processes there are."""
    for name, rows in [("assistant", assistant_rows(40)), ("reviews", review_rows(30))]:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
folder: {tmp_path}
model: {{encoder: {encoder_folder}}}
sources:
  assistant: {{path: json, data_files: "${{folder}}/assistant.jsonl", text: tokens}}
  reviews: {{path: json, data_files: "${{folder}}/reviews.jsonl", text: text}}
tasks:
  intent: {{type: sequence_classification, source: assistant, label: intent}}
  slots: {{type: token_classification, source: assistant, label: slots}}
  sentiment: {{type: sequence_classification, source: reviews, label: sentiment}}
training: {{output_dir: "${{folder}}/out", num_train_epochs: 1, per_device_train_batch_size: 4, logging_steps: 1}}
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def launches(processes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher and the processes that it starts are forks; the slow tests start real ones, as one test does."""
    if processes == "forked":
        monkeypatch.setattr(subprocess_handler, "Popen", ForkedPopen)


def environment(tmp_path: Path) -> dict[str, str]:
    """Ours, without what a launcher may have left in it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "MASTER_"))}
    return inherited | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(command: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder, as a user would."""
    return subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=240)


def test_accelerate_launch_trains_on_two_cpu_processes_in_the_precision_of_the_run_and_saves(config, tmp_path):
    script = ["--config_file", "configs/accelerate/cpu.yaml", "run_multitask.py", str(config)]
    done = start([*LAUNCH, *script, "training.precision=bf16"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("World size 2, cpu"), done.stderr
    assert done.stderr.splitlines()[0].endswith(", bf16.")
    assert done.stderr.count("World size") == 1, "only one process should talk"
    results = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert list(results["tasks"]) == ["intent", "slots", "sentiment"]
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out")
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    # 36 and 27 rows in global batches of 8: 5 rounds of 2
    assert state["global_step"] == 10
    assert {name: spec["num_steps"] for name, spec in model.config.heads.items()} == dict.fromkeys(results["tasks"], 5)
    assert mtl_hf.evaluate(tmp_path / "out", split="validation")["rows"] == results["rows"]


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("command", CHAPTER, ids=["script", "module"])
def test_commands_of_the_chapter_start_two_processes(command, config, tmp_path):
    words = [str(config) if word == "configs/quickstart.yaml" else word for word in shlex.split(command)]
    assert words[:2] == ["accelerate", "launch"]
    assert str(config) in words
    done = start([*LAUNCH, *words[2:], "--dry-run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "World size 2, cpu" in done.stderr
    assert "10 optimiser steps." in done.stderr  # half of those of one process
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("launches")
def test_a_launch_of_which_a_process_is_killed_ends_by_itself(config, tmp_path):
    command = [*LAUNCH, "--config_file", "configs/accelerate/cpu.yaml", "run_multitask.py", str(config)]
    endless = ["training.num_train_epochs=10000", "training.eval_strategy=no", "training.save_strategy=no",
               "training.load_best_model_at_end=false", "training.disable_tqdm=true"]  # fmt: skip
    said = tmp_path / "said"
    with said.open("w") as stderr:
        launch = subprocess.Popen([*command, *endless], cwd=ROOT, env=environment(tmp_path), stderr=stderr)
    try:
        end = time.monotonic() + 120
        while "step    10 " not in said.read_text(encoding="utf-8"):
            assert launch.poll() is None, said.read_text(encoding="utf-8")
            assert time.monotonic() < end
            time.sleep(0.1)
        ranks = psutil.Process(launch.pid).children()
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        assert launch.wait(120) != 0
        assert not psutil.wait_procs(ranks, 60)[1], "a process has outlived the launch"
    finally:
        for process in [*psutil.Process(launch.pid).children(), launch] if launch.poll() is None else []:
            process.kill()
    stderr = said.read_text(encoding="utf-8")
    # The launcher's own report has a traceback of the launcher; it may end the other process before that can speak.
    assert "_inner_training_loop" not in stderr
    assert "SIGKILL" in stderr


@pytest.mark.usefixtures("launches")
def test_accelerate_launch_scores_each_row_once_on_two_processes_as_on_one(config, tmp_path):
    mtl_hf.train(config, ["training.precision=fp32"])
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.tokenizer  # noqa: B018  is read from where the model came from
    model.save_pretrained(tmp_path / "other")
    names = [str(tmp_path / "out"), str(tmp_path / "other")]
    for number in ("assistant", "reviews"):  # 37 and 23 rows: in batches of 4 neither is even over two processes
        lines = (tmp_path / f"{number}.jsonl").read_text(encoding="utf-8").splitlines()
        odd = "\n".join(lines[: 37 if number == "assistant" else 23])
        (tmp_path / f"{number}-odd.jsonl").write_text(odd + "\n", encoding="utf-8")
    data = [f"sources.{name}.data_files={{test: {tmp_path}/{name}-odd.jsonl}}" for name in ("assistant", "reviews")]
    alone = mtl_hf.evaluate(names, overrides=data, to=tmp_path / "alone", batch_size=4)
    command = [*LAUNCH, "--config_file", "configs/accelerate/cpu.yaml", "-m", "mtl_hf", "evaluate", *names, *data]
    done = start([*command, "--to", str(tmp_path / "two"), "--batch-size", "4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("task ") == 1, "only one process should talk"
    assert "World size 2, cpu" in done.stderr, done.stderr
    assert all(done.stderr.count(said) == 1 for said in ("World size", "Using the data of", "Written to"))
    assert alone["models"][names[0]]["rows"] == {"assistant": 37, "reviews": 23}
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*") if path.is_file())
    assert len(files) == 6
    for file in files:
        one, two = ((tmp_path / place / file).read_text(encoding="utf-8") for place in ("alone", "two"))
        assert without_losses(one) == without_losses(two), file
    for name in names:
        for task, numbers in alone["models"][name]["tasks"].items():
            two = json.loads((tmp_path / "two" / "comparison.json").read_text())["models"][name]["tasks"][task]
            # The only rows that meet others in their batch are those of the last one, which are padded further.
            assert two["cross_entropy"] == pytest.approx(numbers["cross_entropy"], rel=1e-6)


def without_losses(text: str) -> list[str]:
    return [line for line in text.splitlines() if "cross_entropy" not in line]


@pytest.mark.usefixtures("launches")
def test_a_launch_that_starts_one_process_for_two_is_refused(config, tmp_path):
    done = start([*LAUNCH, "--cpu", "--num_processes", "2", "run_multitask.py", str(config)], tmp_path)
    assert done.returncode != 0
    assert (
        "mtl-hf: the launcher should start several processes but started 1: use `accelerate launch"
        " --config_file configs/accelerate/cpu.yaml`"
    ) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("launches")
def test_one_process_needs_no_launcher(config, tmp_path):
    done = start([sys.executable, "-m", "mtl_hf.run", str(config), "--dry-run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("World size 1, cpu"), done.stderr
    assert "18 optimiser steps." in done.stderr  # 36 and 27 rows in batches of 4: 9 rounds of 2
    assert "%|" not in done.stderr, "no bars in a file"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "kind"), [("cpu", "MULTI_GPU"), ("multi_gpu", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_knows_every_key_of_its_configs(name, kind):
    path = ROOT / "configs" / "accelerate" / f"{name}.yaml"
    loaded = load_config_from_file(str(path))  # raises for a key that it does not know
    assert isinstance(loaded, ClusterConfig)
    assert (loaded.distributed_type, loaded.num_processes) == (DistributedType(kind), 2)
    assert f"--config_file configs/accelerate/{name}.yaml" in path.read_text(encoding="utf-8")
    parser = launch_command_parser()
    # Keys of `fsdp_config` are those of the command line, and accelerate takes any other without a word.
    known = {action.dest for action in parser._actions}
    assert set(yaml.safe_load(path.read_text(encoding="utf-8")).get("fsdp_config", {})) <= known
    arguments, _, _ = _validate_launch_command(parser.parse_args(["--config_file", str(path), "run_multitask.py"]))
    assert (arguments.multi_gpu, arguments.use_fsdp) == (kind == "MULTI_GPU", kind == "FSDP")


def test_the_fsdp_config_asks_for_what_it_describes(monkeypatch):
    path = ROOT / "configs" / "accelerate" / "fsdp.yaml"
    assert "NOT RUN" in path.read_text(encoding="utf-8")
    given = launch_command_parser().parse_args(["--config_file", str(path), "run_multitask.py"])
    arguments, _, _ = _validate_launch_command(given)
    for name, value in prepare_multi_gpu_env(arguments).items():  # what the launcher tells the processes
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.transformer_cls_names_to_wrap == ["BertLayer"]
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert not plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing
