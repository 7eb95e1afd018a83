"""Attention of each row, and its backward, as kernels. The equations stand in seq2seq/attention.py.

A row's numbers, S or K or M of them, are taken a vector at a time; sums over lanes and steps have one order.
"""

import fastrnn.cpu.activations  # noqa: F401  registers the vector versions of what is applied
from fastrnn.cpu.arithmetic import applied, difference, everywhere, multiply_add, nothing, quotient, times, total
from fastrnn.cpu.helper import helper
from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.shares import rows_of_member
from fastrnn.cpu.simd import add, load, load_part, shift, static, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals

_MEMORY = ("N", "together", "K", "M", "S", "keys_s", "keys_n", "values_s", "values_n", "query_n", "context_n", "summed",
           "covered")  # fmt: skip
ATTEND = Fields(
    ("query", "keys", "values", "v", "cover", "scale", "weights", "context", "seen", "coverage"), ("lengths", "parents"),
    (*_MEMORY, "tracking"),
)  # fmt: skip
ATTEND_BACKWARD = Fields(
    ("query", "keys", "values", "v", "cover", "scale", "weights", "seen", "d_context", "d_query", "d_keys", "d_values",
     "d_weights", "d_v", "d_cover", "d_coverage", "scores"), ("lengths",),
    (*_MEMORY, "d_context_n", "d_query_n", "weighted"),
)  # fmt: skip


@helper
def products_of_rows(q, rows, step, n, count, L, out):
    """out[s] = q · rows[s step :], n numbers, for s < count: four at a time hide how long a multiply-add takes."""
    whole, s = n // L * L, 0
    while s < count:
        a = shift(rows, s * step)
        if s + 4 <= count:
            b, c, d = shift(a, step), shift(a, 2 * step), shift(a, 3 * step)
            t0, t1, t2, t3 = nothing(q), nothing(q), nothing(q), nothing(q)
            for k in range(0, whole, L):
                x = load(q, k)
                t0, t1 = multiply_add(x, load(a, k), t0), multiply_add(x, load(b, k), t1)
                t2, t3 = multiply_add(x, load(c, k), t2), multiply_add(x, load(d, k), t3)
            if whole < n:
                x = load_part(q, whole, n - whole)
                t0 = multiply_add(x, load_part(a, whole, n - whole), t0)
                t1 = multiply_add(x, load_part(b, whole, n - whole), t1)
                t2 = multiply_add(x, load_part(c, whole, n - whole), t2)
                t3 = multiply_add(x, load_part(d, whole, n - whole), t3)
            out[s], out[s + 1], out[s + 2], out[s + 3] = total(t0), total(t1), total(t2), total(t3)
            s += 4
        else:
            t0 = nothing(q)
            for k in range(0, whole, L):
                t0 = multiply_add(load(q, k), load(a, k), t0)
            if whole < n:
                t0 = multiply_add(load_part(q, whole, n - whole), load_part(a, whole, n - whole), t0)
            out[s] = total(t0)
            s += 1


@helper
def tanh_of_sum(w, q, key, seen, k):
    """tanh(q + key + c cover) of a vector of inner units."""
    inner = add(load_part(q, k, w.K - k), load_part(key, k, w.K - k))
    if w.covered:
        inner = multiply_add(everywhere(seen), load_part(w.cover, k, w.K - k), inner)
    return applied(static("tanh"), inner)


@helper
def score(w, q, keys, seen, length, out):
    """e_s of a row."""
    if w.summed:
        for s in range(length):
            e = nothing(q)
            for k in range(0, w.K, w.L):
                e = multiply_add(tanh_of_sum(w, q, shift(keys, s * w.keys_s), seen[s], k), load_part(w.v, k, w.K - k), e)
            out[s] = total(e)
        return
    products_of_rows(q, keys, w.keys_s, w.K, length, w.L, out)
    for s in range(length):
        out[s] = out[s] * w.scale[0]
        if w.covered:
            out[s] = out[s] + seen[s] * w.cover[0]


@helper
def softmax(x, n, L):
    """x = exp(x - max x) / Σ, of n numbers."""
    top = x[0]
    for s in range(1, n):
        top = max(top, x[s])
    for s in range(0, n, L):
        store_part(x, s, 0, (applied(static("exp"), difference(load_part(x, s, n - s), everywhere(top))),), n - s)
    mass = x[0]
    for s in range(1, n):
        mass = mass + x[s]
    for s in range(0, n, L):
        store_part(x, s, 0, (quotient(load_part(x, s, n - s), everywhere(mass)),), n - s)


@helper
def weighted_sum(a, rows, step, n, count, L, out):
    """out = Σ_s a[s] rows[s step :], n numbers."""
    for k in range(0, n, L):
        t = nothing(out)
        for s in range(count):
            t = multiply_add(everywhere(a[s]), load_part(rows, s * step + k, n - k), t)
        store_part(out, k, 0, (t,), n - k)


