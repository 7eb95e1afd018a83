"""Decoding on a device: a decoder's parameters one behind the other, what a decoding starts from, its launch and results."""

from typing import Any

import numpy as np

from fastrnn import choices
from fastrnn.cuda import decode, devices, gemm, moves
from fastrnn.cuda.attention import attended
from fastrnn.cuda.call import Call
from fastrnn.cuda.choosing import integers_of
from fastrnn.cuda.kinds import dtype_of
from fastrnn.cuda.plan import Map, decoding_cut
from fastrnn.cuda.scalars import real_name
from fastrnn.cuda.target import ELEMENTWISE, backward_tiles, forward_tiles
from fastrnn.cuda.tiles import Tile


class Parameters:
    """A decoder's parameters on a device: `weights`, all of them, and w_m, what the memory goes through to be keys."""

    def __init__(self, cell, table, layers, attention, scale, combine, output, convert):
        """table : (V, E); layers : Weights; attention : its arrays by name; scale : of the scores of dots
        combine, output : (weight, bias) or None; convert : a function that brings an array to the device"""
        E, H = table.shape[1], layers[0].w_hh.shape[1]
        parts = {"table": [table], "layers": [array for weights in layers for array in weights]}
        parts |= {"query": [attention.get("w_q")], "v": [attention.get("v")], "cover": [attention.get("coverage")]}
        parts |= {"combine": combine or [None], "output": output}
        starts, at = {}, 0
        for name, arrays in parts.items():
            starts[name] = -1 if arrays[0] is None else at
            at += sum(array.size for array in arrays if array is not None)
        flat = [array.ravel() for arrays in parts.values() for array in arrays if array is not None]
        self.cell, self.scale, self.weights = cell, scale, convert(np.concatenate(flat))
        self.w_m = convert(attention["w_m"]) if "w_m" in attention else None
        M = combine[0].shape[1] - H if combine else 0
        of_query = attention.get("w_q")
        self._shape = {
            "V": len(output[0]), "E": E, "F": output[0].shape[1], "H": H, "L": len(layers), "M": M,
            "K": self.w_m.shape[0] if self.w_m is not None else M if of_query is None else len(of_query),
            "fed": layers[0].w_ih.shape[1] - E, **{name: starts[name] for name in decode.Shape._fields if name in starts},
        }  # fmt: skip

    def shape(self, N: int, B: int, T: int, S: int, tracked: bool) -> decode.Shape:
        """Of a decoding of N sentences with B rows each, T steps at most, on a memory of S."""
        tracked = tracked or self._shape["cover"] >= 0
        values = 0 if self.w_m is None else S * N * self._shape["K"]
        return decode.Shape(N=N, B=B, T=T, S=S, values=values, tracked=int(tracked), **self._shape)

    def memory(self, memory: Any) -> Any:
        """Keys and values of a memory (S, N, M), in the type of sums."""
        call, dtype, (S, N, M) = Call(memory), dtype_of(memory), memory.shape
        real, w_m = real_name(dtype), self.w_m
        keys = 0 if w_m is None else S * N * w_m.shape[0]
        into = call.room(keys + S * N * M, real)
        call.convert(memory, dtype, into, real, keys, S * N * M)
        if w_m is not None:
            q = gemm.Product(S * N, w_m.shape[0], M, a_m=M, a_k=1, b_k=1, b_n=M)
            call.multiply(q, call.flat(memory), dtype, call.flat(w_m), dtype, None, into)
        return into


def embed(table: Any, tokens: Any) -> Any:
    """Rows of a table (V, E) for tokens (S, N): (S, N, E)."""
    (S, N), E = tokens.shape, table.shape[1]
    Call(tokens)  # which are on the device in use as well
    call, dtype = Call(table), dtype_of(table)
    x, n = call.empty((S, N, E), dtype), S * N * E
    call.each(moves.embed(dtype), n, n, E, call.flat(table), call.flat(tokens), call.flat(x))
    return x


