"""Recurrent networks in JAX: a cell is one equation, the engine does everything else."""

from jaxseq import checkpoints, conversions, losses
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
from jaxseq.epochs import Examples, Task, TrainState, examples
from jaxseq.interrupts import Interrupted
from jaxseq.masks import dropout_masks, length_mask, packing_resets
from jaxseq.model_summary import count_parameters, summary
from jaxseq.models import (
    Bidirectional,
    EncoderDecoder,
    Recurrent,
    SequenceClassifier,
    SequenceEncoder,
    SequenceRegressor,
    SequenceTagger,
    greedy_decode,
)
from jaxseq.optimizers import adam, rmsprop
from jaxseq.recurrence import (
    Cell,
    Choice,
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
    select,
)

__all__ = [
    "checkpoints",
    "conversions",
    "Bidirectional",
    "Cell",
    "Choice",
    "DropoutMasks",
    "EncoderDecoder",
    "Examples",
    "Fit",
    "GRU",
    "GRUResetAfter",
    "Interrupted",
    "LSTM",
    "LearnedState",
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
    "gate_product",
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
    "rmsprop",
    "scan",
    "select",
    "sequence_lengths",
    "stack",
    "summary",
    "state_output",
    "step",
]
