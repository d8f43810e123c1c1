"""Losses of heads whose labels differ in frequency: class weights, focal loss, logit adjustment.

Notable: a weight multiplies the loss of an item, and the number of items stays the number of labelled items, so the
mean over a step does not depend on how its items are split over micro-batches and processes (a mean over the weights
would). Weights and priors are numbers in the order of the labels, computed from the training rows when a head is made,
and part of its specification. With every option off, the loss is the plain cross-entropy, bit for bit.

References: Lin et al., arXiv 1708.02002 (focal loss); Menon et al., arXiv 2007.07314 (logit adjustment).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .head import HeadLoss, cross_entropy, wide
from .spec import ImbalanceSpec
from .tags import IGNORE_INDEX


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
