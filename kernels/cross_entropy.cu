// Cross-entropy of logits (rows, columns) and the class of each row. Rows as in rows.cuh; arithmetic in float, T is float,
// half or bfloat16.
//
//   kernel                  computes                                        bytes moved (s = sizeof(T), n elements)
//   cross_entropy_forward   loss and log(sum(exp(x))) of each row           n s
//   cross_entropy_total     the rows' sum or mean, and a row's share of it  12 rows
//   cross_entropy_backward  gx = grad (softmax(x) - target's distribution)  2 n s
//
// A target that is no class of the row is left in the device's error word, and its loss and gradient are NaN.
// Versions tried on a GPU: none, not yet measured.
#include "errors.cuh"
#include "rows.cuh"

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
    float rest, int code, long long* word, float* staged) {
    float top, total, every = 0.f;
    log_sum_exp<N>(x, Plain{1.f}, columns, staged, top, total);
    if (smoothing > 0.f) every = row_sum<N>(x, columns, top, staged);
    if (threadIdx.x != 0) return;
    total = logf(total);
    *lse = top + total;
    float own = 0.f;
    if (counts && (target < 0 || target >= columns)) {
        own = not_a_number();  // never a number that looks right
        report(word, code, target);
    } else if (counts) {
        own = (1.f - smoothing) * (total - (widen(x[target]) - top)) + (smoothing * total - rest * every);
    }
    *loss = own;
}

// x (rows, columns) logits, target (rows) classes; loss and lse = log(sum(exp(x))) (rows). Rows whose target is
// `ignore` have loss 0; rest = smoothing / columns; one with a target out of range has loss NaN.
template <typename T>
__global__ void __launch_bounds__(256, 4) cross_entropy_forward(
    const T* __restrict__ x, const long long* __restrict__ target, float* __restrict__ loss, float* __restrict__ lse,
    long long rows, long long columns, long long ignore, float smoothing, float rest, int code, long long* word) {
    __shared__ float staged[32];
    const long long row = this_row();
    if (row >= rows) return;
    const long long t = target[row];
    const T* own = x + row * columns;
    if (pieces<T>(columns) && aligned(x))
        cross_entropy_row<Vector<T>::width>(
            own, t, loss + row, lse + row, columns, t != ignore, smoothing, rest, code, word, staged);
    else
        cross_entropy_row<1>(
            own, t, loss + row, lse + row, columns, t != ignore, smoothing, rest, code, word, staged);
}

// total = the sum of the rows' losses, or with `mean` over the rows that are not ignored (NaN if there are none); share =
// what one row's loss has in it (0 if there are none). One block: it reads 12 bytes for each row of logits.
template <typename T>
__global__ void __launch_bounds__(1024) cross_entropy_total(
    const float* __restrict__ loss, const long long* __restrict__ target, T* __restrict__ total,
    float* __restrict__ share, long long rows, long long ignore, bool mean) {
    __shared__ float staged[32];
    float sum = 0.f, number = 0.f;
#pragma unroll 4
    for (long long row = threadIdx.x; row < rows; row += blockDim.x) {
        sum += loss[row];
        number += target[row] != ignore ? 1.f : 0.f;
    }
    sum = reduce_row(sum, Sum(), staged);
    number = reduce_row(number, Sum(), staged);
    if (threadIdx.x > 0) return;
    *total = narrow<T>(mean ? sum / number : sum);
    *share = !mean ? 1.f : number > 0.f ? 1.f / number : 0.f;
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
            v[k] = wrong ? not_a_number() : grad * (expf(v[k] - lse) - wanted);
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
    // an ignored row is 0 whatever the gradient is, and NaN where its logits are, as 0 * NaN is in PyTorch
    const float g = t == ignore ? 0.f : grad[grad_step * row] * (scale == nullptr ? 1.f : *scale);
    if (pieces<T>(columns) && aligned(x))
        cross_entropy_row_backward<Vector<T>::width>(
            x + start, gx + start, t, lse[row], g, columns, t != ignore, smoothing, rest);
    else
        cross_entropy_row_backward<1>(x + start, gx + start, t, lse[row], g, columns, t != ignore, smoothing, rest);
}
