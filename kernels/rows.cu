// Kernels over the rows of a contiguous array (rows, columns): softmax, layer norm and RMS norm, cross-entropy.
// Arithmetic in float; T is float, half or bfloat16, P the dtype of weight and bias: T or float.
//
// A row belongs to blockDim.x threads: to one warp (then a block has blockDim.y rows) or to a whole block. It is read
// in 16-byte pieces where every row starts at an aligned address (aligned pointers, columns a multiple of 16 bytes),
// element by element otherwise. A kernel that reads a row twice finds it in the cache: bytes moved count it once.
//
//   kernel                  computes                                         bytes moved (s = sizeof(T), n elements)
//   softmax_forward         y = softmax(scale x, masked) or its logarithm    2 n s (mask: + n if it has all rows)
//   softmax_backward        gx from grad and y                               3 n s
//   norm_forward            y = (x - mean) r weight + bias; mean, r of rows  2 n s
//   norm_backward           gx, and parts of the gradients of weight, bias   3 n s + 8 blocks columns
//   cross_entropy_forward   loss and log(sum(exp(x))) of each row            n s
//   cross_entropy_backward  gx = grad (softmax(x) - target's distribution)   2 n s
//
// The gradients of weight and bias take two stages without atomics: each block of norm_backward sums its rows, and
// column_sums (columns.cu) adds the blocks up in their order, so the result is the same in every run.
// __launch_bounds__(256, 4): without the 4 the compiler keeps to 32 registers and spills (16 bytes in norm_forward on
// sm_100). Means multiply by 1 / columns from the host: a division by columns is a call.
// Versions tried on a GPU: none, not yet measured.
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

// ---- softmax

// (x, mask) -> what is normalized. False in the mask takes an element out.
__device__ __forceinline__ float logit(float x, float scale, const bool* mask, long long c) {
    return mask == nullptr || mask[c] ? x * scale : -infinity();
}

// The maximum of a row, and the sum of exp(x - maximum): in one pass, the sum corrected when the maximum grows.
template <int N, typename T>
__device__ __forceinline__ void log_sum_exp(
    const T* x, const bool* mask, long long columns, float scale, float* staged, float& top, float& total) {
    float m = -infinity(), s = 0.f, v[N];
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
        float high = m;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            v[k] = logit(v[k], scale, mask, c + k);
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

template <int N, bool LOG, typename T>
__device__ __forceinline__ void softmax_row(
    const T* x, const bool* mask, T* y, long long columns, float scale, float* staged) {
    float top, total, v[N];
    log_sum_exp<N>(x, mask, columns, scale, staged, top, total);
    const float factor = LOG ? top + logf(total) : 1.f / total;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float z = logit(v[k], scale, mask, c + k);
            v[k] = LOG ? z - factor : expf(z - top) * factor;
        }
        store(y + c, v);
    }
}

// mask (mask_rows, columns) or null: row r takes mask row (r / mask_repeat) % mask_rows. A row without any element left
// is NaN.
template <typename T, bool LOG>
__global__ void __launch_bounds__(256, 4) softmax_forward(
    const T* __restrict__ x, const bool* __restrict__ mask, T* __restrict__ y, long long rows, long long columns,
    float scale, long long mask_repeat, long long mask_rows) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const bool* own = mask == nullptr ? nullptr : mask + row / mask_repeat % mask_rows * columns;
    const long long start = row * columns;
    if (pieces<T>(columns) && aligned(x) && aligned(y))
        softmax_row<Vector<T>::width, LOG>(x + start, own, y + start, columns, scale, staged);
    else
        softmax_row<1, LOG>(x + start, own, y + start, columns, scale, staged);
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

// y is the output of softmax_forward.
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

