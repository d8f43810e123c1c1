"""Losses of heads whose labels differ in frequency: class weights, focal loss, logit adjustment.

Notable: a weight multiplies the loss of an item, and the number of items stays the number of labelled items, so the
mean over a step does not depend on how its items are split over micro-batches and processes (a mean over the weights
would). Weights and priors are numbers in the order of the labels, computed from the training rows when a head is made,
and part of its specification. With every option off, the loss is the plain cross-entropy, bit for bit.

References: Lin et al., arXiv 1708.02002 (focal loss); Menon et al., arXiv 2007.07314 (logit adjustment).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .head import HeadLoss, LabelledSpec, cross_entropy, wide
from .tags import IGNORE_INDEX


@dataclass(kw_only=True)
class ImbalanceSpec(LabelledSpec):
    """A specification with a label vocabulary and the options of its loss.

    Attributes:
        class_weights: Weight of each label, at least 0; for several labels per text, that of its positives.
        focal_loss: Exponent gamma of the focal loss, at least 0; 0 is off.
        logit_adjustment: Factor tau of the logit adjustment, at least 0; 0 is off.
        label_priors: Share of each label in the training rows, above 0; needed for the logit adjustment.
    """

    class_weights: list[float] | None = None
    focal_loss: float = 0.0
    logit_adjustment: float = 0.0
    label_priors: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "class_weights")
        check_numbers(self, "label_priors", above=True, most=1.0)
        for key in ("focal_loss", "logit_adjustment"):
            if not 0 <= (value := getattr(self, key)) < math.inf:
                raise ValueError(f"a {self.type} head takes a finite number of at least 0 as `{key}`, not {value}.")
        if self.logit_adjustment and self.label_priors is None:
            raise ValueError(f"a {self.type} head with `logit_adjustment` needs `label_priors`, one for each label.")
        if self.focal_loss and self.label_smoothing:
            raise ValueError(f"a {self.type} head takes either `focal_loss` or `label_smoothing`, not both.")


def check_numbers(spec: LabelledSpec, key: str, above: bool = False, most: float = math.inf) -> None:
    """Raise `ValueError` unless an option is None, or a list with a finite number for each label.

    Args:
        spec: The specification.
        key: The option.
        above: Whether 0 is invalid.
        most: The largest valid number.
    """
    numbers = getattr(spec, key)
    if numbers is None:
        return
    if len(numbers) != len(spec.labels):
        raise ValueError(f"a {spec.type} head with {len(spec.labels)} labels has {len(numbers)} numbers in `{key}`.")
    for number in numbers:
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if not plain or not 0 <= number <= most or not math.isfinite(number) or (above and number == 0):
            bounds = f"{'above' if above else 'at least'} 0" + (f" and at most {most:g}" if most < math.inf else "")
            raise ValueError(f"a {spec.type} head takes numbers {bounds} in `{key}`, not {number!r:.60}.")


def softmax_loss(logits: Tensor, labels: Tensor, spec: ImbalanceSpec) -> HeadLoss:
    """The sum of the loss over labelled items, each of which has one of C labels.

    The loss of an item with label y is `weight[y] * (1 - p[y]) ** gamma * cross_entropy`, where the cross-entropy (with
    `label_smoothing`) and p, the softmax, are those of `logits + tau * log(prior)`.

    Args:
        logits: (N, C).
        labels: (N,), -100 where missing.
        spec: The specification of the head.

    Returns:
        The sum, in float32 or wider, and the number of labelled items.
    """
    if spec.class_weights is None and not spec.focal_loss and not spec.logit_adjustment:
        return cross_entropy(logits, labels, spec.label_smoothing)
    scores = wide(logits)
    if spec.logit_adjustment:
        priors = torch.tensor(spec.label_priors, dtype=torch.float64).log()
        scores = scores + (spec.logit_adjustment * priors).to(scores)
    losses = F.cross_entropy(
        scores, labels, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=spec.label_smoothing
    )
    if spec.focal_loss:
        losses = losses * focus(losses, spec.focal_loss)  # without label smoothing, the loss of an item is -log p[y]
    if spec.class_weights is not None:
        losses = losses * losses.new_tensor(spec.class_weights)[labels.clamp(min=0)]
    return HeadLoss(losses.sum(), (labels != IGNORE_INDEX).sum())


def sigmoid_loss(logits: Tensor, targets: Tensor, spec: ImbalanceSpec) -> Tensor:
    """The loss of each of C independent labels of each item, (N, C), in float32 or wider.

    The loss of a label is `(1 - p_t) ** gamma * binary_cross_entropy`, where p_t is the probability of the target; for
    targets of 1 it is multiplied by the weight of the label.

    Args:
        logits: (N, C).
        targets: (N, C), 0 and 1, in float32 or wider.
        spec: The specification of the head.
    """
    if spec.label_smoothing:
        targets = targets * (1 - spec.label_smoothing) + spec.label_smoothing / 2
    weights = None if spec.class_weights is None else targets.new_tensor(spec.class_weights)
    if not spec.focal_loss:
        return F.binary_cross_entropy_with_logits(
            logits.to(targets.dtype), targets, reduction="none", pos_weight=weights
        )
    losses = F.binary_cross_entropy_with_logits(logits.to(targets.dtype), targets, reduction="none")
    losses = losses * focus(losses, spec.focal_loss)
    return losses if weights is None else losses * torch.where(targets == 1, weights, torch.ones_like(weights))


def focus(losses: Tensor, gamma: float) -> Tensor:
    """The factor (1 - p)^gamma of the focal loss, from the losses -log p."""
    # Not below the rounding error of 1: at exactly 0 the derivative of a power below 1 is infinite.
    missing = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).eps)
    return missing**gamma
