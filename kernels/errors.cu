// Looks for indices out of range and leaves them in the device's error word, so that no host has to wait for the answer.
//
// index (n) int or long long, low <= index < high or index == ignore is right. Bytes moved: n s, nothing is written
// where all are in range.
//
// Versions tried on a GPU: none, not yet measured.
#include "errors.cuh"

template <typename I>
__global__ void __launch_bounds__(256) check_indices(
    const I* __restrict__ index, long long n, long long low, long long high, long long ignore, int code,
    long long* word) {
    const long long step = static_cast<long long>(gridDim.x) * 256;
    for (long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x; i < n; i += step) {
        const long long value = index[i];
        if ((value < low || value >= high) && value != ignore) report(word, code, value);
    }
}
