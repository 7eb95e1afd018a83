"""fastrnn's Seq2Seq as a PyTorch model: parameters of the same names, the same equations, one step after another."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def tensor(a):
    return torch.from_numpy(np.array(a))


def recurrent(layer):
    """The layer of torch.nn with the sizes of a layer of fastrnn."""
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(layer._cell, nn.RNN)
    options = {"nonlinearity": layer.nonlinearity} if kind is nn.RNN else {}
    return kind(layer.input_size, layer.hidden_size, layer.num_layers, bidirectional=layer.bidirectional, **options)


def linear(ours):
    return nn.Linear(ours.in_size, ours.out_size)


def parts(state):
    return state if isinstance(state, tuple) else (state,)


class Encoder(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.embedding = nn.Embedding(ours.embedding.num_tokens, ours.embedding.size)
        self.rnn = recurrent(ours.rnn)

    def forward(self, tokens, lengths=None):
        """x of the tokens, memory, state: (h,) or (h, c), each (L, N, H)."""
        x = self.embedding(tokens)
        if lengths is None:
            memory, state = self.rnn(x)
        else:
            memory, state = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
            memory, _ = nn.utils.rnn.pad_packed_sequence(memory, total_length=len(tokens))
        return x, memory, tuple(p.unflatten(0, (self.rnn.num_layers, -1)).transpose(1, 2).flatten(2) for p in parts(state))


class Attention(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.kind, self.scale = ours.kind, ours.query_size**-0.5 if ours.kind == "scaled_dot" else 1.0
        for name, value in ours.params.items():
            self.register_parameter(name, nn.Parameter(tensor(value)))

    def forward(self, query, memory, lengths, seen):
        """context (N, M) and weights (S, N) of a query (N, Q) with a memory (S, N, M); seen (S, N)."""
        S, p = len(memory), dict(self.named_parameters())
        if self.kind in ("additive", "concat"):
            if self.kind == "concat":
                inner = functional.linear(torch.cat([query.expand(S, -1, -1), memory], -1), p["weight"])
            else:
                inner = functional.linear(query, p["query_weight"]) + functional.linear(memory, p["memory_weight"])
            score = torch.tanh(inner + seen[:, :, None] * p["coverage"] if "coverage" in p else inner) @ p["v"]
        else:
            keys = functional.linear(memory, p["weight"]) if self.kind == "general" else memory
            score = self.scale * (keys * query).sum(-1)
            score = score + seen * p["coverage"] if "coverage" in p else score
        if lengths is not None:
            score = score.masked_fill(torch.arange(S)[:, None] >= lengths, -torch.inf)
        weights = score.softmax(0)
        return (weights[:, :, None] * memory).sum(0), weights

    def steps(self, queries, memory, lengths=None):
        """context (T, N, M) and weights (T, N, S)."""
        seen, contexts, weights = torch.zeros_like(memory[:, :, 0]), [], []
        for query in queries:
            context, a = self(query, memory, lengths, seen)
            seen = seen + a
            contexts.append(context)
            weights.append(a.T)
        return torch.stack(contexts), torch.stack(weights)


class Decoder(nn.Module):
    def __init__(self, ours, embedding=None):
        super().__init__()
        self.embedding = nn.Embedding(ours.embedding.num_tokens, ours.embedding.size) if embedding is None else embedding
        self.rnn, self.feeding, self.feature_size = recurrent(ours.rnn), ours.input_feeding, ours.feature_size
        self.attention = None if ours.attention is None else Attention(ours.attention)
        self.combine = None if ours.combine is None else linear(ours.combine)
        self.output = linear(ours.output)
        if ours.tie:
            self.output.weight = self.embedding.weight

    def forward(self, tokens, state, memory=None, lengths=None, own=None):
        """logits (T, N, V) and attention's weights (T, N, S)."""
        dtype = self.output.bias.dtype
        feature, logits, weights = torch.zeros(tokens.shape[1], self.feature_size, dtype=dtype), [], []
        seen = None if memory is None else torch.zeros_like(memory[:, :, 0])
        for t, token in enumerate(tokens):
            chosen = own is not None and t > 0
            x = self.embedding(torch.where(own[t], logits[-1].argmax(-1), token) if chosen else token)
            x = torch.cat([x, feature], -1) if self.feeding else x
            y, state = self.rnn(x[None], state)
            feature = y[0]
            if self.attention is not None:
                context, a = self.attention(feature, memory, lengths, seen)
                seen = seen + a
                weights.append(a.T)
                feature = torch.tanh(self.combine(torch.cat([context, feature], -1)))
            logits.append(self.output(feature))
        return torch.stack(logits), torch.stack(weights) if weights else None


class Seq2Seq(nn.Module):
    def __init__(self, ours):
        super().__init__()
        self.encoder = Encoder(ours.encoder)
        self.bridge = nn.ModuleDict({name: linear(of) for name, of in ours.bridge._maps.items()})
        self.decoder = Decoder(ours.decoder, self.encoder.embedding if ours._shared else None)
        self.kind, self.memory = ours.bridge.kind, ours.decoder.rnn._cell == "lstm"
        self.bos, self.pad, self.smoothing = ours.bos, ours.pad, ours.label_smoothing
        load(self, ours)

    def crossed(self, state):
        """The decoder's first state, as its layers take it."""
        h, c = state[0], state[1] if len(state) > 1 else None
        if self.kind == "copy":
            c = torch.zeros_like(h) if c is None else c
        else:
            f = {"linear": lambda x: x, "tanh": torch.tanh, "relu": torch.relu}[self.kind]
            c = f(self.bridge["c"](h if c is None else c)) if self.memory else None
            h = f(self.bridge["h"](h))
        return (h, c) if self.memory else h

    def forward(self, source, target, source_lengths=None, target_lengths=None, own=None):
        """The loss, the embedded source, the logits."""
        source, target, source_lengths, target_lengths, own = (
            None if a is None else tensor(a) for a in (source, target, source_lengths, target_lengths, own)
        )
        x, memory, state = self.encoder(source, source_lengths)
        tokens = torch.cat([torch.full((1, target.shape[1]), self.bos), target[:-1]])
        logits, _ = self.decoder(tokens, self.crossed(state), memory, source_lengths, own)
        labels, ignored = target, self.pad
        if target_lengths is not None:
            ignored = -100
            labels = target.masked_fill(torch.arange(len(target))[:, None] >= target_lengths, ignored)
        loss = nn.CrossEntropyLoss(ignore_index=ignored, label_smoothing=self.smoothing)
        return loss(logits.flatten(0, 1), labels.flatten()), x, logits


def load(peer, ours, dtype=None):
    """Have the peer take the parameters of ours, in their dtype or another."""
    peer.to(getattr(torch, np.dtype(dtype or ours.dtype).name))
    state = peer.state_dict(keep_vars=True)
    first = {id(p): name for name, p in reversed(list(peer.named_parameters(remove_duplicate=False)))}
    assert set(first.values()) == set(ours.params)
    peer.load_state_dict({name: tensor(ours.params[first[id(p)]]) for name, p in state.items()})
    return peer


def gradients(peer):
    return {name: p.grad.numpy() for name, p in peer.named_parameters()}


def run_torch(ours, *args, dtype=None, **kwargs):
    """The loss, the gradient of the embedded source and of every parameter, by name."""
    torch.set_num_threads(1)
    peer = load(Seq2Seq(ours), ours, dtype)
    loss, x, _ = peer(*args, **kwargs)
    x.retain_grad()
    loss.backward()
    return {"loss": loss.detach().numpy(), "x": x.grad.numpy()} | gradients(peer)
