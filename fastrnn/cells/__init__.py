"""Every cell the package knows: one file per recurrence, one line here."""

from fastrnn.cell import Cell
from fastrnn.cells.gru import GRU
from fastrnn.cells.lstm import LSTM
from fastrnn.cells.rnn import RNN_RELU, RNN_TANH

REGISTRY: dict[str, Cell] = {cell.name: cell for cell in (RNN_TANH, RNN_RELU, LSTM, GRU)}
