// Kernels over the rows of a contiguous array (rows, columns): softmax, layer norm and RMS norm.
// Arithmetic in float; T is float, half or bfloat16, P the dtype of weight and bias: T or float.
//
// A row belongs to blockDim.x threads: to one warp (then a block has blockDim.y rows) or to a whole block. It is read
// in 16-byte pieces where every row starts at an aligned address (aligned pointers, columns a multiple of 16 bytes),
// element by element otherwise. A kernel that reads a row twice finds it in the cache: bytes moved count it once.
//
//   kernel                  computes                                         bytes moved (s = sizeof(T), n elements)
//   softmax_forward         y = softmax(scale x) or its logarithm            2 n s
//   masked_softmax          the same of scale x + bias where allowed         2 n s (+ the mask's bytes)
//   softmax_backward        gx from grad and y                               3 n s
//   norm_forward            y = (x - mean) r weight + bias; mean, r of rows  2 n s, 4 n s with x + residual
//   norm_backward           gx, and parts of the gradients of weight, bias   3 n s + 8 blocks columns, 4 n s + ...
//
// The gradients of weight and bias take two stages without atomics: each block of norm_backward sums its rows, and
// column_sums (columns.cu) adds the blocks up in their order, so the result is the same in every run.
// __launch_bounds__(256, 4): without the 4 the compiler keeps to 32 registers and spills (16 bytes in norm_forward on
// sm_100). Means multiply by 1 / columns from the host: a division by columns is a call.
// Versions tried on a GPU: none, not yet measured.
#include "rows.cuh"

// ---- softmax

// False in `allowed` and columns from `limit` on take an element out, `bias` is added; either may be null.
struct Masked {
    float scale;
    const bool* allowed;
    const float* bias;
    long long limit;
    __device__ __forceinline__ float operator()(float x, long long c) const {
        if (c >= limit || (allowed != nullptr && !allowed[c])) return -infinity();
        return bias == nullptr ? x * scale : x * scale + bias[c];
    }
};

// Columns from `limit` on are not read. `zero`: a row without any element left is 0, else NaN.
template <int N, bool LOG, typename X, typename T, typename F>
__device__ __forceinline__ void softmax_row(
    const X* x, F logit, T* y, long long columns, long long limit, bool zero, float* staged) {
    float top, total, v[N];
    log_sum_exp<N>(x, logit, limit, staged, top, total);
    float factor = LOG ? top + logf(total) : 1.f / total;
    if (zero && total == 0.f) top = factor = 0.f;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    long long c = begin;
    for (; c < limit; c += step) {
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float z = logit(v[k], c + k);
            v[k] = LOG ? z - factor : expf(z - top) * factor;
        }
        store(y + c, v);
    }
    const float rest = LOG ? -infinity() - factor : 0.f * factor;  // NaN where the row is
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = rest;
    for (; c < columns; c += step) store(y + c, v);
}

template <typename T, bool LOG>
__global__ void __launch_bounds__(256, 4) softmax_forward(
    const T* __restrict__ x, T* __restrict__ y, long long rows, long long columns, float scale) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long start = row * columns;
    if (pieces<T>(columns) && aligned(x) && aligned(y))
        softmax_row<Vector<T>::width, LOG>(x + start, Plain{scale}, y + start, columns, columns, false, staged);
    else
        softmax_row<1, LOG>(x + start, Plain{scale}, y + start, columns, columns, false, staged);
}

// softmax(scale x + bias) where allowed. x: scores in T, or in float for a result of half the size. allowed and bias, of
// one shape, or null: row r of x takes their row (r / outer_repeat % outer_rows) inner_rows + r / inner_repeat %
// inner_rows. causal_rows > 0: rows come in matrices of so many, and row t of a matrix sees columns 0 .. t. `zero` as in
// softmax_row. Elements taken out need no particular value, NaN included.
template <typename X, typename T, bool LOG>
__global__ void __launch_bounds__(256, 4) masked_softmax(
    const X* __restrict__ x, const bool* __restrict__ allowed, const float* __restrict__ bias, T* __restrict__ y,
    long long rows, long long columns, float scale, long long inner_repeat, long long inner_rows,
    long long outer_repeat, long long outer_rows, long long causal_rows, bool zero) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long seen = causal_rows == 0 ? columns : row % causal_rows + 1;
    const long long own =
        (row / outer_repeat % outer_rows * inner_rows + row / inner_repeat % inner_rows) * columns;
    const Masked logit = {scale, allowed == nullptr ? nullptr : allowed + own, bias == nullptr ? nullptr : bias + own,
                          seen < columns ? seen : columns};
    const long long start = row * columns;
    if (pieces<T>(columns) && aligned(x) && aligned(y))
        softmax_row<Vector<T>::width, LOG>(x + start, logit, y + start, columns, logit.limit, zero, staged);
    else
        softmax_row<1, LOG>(x + start, logit, y + start, columns, logit.limit, zero, staged);
}

