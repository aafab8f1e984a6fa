// Rows of a table by number, and the sum of gradients of each row, without atomics.
//
// embedding_forward: out[i] = table[index[i]]. backward: out[r] = the sum of grad[j] over all j with index[j] == r, in
// the order of j, from `order`, which sorts the indices (stable). Nobody knows on the host how many different indices
// there are, and a single one may fill the batch. So the sorted positions are cut into pieces of LENGTH, one for a row
// of threads: runs of equal numbers inside a piece are written at once; what a run has in its first and its last piece
// goes to `parts`, and embedding_join adds a run's parts up in their order. Rows without an index stay as they are: the
// caller clears `out`.
//
//   kernel              computes                                      bytes moved (s = sizeof(T), m indices, d columns)
//   embedding_forward   out (m, d)                                    2 m d s
//   embedding_backward  out (rows, d) of runs inside a piece; parts   m d s + (different indices) d s
//   embedding_join      out of the runs that cross pieces             4 bytes for each part
//
// A block is (lanes, 256 / lanes) threads; blockIdx.y counts strips of `lanes` pieces of 16 bytes. Arithmetic in float.
// `out` and `parts` start at aligned addresses: the launcher makes them.
// LENGTH 16: 8192 indices of 768 columns are 1536 warps; one index in 65,536 places joins 4096 parts by 8 threads each.
// Versions tried on a GPU: none, not yet measured.
#include "errors.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr int AHEAD = 2;  // rows that are on their way at the same time

// A wrong number is reported and its row is NaN.
template <typename T, typename I>
__global__ void __launch_bounds__(256) embedding_forward(
    const T* __restrict__ table, const I* __restrict__ index, T* __restrict__ out, long long count, long long rows,
    long long columns, int code, long long* word) {
    constexpr int W = Vector<T>::width;
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (i >= count) return;
    const long long r = index[i];
    const bool wrong = r < 0 || r >= rows;
    if (wrong && threadIdx.x == 0) report(word, code, r);
    const T* from = table + r * columns;
    T* to = out + i * columns;
    if (!wrong && columns % W == 0 && aligned(table)) {
        for (long long c = threadIdx.x; c < columns / W; c += blockDim.x)
            reinterpret_cast<uint4*>(to)[c] = reinterpret_cast<const uint4*>(from)[c];
    } else {
        for (long long c = threadIdx.x; c < columns; c += blockDim.x)
            to[c] = wrong ? narrow<T>(not_a_number()) : from[c];
    }
}

// Whether a row of `out` takes a gradient.
__device__ __forceinline__ bool wanted(long long key, long long rows, long long padding) {
    return key >= 0 && key < rows && key != padding;
}

// Elements c, c + 1, ... of a row as they are in memory: half the registers of floats for the half types.
template <int W, typename T>
__device__ __forceinline__ void fetch(const T* row, long long c, long long columns, bool whole, T (&held)[W]) {
    if (whole) {
        const uint4 raw = *reinterpret_cast<const uint4*>(row + c);
        memcpy(held, &raw, 16);
    } else {
#pragma unroll
        for (int k = 0; k < W; ++k)
            if (c + k < columns) held[k] = row[c + k];
    }
}

template <int W, typename T>
__device__ __forceinline__ void finish(
    T* out, float (&total)[W], long long c, long long columns, bool whole, long long number) {
    if (number > 0) {  // the mean's share of each occurrence
        const float share = 1.f / static_cast<float>(number);
#pragma unroll
        for (int k = 0; k < W; ++k) total[k] *= share;
    }
    store_some(out, c, columns, whole, total);
}

