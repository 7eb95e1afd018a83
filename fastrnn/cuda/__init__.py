"""The two time loops and the products around them as CUDA kernels, in plain Python for numba-cuda. Imported on first use."""
