// Rotary position embedding (Su et al. 2021, "RoFormer"): pairs of each row turned by an angle of the row's position.
//
//   (y1, y2) = (x1 cos - x2 sin, x2 cos + x1 sin)
//
// x, y: contiguous (rows, dim) of T (float, half, bfloat16); the first 2 `pairs` elements of a row are turned, the rest
// is copied. INTERLEAVED: pair j is elements 2j, 2j + 1 (GPT-J), else j, j + pairs (GPT-NeoX, LLaMA). cosine, sine:
// float (batches, length, pairs). The leading dimensions of x can come in any order: row r is at position
// r / inner % length of batch r / batch_inner % batches. sign 1 is the forward, -1 (the angle turned back) the backward.
// Arithmetic in float, rounded once.
//
// A thread turns PAIRS pairs, 8 elements (16 of half types that are not interleaved), by 16-byte accesses of x, y, cosine
// and sine where the row's are aligned and `pairs` is a multiple of PAIRS, else one by one. threadIdx.x counts along a
// row, threadIdx.y rows.
//
//   kernel   bytes moved (n = rows dim elements of s bytes)
//   rotary   2 n s, and the tables: 8 batches length pairs, which all rows of one position share in the caches
//
// Versions tried on a GPU: none, not yet measured.
#include "vector.cuh"

// x c + y s with one rounding less, the same one on every path and compiler: alignment does not show in the bits.
__device__ __forceinline__ float turned(float x, float c, float y, float s) { return fmaf(x, c, y * s); }

// Pairs j .. j + N - 1 of a row of `pairs`, those that exist: first[j * step], second[j * step].
template <int N, typename T>
__device__ __forceinline__ void turn_one_by_one(
    const T* first, const T* second, const float* cosine, const float* sine, T* to_first, T* to_second, long long j,
    long long pairs, int step, float sign) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
        if (j + k >= pairs) return;
        const long long at = (j + k) * step;
        const float a = widen(first[at]), b = widen(second[at]), c = cosine[j + k], s = sign * sine[j + k];
        to_first[at] = narrow<T>(turned(a, c, -b, s));
        to_second[at] = narrow<T>(turned(b, c, a, s));
    }
}

template <typename T, bool INTERLEAVED>
__global__ void __launch_bounds__(256) rotary(
    const T* __restrict__ x, const float* __restrict__ cosine, const float* __restrict__ sine, T* __restrict__ y,
    long long rows, long long dim, long long pairs, long long inner, long long length, long long batch_inner,
    long long batches, float sign) {
    constexpr int W = Vector<T>::width;
    constexpr int PAIRS = INTERLEAVED ? 4 : W;
    const long long row = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const long long batch = batches == 1 ? 0 : row / batch_inner % batches;
    const long long start = (batch * length + row / inner % length) * pairs;
    x += row * dim;
    y += row * dim;
    cosine += start;
    sine += start;
    const bool vectors = pairs % PAIRS == 0 && aligned(cosine) && aligned(sine) && aligned(x) && aligned(y);
    for (long long j = threadIdx.x * PAIRS; j < pairs; j += blockDim.x * PAIRS) {
        if (!vectors) {
            constexpr int STEP = INTERLEAVED ? 2 : 1;
            const long long apart = INTERLEAVED ? 1 : pairs;
            turn_one_by_one<PAIRS>(x, x + apart, cosine, sine, y, y + apart, j, pairs, STEP, sign);
            continue;
        }
        float c[PAIRS], s[PAIRS];
        load(cosine + j, c);
        load(sine + j, s);
        if constexpr (INTERLEAVED) {
            float v[2 * PAIRS];
            load(x + 2 * j, v);
#pragma unroll
            for (int k = 0; k < PAIRS; ++k) {
                const float a = v[2 * k], b = v[2 * k + 1];
                v[2 * k] = turned(a, c[k], -b, sign * s[k]);
                v[2 * k + 1] = turned(b, c[k], a, sign * s[k]);
            }
            store(y + 2 * j, v);
        } else {
            float a[PAIRS], b[PAIRS];
            load(x + j, a);
            load(x + pairs + j, b);
#pragma unroll
            for (int k = 0; k < PAIRS; ++k) {
                const float first = a[k];
                a[k] = turned(first, c[k], -b[k], sign * s[k]);
                b[k] = turned(b[k], c[k], first, sign * s[k]);
            }
            store(y + j, a);
            store(y + pairs + j, b);
        }
    }
    // the rest of the row, as it is
    const long long rest = dim - 2 * pairs;
    x += 2 * pairs;
    y += 2 * pairs;
    const bool copies = rest % W == 0 && aligned(x) && aligned(y);
    for (long long j = threadIdx.x * W; j < rest; j += blockDim.x * W) {
        float v[W];
        load_some(x, j, rest, copies, v);
        store_some(y, j, rest, copies, v);
    }
}
