"""`ResumableTrainer`: transformers' Trainer with complete checkpoints from which runs continue exactly.

Notable: a checkpoint is used only if it is complete, and older ones are removed only then. A resumed run takes exactly
the remaining steps of the uninterrupted run, and rejects settings that would train differently. Weights that are not
finite are not saved. Only `push_to_hub` uploads anything, and no pickle of ours is written. This class knows nothing
about tasks.
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
    """A Trainer with complete checkpoints and exact resume.

    Args:
        *args: Passed to transformers' Trainer.
        **kwargs: Passed to transformers' Trainer.
    """

    args: MultiTaskTrainingArguments
    model: PreTrainedModel
    # The function that pushes a folder (`hub.push`), set by `run.build`.
    publish: Callable[..., str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._save_total_limit = self.args.save_total_limit
        self._was_over = False
        self.resumed_at = 0  # the step of the checkpoint that training was resumed from

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that affect further training."""
        raise NotImplementedError

    def checkpoint_facts(self) -> dict[str, Any]:
        """Facts about the run that are saved in a checkpoint and compared when a run is resumed."""
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
        """Steps whose checkpoints are never removed, besides the best one."""
        return {step for feature in self.features for step in feature.steps_to_keep(self.state)}

    @report_lost_process()
    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any
    ) -> TrainOutput:
        """Train; with `resume_from_checkpoint`, continue from a checkpoint as if the run had not been stopped.

        Args:
            resume_from_checkpoint: Folder of a checkpoint, or True for the newest complete one in `output_dir`.
            **kwargs: Passed to transformers' `Trainer.train`.

        Raises:
            ValueError: There is no such checkpoint, it is not complete, or a setting that affects the weights was
                changed.
        """
        checkpoint = None
        if resume_from_checkpoint:
            if resume_from_checkpoint is True:
                checkpoint = newest_checkpoint(Path(str(self.args.output_dir)))
                if checkpoint is None:
                    raise ValueError(f"`resume_from_checkpoint`: {self.args.output_dir} has no complete checkpoint.")
            else:
                checkpoint = Path(resume_from_checkpoint)
            check_checkpoint(checkpoint, self.checkpoint_facts())
            log_start(checkpoint, self.checkpoint_facts())
        self.resumed_at = checkpoint_step(checkpoint) if checkpoint else 0
        # Use our own rotation: the stock one removes old checkpoints before the new one is complete.
        self._save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        # The start is over: evaluated once more, early stopping would count it.
        evaluate_first = self.args.eval_on_start
        self.args.eval_on_start = evaluate_first and checkpoint is None
        try:
            # Log lines are printed above the bar.
            with nullcontext() if self.args.disable_tqdm else logging_redirect_tqdm():
                output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        finally:
            self.args.save_total_limit = self._save_total_limit
            self.args.eval_on_start = evaluate_first
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Like the stock method, but marks the checkpoint as complete at the end, and removes older ones only then."""
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
            # torch's writer has no exception class of its own for a full disk
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            whole = [path for path in list_checkpoints(folder) if not fault(path)]
            raise OSError(
                f"{checkpoint} cannot be saved ({' '.join(str(error).split())}). "
                + (f"{whole[-1]} is complete: fix the problem and continue with --resume." if whole else "")
            ) from error
        if self.is_world_process_zero():
            keep = {checkpoint}
            if self.state.best_model_checkpoint:  # not always of the best step, which may have no checkpoint
                keep.add(folder / Path(self.state.best_model_checkpoint).name)
            keep |= {folder / f"checkpoint-{step}" for step in self.steps_to_keep()}
            rotate_checkpoints(folder, self._save_total_limit, keep)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights, and the saved state of features."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for feature in self.features:
            feature.load(Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save model and tokenizer, but no `training_args.bin`: it is a pickle, and the run's YAML has the settings."""
        if not self.args.should_save:
            return
        folder = output_dir or str(self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        try:
            model.save_pretrained(folder, state_dict=state_dict)
        except SafetensorError as error:  # safetensors has no other error for a full disk
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
        # Intervals of logging, evaluating and saving may have been changed.
        self.state.compute_steps(self.args, max_steps)
        saved = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
        if saved.best_model_checkpoint:
            # By its name, because the folder may have been moved.
            best = Path(self._get_output_dir(trial=trial)) / Path(saved.best_model_checkpoint).name
            reason = fault(best)
            self.state.best_model_checkpoint = None if reason else str(best)
            if reason:
                self.state.best_global_step = None  # else the next save would treat it as the best one again
            if reason and self.args.load_best_model_at_end:
                logger.warning("%s, the best checkpoint so far, is not available: %s.", best, reason)
        # The stock loop checks these only after a step, and would take one step too many.
        self._was_over = self.state.global_step >= max_steps or any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self._early_stopping()
        )
        if self._was_over:
            logger.info("The run had ended at step %d: no step is left. %s", self.state.global_step,
                        more_training(Path(str(self.args.output_dir))))  # fmt: skip
        return done

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Like the stock method; does nothing if the run had ended when its checkpoint was saved."""
        if self._was_over:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Like the stock method, but checks first that the weights are finite."""
        if self._saves_before_evaluating():
            self.control.should_save = False
            super()._maybe_log_save_evaluate(*args, **kwargs)
            self.control.should_save = True
            return
        if self.control.should_evaluate or self.control.should_save or self.control.should_training_stop:
            self._check_weights()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _saves_before_evaluating(self) -> bool:
        """Whether a checkpoint is due at the last step of an epoch or of the run, before an evaluation at its end.

        It must wait for the evaluation: a run that is resumed from it starts with the next epoch.
        """
        return (
            self.control.should_save
            and not self.control.should_evaluate
            and self.args.eval_strategy == "epoch"
            and self.args.eval_delay <= (self.state.epoch or 0)
            and (float(self.state.epoch or 0).is_integer() or self.control.should_training_stop)
        )

    def _check_weights(self) -> None:
        """Stop if weights are not finite: a step can produce such weights while its loss is still finite."""
        for (
            name,
            parameter,
        ) in self.model.named_parameters():  # not from `parts`, because FSDP replaces their parameters
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                self.stop(f"the weights {name} are not finite after step {self.state.global_step}")

    def stop(self, problem: str) -> NoReturn:
        """Stop training because of a problem in a step, with advice on what may help."""
        raise FloatingPointError(
            f"{problem}: training stops; earlier checkpoints are in {self.args.output_dir}. A smaller learning rate or"
            " `precision: fp32` may help."
        )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise an error instead of a warning: a weight that is not loaded would keep an unrelated value."""
        if load_result.missing_keys or load_result.unexpected_keys:
            raise ValueError(
                f"the weights in the checkpoint belong to another model: {load_result.missing_keys[:5]} are missing and"
                f" {load_result.unexpected_keys[:5]} are unexpected."
            )

    # ---- the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """No-op: training must not need access to the Hub."""
        self.push_in_progress = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model without pushing it; the stock method pushes everything in the folder."""
        super().save_model(output_dir, _internal_call=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """No-op: it would upload the optimiser state, which is a pickle."""

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """Save the model to `output_dir` and push that folder; arguments default to the values in `args`.

        Returns:
            The repository's URL, on the main process.

        Raises:
            ValueError: This trainer was not made by `mtl_hf.run.build`.
            OSError: The Hub refused, or could not be reached.
        """
        if self.publish is None:
            raise ValueError("this trainer cannot push: call `save_model`, then `mtl_hf.push(folder, repo)`.")
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
        """No-op: the card is written at the end of a run, or when it is pushed."""