def starts(states: Any, D: int, sources: list[int | None], maps: list[Any], activation: str) -> Any:
    """A decoder's first states (L, N, H), one behind the other, in the type of sums.

    states : the encoder's, (L D, N, H / D) each; sources : for each of the decoder's which of them it is made of, if any
    maps : for each the weight and bias that it goes through; empty: as it is
    """
    call, dtype, (layers, N, part) = Call(states[0]), dtype_of(states[0]), states[0].shape
    real, H, n = real_name(dtype), part * D, layers * N * part
    into = call.room(len(sources) * n, real)
    for k, source in enumerate(sources):
        if source is None:
            call.convert(None, dtype, into, real, k * n, n)
            continue
        joined, start = (call.room(n, real), 0) if maps else (into, k * n)
        call.each(moves.join(dtype), n, n, N, part, D, call.flat(states[source]), joined, start)
        if maps:
            w, b = (call.flat(array) for array in maps[k])
            q = gemm.Product(n // H, H, H, a_m=H, a_k=1, b_k=1, b_n=H, biased=1)
            call.multiply(q, joined, real, w, dtype, b, into[k * n : (k + 1) * n])
            if activation != "linear":
                call.each(moves.activate(real, activation), n, n, into[k * n : (k + 1) * n])
    return into


def tiles_of(name: str, dtype: str, choice: str, rows: int) -> tuple[Tile, Tile, Tile]:
    """Of a layer, of the linear maps, of one to many outputs: for so many rows, but not more than registers are left for."""
    rows = min(rows, 1 if dtype == "float64" or choice == "sample" else 2)

    def tile(tiles: list[Tile], units: int) -> Tile:
        return max((one for one in tiles if one.units == units and one.rows <= rows), key=lambda one: one.rows)

    maps = backward_tiles(dtype)
    return tile(forward_tiles(name, dtype), 1), tile(maps, 1), tile(maps, 4)


def _maps(name: str, dtype: str, choice: str, q: decode.Shape, blocks: int) -> tuple[Map, ...]:
    """The products of a step: of a layer, of the linear maps, to logits."""
    cells, tile, wide = tiles_of(name, dtype, choice, q.N * q.B)
    to_logits = wide if blocks * tile.columns < q.V else tile
    return Map(cells, q.H, q.E + q.fed + q.H), Map(tile, q.F, q.M + q.H), Map(to_logits, q.V, q.F)


_SCRATCH = ("heap", "history")  # tables that are written before they are read, and may be large


class Run:
    """A decoding, launched: all its steps, and what they have found."""

    def __init__(self, parameters, q, choice, words, memory, first):
        """q : a Shape; words : what choices.py reads, on the host; memory, first : of `Parameters.memory` and `starts`"""
        self._call = call = Call(parameters.weights)
        self._dtype = dtype = dtype_of(parameters.weights)
        self.q, self._at, name, limit = q, decode.room_of(q), parameters.cell.name, devices.limits(call.number)
        self._integers = integers_of(words)
        self._tables = self._placed(words, choices.TABLES, np.int64)
        self._numbers = self._placed(words, choices.NUMBERS, np.float64)
        self._room = call.room(self._at.size, real_name(dtype))
        maps = _maps(name, dtype, choice, q, limit.blocks)
        call.launch_loop(
            decode.decoder(name, dtype, tuple(one.tile for one in maps), choice),
            decoding_cut(limit, dtype, maps, q.N, q.B), (*q, *self._at), parameters.scale, *self._words(),
            call.flat(parameters.weights), self._room if memory is None else memory, first, self._room,
            self._room[self._at.logits :], self._room[self._at.coverage :], call.flags,
        )  # fmt: skip

    def _placed(self, words, names, dtype):
        """The arrays of those names, on the device: one behind the other, which is one copy."""
        arrays = [np.asarray(() if name in _SCRATCH else words[name], dtype).ravel() for name in names]
        ends = np.cumsum([array.size for array in arrays]).tolist()
        there = self.placed(np.concatenate(arrays))
        found = {name: there[end - array.size : end] for name, array, end in zip(names, arrays, ends, strict=True)}
        return found | {name: self._call.empty((words[name].size,), "int64") for name in _SCRATCH if name in found}

    def _words(self):
        """What choices.py reads, as kernels see it."""
        tables, numbers = (tuple(map(self._call.view, arrays.values())) for arrays in (self._tables, self._numbers))
        return self._integers, tables, numbers

    def array(self, name: str) -> Any:
        """One of the words, flat, on the device."""
        return (self._tables if name in self._tables else self._numbers)[name]

    def host(self, name: str) -> Any:
        """The same on the host."""
        return self._call.kind.to_host(self.array(name))

    def placed(self, array: Any) -> Any:
        """An array of the host on the device."""
        array = np.ascontiguousarray(array)
        return self._call.kind.from_host(array, self._call.empty((1,), array.dtype.name))

    def follow(self) -> None:
        """Every hypothesis followed back: words `found` and `at`."""
        call = self._call
        call.launch(decode.follower(), (-(-self.q.N // ELEMENTWISE),), ELEMENTWISE, *self._words(), self._room)

    def attention(self, T: int, length: Any, F: int, following: bool) -> Any:
        """The weights (T, N, F, S) of N F hypotheses of those lengths; following : whether `follow` says in which rows."""
        q, call, at = self.q, self._call, self._at
        out = call.empty((T, q.N, F, q.S), self._dtype)
        n = T * q.N * F * q.S
        rows = call.view(self.array("at" if following else "length"))
        call.each(
            attended(self._dtype), n, n, F, q.N * q.B, q.S, self._room[at.weights : at.coverage], rows,
            int(following), call.view(self.placed(length.ravel())), call.flat(out),
        )  # fmt: skip
        return out
