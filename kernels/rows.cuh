// What kernels over the rows of a contiguous array (rows, columns) share. A row belongs to blockDim.x threads: to one warp
// (then a block has blockDim.y rows) or to a whole block. It is read in 16-byte pieces where every row starts at an
// aligned address, element by element otherwise. A kernel that reads a row twice finds it in the cache.
#ifndef TINYTORCH_ROWS_CUH
#define TINYTORCH_ROWS_CUH

#include "reduce.cuh"
#include "vector.cuh"

__device__ __forceinline__ long long this_row() {
    return static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// Whether rows of `columns` elements of T can be read in 16-byte pieces.
template <typename T>
__device__ __forceinline__ bool pieces(long long columns) {
    return columns % Vector<T>::width == 0;
}

// (x, column) -> what is normalized.
struct Plain {
    float scale;
    __device__ __forceinline__ float operator()(float x, long long) const { return x * scale; }
};

// The maximum of a row, and the sum of exp(x - maximum): in one pass, the sum corrected when the maximum grows.
template <int N, typename T, typename F>
__device__ __forceinline__ void log_sum_exp(
    const T* x, F logit, long long columns, float* staged, float& top, float& total) {
    float m = -infinity(), s = 0.f, v[N];
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
        float high = m;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            v[k] = logit(v[k], c + k);
            high = fmaxf(high, v[k]);
        }
        if (high > m) {
            s *= expf(m - high);
            m = high;
        }
#pragma unroll
        for (int k = 0; k < N; ++k) s += v[k] == -infinity() ? 0.f : expf(v[k] - m);
    }
    top = reduce_row(m, Max(), staged);
    total = reduce_row(m == -infinity() ? s : s * expf(m - top), Sum(), staged);
    if (top == infinity()) total = not_a_number();  // infinity less infinity: the whole row is NaN, as in PyTorch
}

#endif
