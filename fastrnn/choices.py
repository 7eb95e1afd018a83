"""How the next token is chosen: greedy, sampled, by beam search. Plain Python on numbers, run as it stands or compiled.

Each text takes `w`, whose arrays are flat, and the sentences first..end that are its own. Step t reads the logits
w.logits (R, V) and their log Σ exp w.norm (R,), and writes entry t + 1 of w.tokens and w.parents (T + 1, R): a sentence
has B of the R rows, row r continues row w.parents[t + 1, r] of step t. A hypothesis of n tokens, its end included, scores

    log p / penalty(n) + β Σ_s log min(Σ_t a_ts, 1)      penalty: 1, n^α or ((5 + n) / 6)^α

Wu et al., Google's neural machine translation system (2016), section 7, for the latter penalty and the second term.
"""

import math

# what `w` has, all of it in every search, used or not: arrays of integers and of double precision, integers; besides them
# the logits (R, V), norm (R,) and coverage (T + 1, R, S) where there is attention
TABLES = (
    "tokens", "parents", "own", "heap", "history", "prefix", "prefix_length", "banned", "done", "length", "source_length",
    "candidate_row", "candidate_token", "final_row", "final_step", "final_token", "count", "found", "at",
)  # fmt: skip
INTEGERS = ("N", "R", "B", "T", "V", "S", "F", "t", "eos", "pad", "least", "ngram", "top_k", "penalty", "early")
NUMBERS = ("norm", "scores", "temperature", "top_p", "alpha", "beta", "uniform", "candidate", "final", "final_log_p")

NO_PENALTY, AVERAGE, GNMT = 0, 1, 2
_NEVER = -math.inf


def recall(w, r, t):
    """The t tokens of row r so far -> w.history[r]."""
    row = r
    for k in range(t, 0, -1):
        w.history[r * w.T + k - 1] = w.tokens[k * w.R + row]
        row = w.parents[k * w.R + row]


def repeats(w, r, t, v):
    """Whether v would end an n-gram that row r has had before."""
    n, own = w.ngram, r * w.T
    for start in range(t - n + 1):
        k = 0
        while k < n - 1 and w.history[own + start + k] == w.history[own + t - n + 1 + k]:
            k += 1
        if k == n - 1 and w.history[own + start + k] == v:
            return True
    return False


def allowed(w, i, r, t, v):
    """Whether sentence i may go on with token v in row r."""
    if t < w.prefix_length[i]:
        return w.prefix[t * w.N + i] == v
    if w.banned[v] != 0 or (v == w.eos and t < w.least):
        return False
    return w.ngram == 0 or not repeats(w, r, t, v)


def take(w, r, v):
    """Go on with token v in row r of a search that keeps one hypothesis a sentence."""
    w.parents[(w.t + 1) * w.R + r] = r
    if w.done[r] != 0:
        w.tokens[(w.t + 1) * w.R + r] = w.pad
        return
    w.tokens[(w.t + 1) * w.R + r] = v
    w.scores[r] += w.logits[r * w.V + v] - w.norm[r]
    w.length[r] = w.t + 1
    if v == w.eos:
        w.done[r] = 1


def best(w, r):
    """The likeliest token that is allowed; the end where there is none."""
    found, top = w.eos, _NEVER
    for v in range(w.V):
        x = w.logits[r * w.V + v]
        if x > top and allowed(w, r, r, w.t, v):
            found, top = v, x
    return found


def greedy(w, first, end):
    """The likeliest token of each row."""
    for r in range(first, end):
        if w.ngram > 0:
            recall(w, r, w.t)
        take(w, r, w.eos if w.done[r] != 0 else best(w, r))


def forced(w, first, end):
    """The given token, or where w.own says so the likeliest: training on a model's own choices."""
    for r in range(first, end):
        at = (w.t + 1) * w.R + r
        if w.own[at] != 0:
            w.tokens[at] = best(w, r)


