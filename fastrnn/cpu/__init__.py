"""The CPU backend: the two time loops fused, vectorised and compiled by Numba."""
