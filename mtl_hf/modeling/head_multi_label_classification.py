"""`multi_label_classification`: any number of labels per text."""

import torch
from torch import Tensor

from .decode_multi_label_classification import MultiLabelClassificationDecoder
from .head import HeadInputs, HeadLoss
from .head_sequence_classification import SequenceClassificationHead
from .imbalance import sigmoid_loss
from .tags import IGNORE_INDEX


class MultiLabelClassificationHead(SequenceClassificationHead):
    """Pool, dropout, linear, one sigmoid per label. An item is a row with labels (an empty set counts as labels).

    The loss of a row is the mean over the labels, so that it has the scale of other tasks' losses.
    Labels: multi-hot (B, num_labels) with 0 and 1; a row without labels is all `-100`. A prediction is the list of
    labels with a probability of at least 0.5, or of at least their threshold, in the order of the vocabulary.
    """

    decoder_class = MultiLabelClassificationDecoder
    kind = decoder_class.kind
    spec_class = decoder_class.spec_class

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInputs | None = None) -> HeadLoss:
        """Sum over labelled rows of the mean loss (`imbalance.sigmoid_loss`) over labels, and their number."""
        known = labels[:, 0] != IGNORE_INDEX
        targets = labels[known].to(torch.promote_types(logits.dtype, torch.float32))
        return HeadLoss(sigmoid_loss(logits[known], targets, self.spec).mean(1).sum(), known.sum())
