"""Sequence to sequence: embeddings, encoder, attention, decoder, and decoding by greedy, sampled and beam search."""

from fastrnn.seq2seq.attention import Attention
from fastrnn.seq2seq.decoder import Decoder
from fastrnn.seq2seq.encoder import Encoder
from fastrnn.seq2seq.model import Seq2Seq
from fastrnn.seq2seq.parts import Embedding
from fastrnn.seq2seq.search import Decoded

__all__ = ["Attention", "Decoded", "Decoder", "Embedding", "Encoder", "Seq2Seq"]