def build_attend(name, dtype, digest):
    def attend(member, team, args):
        _ = digest
        w = words_of(args, "attention", "ATTEND", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        mode = flush_denormals()
        for n in range(first, end):
            column = n // w.together
            length, a = w.lengths[column], shift(w.weights, n * w.S)
            seen = shift(w.seen, w.parents[n] * w.S)
            if length > 0:
                score(w, shift(w.query, n * w.query_n), shift(w.keys, column * w.keys_n), seen, length, a)
                softmax(a, length, w.L)
            for s in range(length, w.S):
                a[s] = 0
            values = shift(w.values, column * w.values_n)
            weighted_sum(a, values, w.values_s, w.M, length, w.L, shift(w.context, n * w.context_n))
            if w.tracking:
                after = shift(w.coverage, n * w.S)
                for s in range(w.S):
                    after[s] = seen[s] + a[s]
        restore_denormals(mode)

    return attend


@helper
def add_scaled(out, factor, x, n, L):
    """out += factor x, of n numbers."""
    for k in range(0, n, L):
        store_part(out, k, 0, (multiply_add(factor, load_part(x, k, n - k), load_part(out, k, n - k)),), n - k)


@helper
def score_gradient(w, n, a, d):
    """d_s = a_s (d a_s - Σ a d a), from the gradient of the context, of the weights, and of the coverage after the step."""
    length, covered, of_weights = w.lengths[n], shift(w.d_coverage, n * w.S), shift(w.d_weights, n * w.S)
    products_of_rows(shift(w.d_context, n * w.d_context_n), shift(w.values, n * w.values_n), w.values_s, w.M, length, w.L, d)
    mean = a[0] * 0
    for s in range(length):
        if w.weighted:
            d[s] = d[s] + of_weights[s]
        if w.covered:
            d[s] = d[s] + covered[s]
        mean = mean + a[s] * d[s]
    for s in range(length):
        d[s] = a[s] * (d[s] - mean)


@helper
def back_through_product(w, n, d):
    length, q = w.lengths[n], shift(w.query, n * w.query_n)
    seen, covered = shift(w.seen, n * w.S), shift(w.d_coverage, n * w.S)
    for s in range(length):
        at, factor = s * w.keys_s + n * w.keys_n, everywhere(d[s] * w.scale[0])
        add_scaled(shift(w.d_query, n * w.d_query_n), factor, shift(w.keys, at), w.K, w.L)
        add_scaled(shift(w.d_keys, at), factor, q, w.K, w.L)
        if w.covered:
            w.d_cover[n] = w.d_cover[n] + d[s] * seen[s]
            covered[s] = covered[s] + d[s] * w.cover[0]


@helper
def back_through_sum(w, n, d):
    length, q, d_q = w.lengths[n], shift(w.query, n * w.query_n), shift(w.d_query, n * w.d_query_n)
    seen, covered = shift(w.seen, n * w.S), shift(w.d_coverage, n * w.S)
    d_v, d_cover = shift(w.d_v, n * w.K), shift(w.d_cover, n * w.K)
    for s in range(length):
        at, of_score, through = s * w.keys_s + n * w.keys_n, everywhere(d[s]), nothing(q)
        key, d_key = shift(w.keys, at), shift(w.d_keys, at)
        for k in range(0, w.K, w.L):
            left = w.K - k
            y = tanh_of_sum(w, q, key, seen[s], k)
            store_part(d_v, k, 0, (multiply_add(of_score, y, load_part(d_v, k, left)),), left)
            g = times(of_score, load_part(w.v, k, left))
            g = difference(g, times(times(g, y), y))
            store_part(d_q, k, 0, (add(load_part(d_q, k, left), g),), left)
            store_part(d_key, k, 0, (add(load_part(d_key, k, left), g),), left)
            if w.covered:
                store_part(d_cover, k, 0, (multiply_add(everywhere(seen[s]), g, load_part(d_cover, k, left)),), left)
                through = multiply_add(g, load_part(w.cover, k, left), through)
        if w.covered:
            covered[s] = covered[s] + total(through)


def build_attend_backward(name, dtype, digest):
    def attend_backward(member, team, args):
        _ = digest
        w = words_of(args, "attention", "ATTEND_BACKWARD", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        mode = flush_denormals()
        d = shift(w.scores, member * w.S)
        for n in range(first, end):
            a = shift(w.weights, n * w.S)
            score_gradient(w, n, a, d)
            for s in range(w.lengths[n]):
                at = s * w.values_s + n * w.values_n
                add_scaled(shift(w.d_values, at), everywhere(a[s]), shift(w.d_context, n * w.d_context_n), w.M, w.L)
            if w.summed:
                back_through_sum(w, n, d)
            else:
                back_through_product(w, n, d)
        restore_denormals(mode)

    return attend_backward