template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_row(
    const T* x, const P* weight, const P* bias, T* y, float* mean, float* rstd, long long columns, float share,
    float eps, float* staged) {
    float v[N], middle = 0.f, square = 0.f;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    if constexpr (CENTER) {
        for (long long c = begin; c < columns; c += step) {
            load(x + c, v);
#pragma unroll
            for (int k = 0; k < N; ++k) middle += v[k];
        }
        middle = reduce_row(middle, Sum(), staged) * share;
    }
    for (long long c = begin; c < columns; c += step) {  // after the mean: the variance does not cancel
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) square += (v[k] - middle) * (v[k] - middle);
    }
    const float r = rsqrtf(reduce_row(square, Sum(), staged) * share + eps);
    if (threadIdx.x == 0) {
        if constexpr (CENTER) *mean = middle;
        *rstd = r;
    }
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
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

// share = 1 / columns. mean, rstd (rows); RMS norm leaves `mean` alone. weight, bias (columns) or null.
template <typename T, typename P, bool CENTER>
__global__ void __launch_bounds__(256, 4) norm_forward(
    const T* __restrict__ x, const P* __restrict__ weight, const P* __restrict__ bias, T* __restrict__ y,
    float* __restrict__ mean, float* __restrict__ rstd, long long rows, long long columns, float share, float eps) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long start = row * columns;
    float* own_mean = CENTER ? mean + row : nullptr;
    if (pieces<T>(columns) && aligned(x) && aligned(y))
        norm_row<Vector<T>::width, CENTER>(
            x + start, weight, bias, y + start, own_mean, rstd + row, columns, share, eps, staged);
    else
        norm_row<1, CENTER>(x + start, weight, bias, y + start, own_mean, rstd + row, columns, share, eps, staged);
}

// One row of the gradient; adds the row to this thread's sums. Element k of the piece at c has its sums at
// sums[k * (columns / N) + c / N], so that neighbouring threads use neighbouring banks.
template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_row_backward(
    const T* grad, const T* x, const P* weight, T* gx, float middle, float r, long long columns, float share,
    float* weight_sums, float* bias_sums, float* staged) {
    float g[N], v[N], plain = 0.f, with_x = 0.f;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(grad + c, g);
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            v[k] = (v[k] - middle) * r;
            if (weight != nullptr) {
                const long long slot = k * (columns / N) + c / N;
                weight_sums[slot] += g[k] * v[k];
                if constexpr (CENTER) bias_sums[slot] += g[k];
                g[k] *= widen(weight[c + k]);
            }
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
        store(gx + c, g);
    }
}

template <int N, bool CENTER, typename T, typename P>
__device__ __forceinline__ void norm_rows_backward(
    const T* grad, const T* x, const P* weight, const float* mean, const float* rstd, T* gx, float* weight_parts,
    float* bias_parts, long long rows, long long columns, float share, float* sums, float* staged) {
    float* weight_sums = sums;
    float* bias_sums = sums + columns;
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    if (weight != nullptr) {
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
            grad + start, x + start, weight, gx + start, CENTER ? mean[row] : 0.f, rstd[row], columns, share,
            weight_sums, bias_sums, staged);
    }
    if (weight != nullptr) {
        const long long own = static_cast<long long>(blockIdx.x) * columns;
        for (long long c = begin; c < columns; c += step)
            for (int k = 0; k < N; ++k) {
                const long long slot = k * (columns / N) + c / N;
                weight_parts[own + c + k] = weight_sums[slot];
                if constexpr (CENTER) bias_parts[own + c + k] = bias_sums[slot];
            }
    }
}

// Block b takes rows b, b + gridDim.x, ... (blockDim.y is 1). With a weight, weight_parts and bias_parts (gridDim.x,
// columns) get the block's sums of grad * xhat and grad, which are kept in dynamic shared memory: columns floats, twice
// that with CENTER. Each sum belongs to one thread, so they need no barrier.
template <typename T, typename P, bool CENTER>
__global__ void __launch_bounds__(256, 4) norm_backward(
    const T* __restrict__ grad, const T* __restrict__ x, const P* __restrict__ weight, const float* __restrict__ mean,
    const float* __restrict__ rstd, T* __restrict__ gx, float* __restrict__ weight_parts,
    float* __restrict__ bias_parts, long long rows, long long columns, float share) {
    extern __shared__ float dynamic_shared[];
    __shared__ float staged[32];
    if (pieces<T>(columns) && aligned(grad) && aligned(x) && aligned(gx))
        norm_rows_backward<Vector<T>::width, CENTER>(
            grad, x, weight, mean, rstd, gx, weight_parts, bias_parts, rows, columns, share, dynamic_shared, staged);
    else
        norm_rows_backward<1, CENTER>(
            grad, x, weight, mean, rstd, gx, weight_parts, bias_parts, rows, columns, share, dynamic_shared, staged);
}

