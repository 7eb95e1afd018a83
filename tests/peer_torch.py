"""A problem run by PyTorch, in the problem's dtype."""

import numpy as np


def run_torch(p):
    """Outputs and all gradients by the names of Problem.run."""
    import torch

    torch.set_num_threads(1)
    H, I = p.weights.w_hh.shape[1], p.x.shape[2]
    tensor = lambda a: torch.from_numpy(np.array(a))  # noqa: E731
    options = {"nonlinearity": p.cell[4:]} if p.cell.startswith("rnn") else {}
    layer = getattr(torch.nn, p.cell[:4].rstrip("_").upper())(I, H, dtype=tensor(p.x).dtype, **options)
    layer.load_state_dict({f"{k}_l0": tensor(w) for k, w in zip(
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), p.weights, strict=True)})  # fmt: skip
    x, h0 = tensor(p.x).requires_grad_(True), tensor(p.h0).requires_grad_(True)
    c0 = None if p.c0 is None else tensor(p.c0).requires_grad_(True)
    packed = x
    if p.lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(p.lengths), enforce_sorted=False)
    y, state = layer(packed, h0[None] if c0 is None else (h0[None], c0[None]))
    if p.lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=p.x.shape[0])
    h_n, c_n = (state, None) if c0 is None else state
    loss = (y * tensor(p.dy)).sum() + (h_n[0] * tensor(p.dh_n)).sum()
    if c_n is not None:
        loss = loss + (c_n[0] * tensor(p.dc_n)).sum()
    loss.backward()
    found = {"y": y, "h_n": h_n[0], "c_n": None if c_n is None else c_n[0], "dx": x.grad, "dh0": h0.grad}
    found |= {f"d{short}": getattr(layer, f"{long}_l0").grad for short, long in (
        ("w_ih", "weight_ih"), ("w_hh", "weight_hh"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh"))}  # fmt: skip
    found["dc0"] = None if c0 is None else c0.grad
    return {k: v.detach().numpy() for k, v in found.items() if v is not None}