template <int N, bool LOG, typename T>
__device__ __forceinline__ void softmax_row_backward(
    const T* grad, const T* y, T* gx, long long columns, float scale, float* staged) {
    float total = 0.f, g[N], p[N];
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(grad + c, g);
        if constexpr (!LOG) load(y + c, p);
#pragma unroll
        for (int k = 0; k < N; ++k) total += LOG ? g[k] : g[k] * p[k];
    }
    total = reduce_row(total, Sum(), staged);
    for (long long c = begin; c < columns; c += step) {
        load(grad + c, g);
        load(y + c, p);
#pragma unroll
        for (int k = 0; k < N; ++k) g[k] = scale * (LOG ? g[k] - expf(p[k]) * total : p[k] * (g[k] - total));
        store(gx + c, g);
    }
}

// y is the output of softmax_forward or masked_softmax: an element that was taken out has gradient 0.
template <typename T, bool LOG>
__global__ void __launch_bounds__(256, 4) softmax_backward(
    const T* __restrict__ grad, const T* __restrict__ y, T* __restrict__ gx, long long rows, long long columns,
    float scale) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long start = row * columns;
    if (pieces<T>(columns) && aligned(grad) && aligned(y) && aligned(gx))
        softmax_row_backward<Vector<T>::width, LOG>(grad + start, y + start, gx + start, columns, scale, staged);
    else
        softmax_row_backward<1, LOG>(grad + start, y + start, gx + start, columns, scale, staged);
}

// ---- layer norm (CENTER) and RMS norm

// The piece at c of x, plus the residual if there is one: then rounded to T, as it is kept in `sum`.
template <int N, typename T>
__device__ __forceinline__ void load_sum(const T* x, const T* residual, T* sum, long long c, float (&v)[N]) {
    load(x + c, v);
    if (residual == nullptr) return;
    float r[N];
    load(residual + c, r);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = widen(narrow<T>(v[k] + r[k]));
    store(sum + c, v);
}

template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_row(
    const T* x, const T* residual, const P* weight, const P* bias, T* y, T* sum, float* mean, float* rstd,
    long long columns, float share, float eps, float* staged) {
    float v[N], middle = 0.f, square = 0.f;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    const T* seen = residual == nullptr ? x : sum;  // a thread reads back what it wrote itself
    if constexpr (CENTER) {
        for (long long c = begin; c < columns; c += step) {
            load_sum(x, residual, sum, c, v);
#pragma unroll
            for (int k = 0; k < N; ++k) middle += v[k];
        }
        middle = reduce_row(middle, Sum(), staged) * share;
    }
    for (long long c = begin; c < columns; c += step) {  // after the mean: the variance does not cancel
        if constexpr (CENTER) load(seen + c, v);
        else load_sum(x, residual, sum, c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) square += (v[k] - middle) * (v[k] - middle);
    }
    const float r = rsqrtf(reduce_row(square, Sum(), staged) * share + eps);
    if (threadIdx.x == 0) {
        if constexpr (CENTER) *mean = middle;
        *rstd = r;
    }
    for (long long c = begin; c < columns; c += step) {
        load(seen + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = (v[k] - middle) * r;
        if (weight != nullptr) {
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] *= widen(weight[c + k]);
        }
        if (bias != nullptr) {
#pragma unroll
            for (int k = 0; k < N; ++k) v[k] += widen(bias[c + k]);
        }
        store(y + c, v);
    }
}

// share = 1 / columns. mean, rstd (rows); RMS norm leaves `mean` alone. weight, bias (columns) or null. With a residual
// (rows, columns) x + residual is normalized, and kept in `sum` (no __restrict__: written and read back).
template <typename T, typename P, bool CENTER>
__global__ void __launch_bounds__(256, 4) norm_forward(
    const T* __restrict__ x, const T* __restrict__ residual, const P* __restrict__ weight,
    const P* __restrict__ bias, T* __restrict__ y, T* sum, float* __restrict__ mean, float* __restrict__ rstd,
    long long rows, long long columns, float share, float eps) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long start = row * columns;
    x += start;
    y += start;
    if (residual != nullptr) {
        residual += start;
        sum += start;
    }
    float* own_mean = CENTER ? mean + row : nullptr;
    if (pieces<T>(columns) && aligned(x) && aligned(y) && aligned(residual) && aligned(sum))
        norm_row<Vector<T>::width, CENTER>(
            x, residual, weight, bias, y, sum, own_mean, rstd + row, columns, share, eps, staged);
    else
        norm_row<1, CENTER>(x, residual, weight, bias, y, sum, own_mean, rstd + row, columns, share, eps, staged);
}

