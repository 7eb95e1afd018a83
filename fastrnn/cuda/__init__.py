"""The two time loops, the products around them and decoding as CUDA kernels in plain Python. Imported on first use."""
