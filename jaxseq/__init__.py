"""Recurrent networks in JAX: a cell is one equation, the engine does everything else."""

from jaxseq import attention, checkpoints, conversions, losses
from jaxseq.cells import (
    GRU,
    LSTM,
    DropoutMasks,
    GRUResetAfter,
    LearnedState,
    SimpleRNN,
    cell_from_json,
    cell_to_json,
    gate_product,
)
from jaxseq.choice import Choice
from jaxseq.epochs import Examples, Task, TrainState, examples
from jaxseq.gradients_through_time import GradientFlow, gradient_flow, gradient_paths
from jaxseq.interrupts import Interrupted
from jaxseq.layers import Attention, AttentionPooling, Bidirectional, Recurrent
from jaxseq.lookup import Lookup
from jaxseq.masks import dropout_masks, length_mask, packing_resets
from jaxseq.model_summary import count_parameters, summary
from jaxseq.models import (
    EncoderDecoder,
    SequenceClassifier,
    SequenceEncoder,
    SequenceRegressor,
    SequenceTagger,
    greedy_decode,
)
from jaxseq.optimizers import adam, freeze, rmsprop
from jaxseq.recurrence import (
    Cell,
    bidirectional,
    explain,
    merge_outputs,
    scan,
    stack,
    state_output,
    step,
)
from jaxseq.sequences import length_buckets, multi_hot, one_hot, pad_sequences, sequence_lengths
from jaxseq.timeseries import Scaler, Windows, chronological_split
from jaxseq.training import (
    Fit,
    TrainingDiverged,
    evaluate,
    fit,
    predict,
    restore_best,
    select,
)

__all__ = [
    "attention",
    "checkpoints",
    "conversions",
    "Attention",
    "AttentionPooling",
    "Bidirectional",
    "Cell",
    "Choice",
    "DropoutMasks",
    "EncoderDecoder",
    "Examples",
    "Fit",
    "GRU",
    "GRUResetAfter",
    "GradientFlow",
    "Interrupted",
    "LSTM",
    "LearnedState",
    "Lookup",
    "Recurrent",
    "Scaler",
    "SequenceClassifier",
    "SequenceEncoder",
    "SequenceRegressor",
    "SequenceTagger",
    "SimpleRNN",
    "Task",
    "TrainState",
    "TrainingDiverged",
    "Windows",
    "adam",
    "bidirectional",
    "cell_from_json",
    "cell_to_json",
    "count_parameters",
    "chronological_split",
    "dropout_masks",
    "evaluate",
    "examples",
    "explain",
    "fit",
    "freeze",
    "gate_product",
    "gradient_flow",
    "gradient_paths",
    "greedy_decode",
    "length_buckets",
    "length_mask",
    "losses",
    "merge_outputs",
    "multi_hot",
    "one_hot",
    "packing_resets",
    "pad_sequences",
    "predict",
    "restore_best",
    "rmsprop",
    "scan",
    "select",
    "sequence_lengths",
    "stack",
    "summary",
    "state_output",
    "step",
]
