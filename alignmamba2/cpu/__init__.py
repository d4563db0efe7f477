"""What is compiled by numba for the processor: vector lanes, kernels, and the threads that they run on."""
