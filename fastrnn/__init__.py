"""Recurrent layers for NumPy: RNN, LSTM, GRU and seq2seq models whose loops, both ways, are fused and compiled for the CPU.

Importing compiles nothing and touches neither CUDA nor a framework; the names below are resolved on first use.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

# half of what a first call needs; paid here, so that neither the import nor the first call is felt
import numba as _numba  # noqa: F401

if TYPE_CHECKING:
    from fastrnn.contract import Gradients
    from fastrnn.cpu.threads import get_num_threads, num_threads, set_num_threads
    from fastrnn.functional import (
        gru,
        gru_backward,
        gru_forward,
        lstm,
        lstm_backward,
        lstm_forward,
        rnn,
        rnn_backward,
        rnn_forward,
    )
    from fastrnn.layers import GRU, LSTM, RNN
    from fastrnn.seq2seq import Attention, Decoded, Decoder, Embedding, Encoder, Seq2Seq
    from fastrnn.versions import show_versions

__version__ = "0.1.0"

_HOME = {
    "fastrnn.functional": (
        "rnn", "rnn_forward", "rnn_backward", "gru", "gru_forward", "gru_backward",
        "lstm", "lstm_forward", "lstm_backward",
    ),
    "fastrnn.layers": ("RNN", "GRU", "LSTM"),
    "fastrnn.seq2seq": ("Attention", "Decoded", "Decoder", "Embedding", "Encoder", "Seq2Seq"),
    "fastrnn.contract": ("Gradients",),
    "fastrnn.cpu.threads": ("set_num_threads", "get_num_threads", "num_threads"),
    "fastrnn.versions": ("show_versions",),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["GRU", "LSTM", "RNN", "Attention", "Decoded", "Decoder", "Embedding", "Encoder", "Gradients", "Seq2Seq",
           "get_num_threads", "gru", "gru_backward", "gru_forward", "lstm", "lstm_backward", "lstm_forward",
           "num_threads", "rnn", "rnn_backward", "rnn_forward", "set_num_threads", "show_versions"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(_MODULE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
