// Sums over the rows of a contiguous array (rows, columns): the gradient of a bias, of a weight that all rows share.
//
// A block of (lanes, 256 / lanes) threads takes `lanes` pieces of 16 bytes of each row (a whole line of 128 bytes with
// 8 lanes) and `length` rows; its thread rows take every (256 / lanes)-th. Sums are float and meet in one fixed order,
// so the result is the same in every run: threads of a block by halves, blocks by a second launch over their sums.
//
//   kernel       computes                                    bytes moved (s = sizeof(T), n elements)
//   column_sums  sums of the columns over stretches of rows  n s + 8 columns stretches
//
// Versions tried on a GPU: none, not yet measured.
#include "vector.cuh"

// out (stretches, columns): sums over rows [s * length, (s + 1) * length) for stretch s = blockIdx.y.
template <typename T, typename P>
__global__ void __launch_bounds__(256, 4) column_sums(
    const T* __restrict__ x, P* __restrict__ out, long long rows, long long columns, long long length) {
    constexpr int W = Vector<T>::width;
    __shared__ float staged[W][256];
    const long long c = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    const long long begin = blockIdx.y * length, end = begin + length < rows ? begin + length : rows;
    const bool whole = columns % W == 0 && aligned(x);
    float total[W];
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] = 0.f;
    if (c < columns) {
#pragma unroll 4
        for (long long row = begin + threadIdx.y; row < end; row += blockDim.y) {
            float v[W];
            load_some(x + row * columns, c, columns, whole, v);
#pragma unroll
            for (int k = 0; k < W; ++k) total[k] += v[k];
        }
    }
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
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < W; ++k)
        if (c + k < columns) out[blockIdx.y * columns + c + k] = narrow<P>(staged[k][own]);
}