// ---- cross-entropy

template <int N, typename T>
__device__ __forceinline__ float row_sum(const T* x, long long columns, float less, float* staged) {
    float total = 0.f, v[N];
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) total += v[k] - less;
    }
    return reduce_row(total, Sum(), staged);
}

template <int N, typename T>
__device__ __forceinline__ void cross_entropy_row(
    const T* x, long long target, float* loss, float* lse, long long columns, bool counts, float smoothing,
    float rest, float* staged) {
    float top, total, every = 0.f;
    log_sum_exp<N>(x, nullptr, columns, 1.f, staged, top, total);
    if (smoothing > 0.f) every = row_sum<N>(x, columns, top, staged);
    if (threadIdx.x != 0) return;
    total = logf(total);
    *lse = top + total;
    if (!counts)
        *loss = 0.f;
    else if (target < 0 || target >= columns)
        *loss = not_a_number();  // never a number that looks right
    else {
        *loss = (1.f - smoothing) * (total - (widen(x[target]) - top));
        if (smoothing > 0.f) *loss += smoothing * total - rest * every;
    }
}

// x (rows, columns) logits, target (rows) classes; loss and lse = log(sum(exp(x))) (rows). Rows whose target is
// `ignore` have loss 0; rest = smoothing / columns; one with a target out of range has loss NaN.
template <typename T>
__global__ void __launch_bounds__(256, 4) cross_entropy_forward(
    const T* __restrict__ x, const long long* __restrict__ target, float* __restrict__ loss, float* __restrict__ lse,
    long long rows, long long columns, long long ignore, float smoothing, float rest) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long t = target[row];
    const T* own = x + row * columns;
    if (pieces<T>(columns) && aligned(x))
        cross_entropy_row<Vector<T>::width>(
            own, t, loss + row, lse + row, columns, t != ignore, smoothing, rest, staged);
    else
        cross_entropy_row<1>(own, t, loss + row, lse + row, columns, t != ignore, smoothing, rest, staged);
}

template <int N, typename T>
__device__ __forceinline__ void cross_entropy_row_backward(
    const T* x, T* gx, long long target, float lse, float grad, long long columns, bool counts, float smoothing,
    float rest) {
    float v[N];
    const bool wrong = counts && (target < 0 || target >= columns);
    const long long step = static_cast<long long>(blockDim.x) * N, begin = static_cast<long long>(threadIdx.x) * N;
    for (long long c = begin; c < columns; c += step) {
        load(x + c, v);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float wanted = (c + k == target ? 1.f - smoothing : 0.f) + rest;
            v[k] = wrong ? not_a_number() : counts ? grad * (expf(v[k] - lse) - wanted) : 0.f;
        }
        store(gx + c, v);
    }
}

// grad: of each row's loss (grad_step 1) or one for all rows (0), times *scale.
template <typename T>
__global__ void __launch_bounds__(256, 4) cross_entropy_backward(
    const float* __restrict__ grad, const float* __restrict__ scale, const T* __restrict__ x,
    const long long* __restrict__ target, const float* __restrict__ lse, T* __restrict__ gx, long long rows,
    long long columns, long long ignore, float smoothing, float rest, int grad_step) {
    const long long row = this_row();
    if (row >= rows) return;
    const long long t = target[row], start = row * columns;
    const float g = grad[grad_step * row] * (scale == nullptr ? 1.f : *scale);
    if (pieces<T>(columns) && aligned(x) && aligned(gx))
        cross_entropy_row_backward<Vector<T>::width>(
            x + start, gx + start, t, lse[row], g, columns, t != ignore, smoothing, rest);
    else
        cross_entropy_row_backward<1>(x + start, gx + start, t, lse[row], g, columns, t != ignore, smoothing, rest);
}
