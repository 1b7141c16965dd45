"""The peers: one recurrent network in every library, with the same weights, inputs, lengths and dropout masks.

A file a library: what it cannot do and why, how its weights are written, and its layer as its documentation has it, in
the layout that spares it transposes. A library is imported only when it is asked for.

What is compared is brought to one layout, jaxseq's: see `standard`. Biases that add up count as one.
"""

from benchmarks.peers import equinox, flax_linen, flax_nnx, haiku, keras, ours, plain_scan, pytorch
from benchmarks.peers.peer import Missing, Peer, Run, standard
from benchmarks.peers.work import OPTIONS, Data, Work, draw

OURS = "jaxseq"
PEERS = {
    OURS: ours.PEER,
    "plain_scan": plain_scan.PEER,
    "flax_linen": flax_linen.PEER,
    "flax_nnx": flax_nnx.PEER,
    "keras": keras.PEER,
    "haiku": haiku.PEER,
    "equinox": equinox.PEER,
    "pytorch": pytorch.PEER,
}

__all__ = ["OPTIONS", "OURS", "PEERS", "Data", "Missing", "Peer", "Run", "Work", "draw", "standard"]
