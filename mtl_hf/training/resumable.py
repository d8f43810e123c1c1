"""`ResumableTrainer`: transformers' Trainer, whose checkpoints are whole and whose runs go on from them exactly.

Notable: a checkpoint counts only once all of it is there, and older ones go only then; a run that goes on from one
takes the steps that the uninterrupted run would have taken, no more, and refuses what would train differently. Weights
that are no numbers any more are not saved. Nothing is sent anywhere but by `push_to_hub`, and no pickle of ours is
written. Knows nothing of tasks.
"""

import logging
import platform
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from .arguments import MultiTaskTrainingArguments
from .checkpoints import (
    begin,
    check_checkpoint,
    checkpoint_step,
    fault,
    list_checkpoints,
    log_start,
    mark_complete,
    more_training,
    newest_checkpoint,
    rotate_checkpoints,
)
from .features import Feature
from .processes import report_lost_process

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """The Trainer's checkpoints and how a run goes on from one.

    Args:
        *args: Of transformers' Trainer.
        **kwargs: Of transformers' Trainer.
    """

    args: MultiTaskTrainingArguments
    model: PreTrainedModel
    # What pushes a folder (`hub.push`), handed over by `run.build`.
    publish: Callable[..., str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._save_total_limit = self.args.save_total_limit
        self._was_over = False
        self.resumed_at = 0  # the step of the checkpoint that training went on from

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what training does next."""
        raise NotImplementedError

    def checkpoint_facts(self) -> dict[str, Any]:
        """What a checkpoint says about the run that saves it, and what a run that goes on from it must agree with."""
        on_gpu = self.args.device.type == "cuda"
        return {
            "step": self.state.global_step,
            "world_size": self.args.world_size,
            "threads": torch.get_num_threads(),
            "machine": torch.cuda.get_device_name(self.args.device) if on_gpu else platform.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "settings": self.settings,
        }

    @property
    def features(self) -> list[Feature]:
        """The callbacks that are features, in the order in which their hooks are called."""
        return [one for one in self.callback_handler.callbacks if isinstance(one, Feature)]

    def steps_to_keep(self) -> set[int]:
        """Steps whose checkpoints are never rotated away, besides the best one."""
        return {step for feature in self.features for step in feature.steps_to_keep(self.state)}

    @report_lost_process()
    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any
    ) -> TrainOutput:
        """Train; `resume_from_checkpoint` goes on from a checkpoint as if the run had never stopped.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the newest whole one in `output_dir`.
            **kwargs: Of transformers' `Trainer.train`.

        Raises:
            ValueError: There is no such checkpoint, it is not whole, or a setting that decides what the weights become
                was changed.
        """
        checkpoint = None
        if resume_from_checkpoint:
            if resume_from_checkpoint is True:
                checkpoint = newest_checkpoint(Path(str(self.args.output_dir)))
                if checkpoint is None:
                    raise ValueError(f"`resume_from_checkpoint`: {self.args.output_dir} has no whole checkpoint.")
            else:
                checkpoint = Path(resume_from_checkpoint)
            check_checkpoint(checkpoint, self.checkpoint_facts())
            log_start(checkpoint, self.checkpoint_facts())
        self.resumed_at = checkpoint_step(checkpoint) if checkpoint else 0
        # Rotation is ours: the stock one removes old checkpoints before the new one is whole.
        self._save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        # The start is over: evaluated once more, early stopping would count it.
        evaluate_first = self.args.eval_on_start
        self.args.eval_on_start = evaluate_first and checkpoint is None
        try:
            # Lines of the log stand above the bar.
            with nullcontext() if self.args.disable_tqdm else logging_redirect_tqdm():
                output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        finally:
            self.args.save_total_limit = self._save_total_limit
            self.args.eval_on_start = evaluate_first
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the stock one, but the checkpoint counts only once all of it is there, and older ones go only then."""
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        try:
            if self.is_world_process_zero():
                begin(checkpoint)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                for feature in self.features:
                    feature.save(checkpoint)
                mark_complete(checkpoint, self.checkpoint_facts())
        except (OSError, RuntimeError) as error:
            # torch's own writer has no exception class for a full disk
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            whole = [path for path in list_checkpoints(folder) if not fault(path)]
            raise OSError(
                f"{checkpoint} cannot be saved ({' '.join(str(error).split())}). "
                + (f"{whole[-1]} is whole: mend the cause and go on from it with --resume." if whole else "")
            ) from error
        if self.is_world_process_zero():
            keep = {checkpoint}
            if self.state.best_model_checkpoint:  # not always of the best step, which may have had no checkpoint
                keep.add(folder / Path(self.state.best_model_checkpoint).name)
            keep |= {folder / f"checkpoint-{step}" for step in self.steps_to_keep()}
            rotate_checkpoints(folder, self._save_total_limit, keep)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Weights, and what features have saved."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for feature in self.features:
            feature.load(Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Model, tokenizer and no `training_args.bin`, which is a pickle: the run's YAML says what it would."""
        if not self.args.should_save:
            return
        folder = output_dir or str(self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        try:
            model.save_pretrained(folder, state_dict=state_dict)
        except SafetensorError as error:  # a full disk has no other name there
            raise OSError(f"the weights cannot be written to {folder}: {error}.") from error
        cast(Any, self.processing_class).save_pretrained(folder)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int,
        resume_from_checkpoint: str | None, trial: Any,
    ) -> tuple[int, int]:  # fmt: skip
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._was_over = False
        if resume_from_checkpoint is None:
            return done
        # How often to log, evaluate and save may have been changed.
        self.state.compute_steps(self.args, max_steps)
        saved = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
        if saved.best_model_checkpoint:
            # By its name, since the folder may have been moved.
            best = Path(self._get_output_dir(trial=trial)) / Path(saved.best_model_checkpoint).name
            reason = fault(best)
            self.state.best_model_checkpoint = None if reason else str(best)
            if reason:
                self.state.best_global_step = None  # else the next save takes it for the best one again
            if reason and self.args.load_best_model_at_end:
                logger.warning("%s, the best so far, is lost: %s.", best, reason)
        # The stock loop asks these only after a step, and would take one too many.
        self._was_over = self.state.global_step >= max_steps or any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self._early_stopping()
        )
        if self._was_over:
            logger.info("The run was over at step %d: no step is left. %s", self.state.global_step,
                        more_training(Path(str(self.args.output_dir))))  # fmt: skip
        return done

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, where the run was over when its checkpoint was saved."""
        if self._was_over:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As the stock one; nothing of a step that has ruined the weights is scored or saved."""
        if self._saves_before_evaluating():
            self.control.should_save = False
            super()._maybe_log_save_evaluate(*args, **kwargs)
            self.control.should_save = True
            return
        if self.control.should_evaluate or self.control.should_save or self.control.should_training_stop:
            self._check_weights()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _saves_before_evaluating(self) -> bool:
        """Whether a checkpoint is due at the last step of an epoch, or of the run, whose end will evaluate.

        It has to wait for that: a run that goes on from it begins with the next epoch.
        """
        return (
            self.control.should_save
            and not self.control.should_evaluate
            and self.args.eval_strategy == "epoch"
            and self.args.eval_delay <= (self.state.epoch or 0)
            and (float(self.state.epoch or 0).is_integer() or self.control.should_training_stop)
        )

    def _check_weights(self) -> None:
        """A step can ruin weights while its loss is still a number: nothing of that is scored or saved."""
        for name, parameter in self.model.named_parameters():  # not of `parts`, whose parameters FSDP replaces
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                self.stop(f"the weights {name} are not finite after step {self.state.global_step}")

    def stop(self, problem: str) -> NoReturn:
        """Stop training in a step that has gone wrong, and say what may help."""
        raise FloatingPointError(
            f"{problem}: training stops; checkpoints up to here are in {self.args.output_dir}. A smaller learning rate,"
            " or `precision: fp32`, may help."
        )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A warning is not enough: a weight that is not loaded keeps a value from elsewhere."""
        if load_result.missing_keys or load_result.unexpected_keys:
            raise ValueError(
                f"the checkpoint's weights are of another model: it lacks {load_result.missing_keys[:5]} and has"
                f" {load_result.unexpected_keys[:5]} besides."
            )

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: a Hub that cannot be reached keeps nobody from training."""
        self.push_in_progress = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save, and only that; the stock one pushes all that the folder holds."""
        super().save_model(output_dir, _internal_call=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: it would send the optimiser's state, a pickle."""

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """Save the model into `output_dir` and push that folder; what is not given is as `args` has it.

        Returns:
            The repository's URL, on the main process.

        Raises:
            ValueError: This trainer was not made by `mtl_hf.run.build`.
            OSError: The Hub refused, or could not be reached.
        """
        if self.publish is None:
            raise ValueError("this trainer does not know how to push: `save_model`, then `mtl_hf.push(folder, repo)`.")
        self.save_model()
        if not self.is_world_process_zero():
            return None
        folder = Path(str(self.args.output_dir))
        return self.publish(
            folder,
            self.args.hub_model_id or folder.absolute().name,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            message=commit_message,
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the card is written at the end of a run, or when it is pushed."""