// parts (pieces, 2, columns): of a run that began in an earlier piece, of a run that goes on in the next one. `by_count`
// divides each row's sum by the number of its indices. Row `padding` gets nothing (-1: no such row).
template <typename T, typename I, int LENGTH>
__global__ void __launch_bounds__(256, 3) embedding_backward(
    const T* __restrict__ grad, const I* __restrict__ index, const long long* __restrict__ order, T* __restrict__ out,
    float* __restrict__ parts, long long count, long long rows, long long columns, long long padding, bool by_count) {
    constexpr int W = Vector<T>::width;
    const long long piece = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
    const long long c = (static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x) * W;
    const long long begin = piece * LENGTH;
    if (begin >= count || c >= columns) return;
    const long long end = begin + LENGTH < count ? begin + LENGTH : count;
    const bool whole = columns % W == 0 && aligned(grad);
    long long key = index[order[begin]], start = begin;
    bool first = begin == 0 || index[order[begin - 1]] != key;  // whether the run began in this piece
    float total[W];
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] = 0.f;
    for (long long p = begin; p < end; p += AHEAD) {
        T held[AHEAD][W];
        long long keys[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (p + a >= end) continue;
            const long long from = order[p + a];
            keys[a] = index[from];
            if (wanted(keys[a], rows, padding)) fetch(grad + from * columns, c, columns, whole, held[a]);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; ++a) {
            if (p + a >= end) break;
            if (keys[a] != key) {  // the run before ended here
                if (wanted(key, rows, padding)) {
                    if (first)
                        finish(out + key * columns, total, c, columns, whole, by_count ? p + a - start : 0);
                    else
                        store_some(parts + piece * 2 * columns, c, columns, whole, total);
                }
                key = keys[a];
                start = p + a;
                first = true;
#pragma unroll
                for (int k = 0; k < W; ++k) total[k] = 0.f;
            }
            if (wanted(key, rows, padding)) {
#pragma unroll
                for (int k = 0; k < W; ++k) total[k] += widen(held[a][k]);
            }
        }
    }
    if (!wanted(key, rows, padding)) return;
    const bool last = end == count || index[order[end]] != key;
    if (first && last)
        finish(out + key * columns, total, c, columns, whole, by_count ? end - start : 0);
    else
        store_some(parts + (piece * 2 + first) * columns, c, columns, whole, total);
}

// Block (piece, strip) finishes the run that begins in its piece and goes on behind it, if there is one.
template <typename T, typename I, int LENGTH>
__global__ void __launch_bounds__(256, 4) embedding_join(
    const float* __restrict__ parts, const I* __restrict__ index, const long long* __restrict__ order,
    T* __restrict__ out, long long count, long long rows, long long columns, long long padding, bool by_count) {
    constexpr int W = Vector<T>::width;
    __shared__ float staged[W][256];
    const long long piece = blockIdx.x, begin = piece * LENGTH, end = begin + LENGTH;
    if (end >= count) return;
    const long long key = index[order[end]];
    if (index[order[end - 1]] != key || !wanted(key, rows, padding)) return;
    if (begin > 0 && index[order[begin - 1]] == key) return;  // it began before
    long long low = piece + 1, high = (count + LENGTH - 1) / LENGTH;  // the run's last piece is in [low, high)
    while (high - low > 1) {
        const long long middle = low + (high - low) / 2;
        if (index[order[middle * LENGTH]] == key) low = middle;
        else high = middle;
    }
    const long long c = (static_cast<long long>(blockIdx.y) * blockDim.x + threadIdx.x) * W;
    const bool whole = columns % W == 0;
    float total[W];
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] = 0.f;
    if (c < columns) {
        if (threadIdx.y == 0) load_some(parts + (piece * 2 + 1) * columns, c, columns, whole, total);
#pragma unroll 2
        for (long long p = piece + 1 + threadIdx.y; p <= low; p += blockDim.y) {
            float v[W];
            load_some(parts + p * 2 * columns, c, columns, whole, v);
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
    if (threadIdx.y > 0 || c >= columns) return;
#pragma unroll
    for (int k = 0; k < W; ++k) total[k] = staged[k][own];
    long long number = 0;
    if (by_count) {
        long long from = end - 1, to = low * LENGTH;
        while (from > 0 && index[order[from - 1]] == key) --from;
        while (to < count && index[order[to]] == key) ++to;
        number = to - from;
    }
    finish(out + key * columns, total, c, columns, whole, number);
}