def sink(w, start, root, n):
    """Restore the order of a heap of n tokens with the likeliest first, from a root downwards."""
    while 2 * root + 1 < n:
        child = 2 * root + 1
        if child + 1 < n and before(w, start, w.heap[start + child + 1], w.heap[start + child]):
            child += 1
        if not before(w, start, w.heap[start + child], w.heap[start + root]):
            return
        w.heap[start + child], w.heap[start + root] = w.heap[start + root], w.heap[start + child]
        root = child


def before(w, start, a, b):
    """Whether token a comes before b: likelier, or as likely and first."""
    x, y = w.logits[start + a], w.logits[start + b]
    return x > y or (x == y and a < b)


def draw(w, r):
    """A token of row r, out of the w.top_k likeliest (0: all) of those the fewest with a share of w.top_p[0] or more."""
    start, n, top = r * w.V, 0, _NEVER
    for v in range(w.V):
        if allowed(w, r, r, w.t, v):
            w.heap[start + n] = v
            n += 1
            top = max(top, w.logits[start + v])
    if n == 0:
        return w.eos
    sorts = 0 < w.top_k < n or w.top_p[0] < 1
    if sorts:
        for root in range(n // 2 - 1, -1, -1):
            sink(w, start, root, n)
    kept = min(n, w.top_k) if w.top_k > 0 else n
    # the likeliest go to the end of the heap, one by one, as many as can be needed
    taken, mass = 0, 0.0
    if 0 < w.top_k < n:
        while taken < kept:
            mass += pop(w, start, n - taken, top)
            taken += 1
    else:
        for k in range(n):
            mass += share(w, w.heap[start + k], start, top)
    # a token is drawn while the masses of those before it add up
    limit, part, few, drawn = w.top_p[0] * mass, 0.0, 0, w.eos
    if w.top_p[0] < 1:
        while few < kept and part < limit:
            if few >= taken:
                pop(w, start, n - few, top)
                taken += 1
            part += share(w, w.heap[start + n - 1 - few], start, top)
            few += 1
        mass, kept = part, few
    wanted, part = w.uniform[w.t * w.R + r] * mass, 0.0
    for k in range(kept):
        drawn = w.heap[start + n - 1 - k] if sorts else w.heap[start + k]
        part += share(w, drawn, start, top)
        if part > wanted:
            break
    return drawn


def pop(w, start, n, top):
    """Move the likeliest of a heap of n behind the others; its share."""
    w.heap[start], w.heap[start + n - 1] = w.heap[start + n - 1], w.heap[start]
    sink(w, start, 0, n - 1)
    return share(w, w.heap[start + n - 1], start, top)


def share(w, v, start, top):
    return math.exp((w.logits[start + v] - top) / w.temperature[0])


def sample(w, first, end):
    """A token of each row by chance, with the numbers w.uniform (T, R)."""
    for r in range(first, end):
        if w.ngram > 0:
            recall(w, r, w.t)
        take(w, r, w.eos if w.done[r] != 0 else draw(w, r))


def penalty(w, n):
    if w.penalty == AVERAGE:
        return float(n) ** w.alpha[0]
    if w.penalty == GNMT:
        return ((5.0 + n) / 6.0) ** w.alpha[0]
    return 1.0


def uncovered(w, i, r):
    """β Σ_s log min(Σ_t a_ts, 1) of row r after this step."""
    total = 0.0
    if w.beta[0] != 0:
        for s in range(w.source_length[i]):
            a = w.coverage[((w.t + 1) * w.R + r) * w.S + s]
            total += math.log(max(min(a, 1.0), 1e-30))
    return w.beta[0] * total


def collect(w, i):
    """The 2 B best continuations of sentence i, in order: how many there are."""
    most, own, n, t = 2 * w.B, 2 * w.B * i, 0, w.t
    for r in range(i * w.B, (i + 1) * w.B):
        if w.scores[r] == _NEVER:
            continue
        if w.ngram > 0:
            recall(w, r, t)
        offset = w.scores[r] - w.norm[r]
        for v in range(w.V):
            score = offset + w.logits[r * w.V + v]
            if (n < most or score > w.candidate[own + n - 1]) and score > _NEVER and allowed(w, i, r, t, v):
                n = min(n + 1, most)
                k = n - 1
                while k > 0 and w.candidate[own + k - 1] < score:
                    w.candidate[own + k] = w.candidate[own + k - 1]
                    w.candidate_row[own + k] = w.candidate_row[own + k - 1]
                    w.candidate_token[own + k] = w.candidate_token[own + k - 1]
                    k -= 1
                w.candidate[own + k], w.candidate_row[own + k], w.candidate_token[own + k] = score, r, v
    return n


def finish(w, i, r, v, log_p):
    """A hypothesis that is complete with v after row r: kept if it is among the w.F best of sentence i."""
    n, own = w.t + 1, i * w.F
    score = log_p / penalty(w, n) + uncovered(w, i, r)
    count = w.count[i]
    if count == w.F and not score > w.final[own + count - 1]:
        return
    count = min(count + 1, w.F)
    k = count - 1
    while k > 0 and w.final[own + k - 1] < score:
        for table in (w.final, w.final_log_p):
            table[own + k] = table[own + k - 1]
        for table in (w.final_row, w.final_step, w.final_token):
            table[own + k] = table[own + k - 1]
        k -= 1
    w.final[own + k], w.final_log_p[own + k] = score, log_p
    w.final_row[own + k], w.final_step[own + k], w.final_token[own + k] = r, n, v
    w.count[i] = count


def settled(w, i):
    """Whether no live hypothesis of sentence i can still come among its best: each further token only lowers log p."""
    live = w.scores[i * w.B]
    if live == _NEVER:
        return True
    if w.early == 0 or w.count[i] < w.F:
        return False
    highest = max(live / penalty(w, w.t + 2), live / penalty(w, w.T))
    return highest <= w.final[i * w.F + w.F - 1]


def beam(w, first, end):
    """The B best continuations of each sentence's rows; complete ones are put aside, in the last step all."""
    last = w.t + 1 == w.T
    for i in range(first, end):
        kept, own = 0, 2 * w.B * i
        n = 0 if w.done[i] != 0 else collect(w, i)
        for k in range(n):
            score, r, v = w.candidate[own + k], w.candidate_row[own + k], w.candidate_token[own + k]
            if v == w.eos or last:
                if k < w.B:
                    finish(w, i, r, v, score)
            elif kept < w.B:
                row = i * w.B + kept
                w.scores[row] = score
                w.parents[(w.t + 1) * w.R + row] = r
                w.tokens[(w.t + 1) * w.R + row] = v
                kept += 1
        for row in range(i * w.B + kept, (i + 1) * w.B):
            # nobody's: with the row that others continue, it costs no product of its own
            w.scores[row] = _NEVER
            w.parents[(w.t + 1) * w.R + row] = i * w.B
            w.tokens[(w.t + 1) * w.R + row] = w.pad
        if w.done[i] == 0 and settled(w, i):
            w.done[i] = 1


def follow(w, first, end):
    """Every hypothesis that was kept, followed back to its beginning: its token of step t -> w.found, its row -> w.at
    (T, N, F)."""
    for h in range(first * w.F, end * w.F):
        if h % w.F >= w.count[h // w.F]:
            continue
        row, v = w.final_row[h], w.final_token[h]
        for t in range(w.final_step[h] - 1, -1, -1):
            place = t * w.N * w.F + h
            w.found[place], w.at[place] = v, row
            # what row continues, and what was chosen for it
            v, row = w.tokens[t * w.R + row], w.parents[t * w.R + row]


TEXTS = (
    recall, repeats, allowed, take, best, greedy, forced, before, sink, share, pop, draw, sample, penalty, uncovered,
    collect, finish, settled, beam, follow,
)  # fmt: skip
