"""How far pruning moves a model's next-token predictions: a measure that sees small damage.

The teacher-forced Kullback-Leibler divergence from the unpruned model's next-token distribution to
the pruned one's, in nats a token: both models read the same human captions, and what is compared
is the whole distribution at every token of them, the first and the end token included. Captions
change only where the first choice changes; this changes with every probability, is paired by
construction and costs one prefill and one short pass an image. (Distilled and quantised language
models are compared in the same way.)

Beside it stands the mean negative log-likelihood of the captions under the pruned model. It is no
measure of damage by itself: a model that is over-confident on the references loses less of it when
pruning makes it less sure, so that pruning can seem to help.
"""

from .measure import divergence, divergences
from .overheard import Overheard
from .record import DivergenceRecord
from .text import reference_ids

__all__ = ["DivergenceRecord", "Overheard", "divergence", "divergences", "reference_ids"]
