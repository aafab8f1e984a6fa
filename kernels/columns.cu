// Sums over the rows of a contiguous array (rows, columns): the gradient of a bias, of a weight that all rows share.
//
// A block of (lanes, 256 / lanes) threads takes `lanes` pieces of 16 bytes of each row (a whole line of 128 bytes with
// 8 lanes) and `length` rows; its thread rows take every (256 / lanes)-th. Sums are float and meet in one fixed order,
// so the result is the same in every run: threads of a block by halves, blocks by a second launch over their sums.
//
//   kernel            computes                                                  bytes moved (s = sizeof(T), n elements)
//   column_sums       sums of the columns over stretches of rows                n s + 8 columns stretches
//   norm_weight_sums  the same of grad * xhat and of grad                        2 n s + 16 columns stretches
//
// Versions tried on a GPU: none, not yet measured.
#include "vector.cuh"

// The sums of a block's thread rows, by halves, in those of thread row 0.
template <int W>
__device__ __forceinline__ void add_thread_rows(float (&total)[W], float (*staged)[256]) {
    const int own = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int k = 0; k < W; ++k) staged[k][own] = total[k];
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) {
#pragma unroll
            for (int k = 0; k < W; ++k) staged[k][own] += staged[k][own + half * blockDim.x];
        }
    }
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] = staged[k][own];
}

template <int W, typename P>
__device__ __forceinline__ void store_sums(P* out, const float (&total)[W], long long c, long long columns) {
#pragma unroll
    for (int k = 0; k < W; ++k)
        if (c + k < columns) out[c + k] = narrow<P>(total[k]);
}

// out (stretches, columns): sums over rows [s * length, (s + 1) * length) for stretch s = blockIdx.y.
template <typename T, typename P>
__global__ void __launch_bounds__(256, 4) column_sums(
    const T* __restrict__ x, P* __restrict__ out, long long rows, long long columns, long long length) {
    constexpr int W = Vector<T>::width;
    __shared__ float staged[W][256];
    const long long c = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    const long long begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
    const bool whole = columns % W == 0 && aligned(x);
    float total[W] = {};
    if (c < columns) {
#pragma unroll 4
        for (long long row = begin + threadIdx.y; row < end; row += blockDim.y) {
            float v[W];
            load_some(x + row * columns, c, columns, whole, v);
#pragma unroll
            for (int k = 0; k < W; ++k) total[k] += v[k];
        }
    }
    add_thread_rows(total, staged);
    if (threadIdx.y == 0) store_sums(out + blockIdx.y * columns, total, c, columns);
}

// The sums of grad * (x - mean) * r over rows, and with CENTER those of grad, for the stretches of column_sums: the
// gradients of a norm's weight and bias, where a row is too long for norm_backward (rows.cu) to sum them beside.
template <typename T, bool CENTER>
__global__ void __launch_bounds__(256, 4) norm_weight_sums(
    const T* __restrict__ grad, const T* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ rstd, float* __restrict__ weight_parts, float* __restrict__ bias_parts, long long rows,
    long long columns, long long length) {
    constexpr int W = Vector<T>::width;
    __shared__ float staged[W][256];
    const long long c = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    const long long begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
    const bool whole = columns % W == 0 && aligned(grad) && aligned(x);
    float weight[W] = {}, bias[W] = {};
    if (c < columns) {
        for (long long row = begin + threadIdx.y; row < end; row += blockDim.y) {
            float g[W], v[W];
            load_some(grad + row * columns, c, columns, whole, g);
            load_some(x + row * columns, c, columns, whole, v);
            const float middle = CENTER ? mean[row] : 0.f, r = rstd[row];
#pragma unroll
            for (int k = 0; k < W; ++k) {
                weight[k] += g[k] * ((v[k] - middle) * r);
                if constexpr (CENTER) bias[k] += g[k];
            }
        }
    }
    add_thread_rows(weight, staged);
    if (threadIdx.y == 0) store_sums(weight_parts + blockIdx.y * columns, weight, c, columns);
    if constexpr (CENTER) {
        __syncthreads();  // `staged` is used again
        add_thread_rows(bias, staged);
        if (threadIdx.y == 0) store_sums(bias_parts + blockIdx.y * columns, bias, c, columns);
    }
}