// One row of the gradient; adds the row to this thread's sums. Element k of the piece at c has its sums at
// sums[k * (columns / N) + c / N], so that neighbouring threads use neighbouring banks.
template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_row_backward(
    const T* grad, const T* x, const P* weight, const T* more, T* gx, float middle, float r, long long columns,
    float share, float* weight_sums, float* bias_sums, float* staged) {
    float g[N], v[N], plain = 0.f, with_x = 0.f;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(grad + c, g);
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            v[k] = (v[k] - middle) * r;
            if (weight_sums != nullptr) {
                const long long slot = k * (columns / N) + c / N;
                weight_sums[slot] += g[k] * v[k];
                if constexpr (CENTER) bias_sums[slot] += g[k];
            }
            if (weight != nullptr) g[k] *= widen(weight[c + k]);
            with_x += g[k] * v[k];
            if constexpr (CENTER) plain += g[k];
        }
    }
    with_x = reduce_row(with_x, Sum(), staged) * share;
    if constexpr (CENTER) plain = reduce_row(plain, Sum(), staged) * share;
    for (long long c = begin; c < columns; c += step) {
        load(grad + c, g);
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (weight != nullptr) g[k] *= widen(weight[c + k]);
            g[k] = r * (g[k] - plain - (v[k] - middle) * r * with_x);
        }
        if (more != nullptr) {
            load(more + c, v);
#pragma unroll
            for (int k = 0; k < N; ++k) g[k] += v[k];
        }
        store(gx + c, g);
    }
}

template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_rows_backward(
    const T* grad, const T* x, const P* weight, const float* mean, const float* rstd, const T* more, T* gx,
    float* weight_parts, float* bias_parts, long long rows, long long columns, float share, float* sums,
    float* staged) {
    float* weight_sums = weight_parts == nullptr ? nullptr : sums;
    float* bias_sums = sums + columns;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    if (weight_sums != nullptr) {
        for (long long c = begin; c < columns; c += step)
            for (int k = 0; k < N; ++k) {
                const long long slot = k * (columns / N) + c / N;
                weight_sums[slot] = 0.f;
                if constexpr (CENTER) bias_sums[slot] = 0.f;
            }
    }
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const long long start = row * columns;
        norm_row_backward<N, CENTER>(
            grad + start, x + start, weight, more == nullptr ? nullptr : more + start, gx + start,
            CENTER ? mean[row] : 0.f, rstd[row], columns, share, weight_sums, bias_sums, staged);
    }
    if (weight_sums != nullptr) {
        const long long own = static_cast<long long>(blockIdx.x) * columns;
        for (long long c = begin; c < columns; c += step)
            for (int k = 0; k < N; ++k) {
                const long long slot = k * (columns / N) + c / N;
                weight_parts[own + c + k] = weight_sums[slot];
                if constexpr (CENTER) bias_parts[own + c + k] = bias_sums[slot];
            }
    }
}

// Block b takes rows b, b + gridDim.x, ... (blockDim.y is 1). weight_parts and bias_parts (gridDim.x, columns), or null,
// get the block's sums of grad * xhat and grad, which are kept in dynamic shared memory: columns floats, twice that with
// CENTER. Each sum belongs to one thread, so they need no barrier. Rows that are too long for that leave the sums to
// norm_weight_sums (columns.cu). `more` (rows, columns) or null is added to
// gx: the gradient that comes to x + residual itself.
template <typename T, typename P, bool CENTER>
__global__ void __launch_bounds__(256, 4) norm_backward(
    const T* __restrict__ grad, const T* __restrict__ x, const P* __restrict__ weight, const float* __restrict__ mean,
    const float* __restrict__ rstd, const T* __restrict__ more, T* __restrict__ gx, float* __restrict__ weight_parts,
    float* __restrict__ bias_parts, long long rows, long long columns, float share) {
    extern __shared__ float dynamic_shared[];
    __shared__ float staged[32];
    if (pieces<T>(columns) && aligned(grad) && aligned(x) && aligned(gx) && aligned(more))
        norm_rows_backward<Vector<T>::width, CENTER>(grad, x, weight, mean, rstd, more, gx, weight_parts, bias_parts,
                                                     rows, columns, share, dynamic_shared, staged);
    else
        norm_rows_backward<1, CENTER>(grad, x, weight, mean, rstd, more, gx, weight_parts, bias_parts, rows, columns,
                                      share, dynamic_shared, staged);
}
