// Elementwise kernels: activations with an optional bias, gated activations, dropout with an optional residual.
//
// All arrays have n elements; arithmetic in float, rounded once. T is float, half or bfloat16. A thread takes ITEMS
// neighbours (16 bytes of a half type, two times 16 of float: the values of one Philox block), by 16-byte accesses where
// all its addresses allow them, one by one in the tail and for unaligned arrays.
//
//   kernel               computes                                    bytes moved (s = sizeof(T))
//   activation_forward   y = f(x + bias)                             2 n s
//   activation_backward  gx = grad f'(x + bias)                      3 n s
//   gated_forward        y = f(gate) up                              3 n s
//   gated_backward       ggate = grad up f'(gate), gup = grad f(gate)  5 n s
//   dropout              y = residual + mask x scale                 2 n s, with a residual n s + 2 n sizeof(R)
//
// f: GELU (erf), GELU (tanh), ReLU, SiLU. bias (columns): element i takes bias[i % columns].
// Layout: contiguous, except gate, up, ggate and gup, whose rows of `columns` elements start `stride` apart: the two
// halves of one array (rows, 2 columns) are read and written in place, without a copy of either.
// In backward x, gate and up are read again and f' is computed from them; nothing else was kept. y, gx, ggate and gup
// are new arrays: no operand is written.
// Versions tried on a GPU: none, not yet measured.
#include "activation.cuh"
#include "philox.cuh"
#include "vector.cuh"

constexpr int ITEMS = 8;

// This thread's first element.
__device__ __forceinline__ long long first_item() {
    return (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * ITEMS;
}

// x += bias; a null bias adds nothing.
template <typename T>
__device__ __forceinline__ void add_bias(float (&x)[ITEMS], const T* bias, long long i, long long columns) {
    if (bias == nullptr) return;
    long long c = i % columns;
    if (c + ITEMS <= columns && aligned(bias + c)) {
        float b[ITEMS];
        load(bias + c, b);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) x[k] += b[k];
        return;
    }
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
        x[k] += widen(bias[c]);  // behind the end of x too, where nothing is stored
        if (++c == columns) c = 0;
    }
}

template <typename T, int KIND>
__global__ void __launch_bounds__(256) activation_forward(
    const T* __restrict__ x, const T* __restrict__ bias, T* __restrict__ y, long long n, long long columns) {
    const long long i = first_item();
    if (i >= n) return;
    const bool whole = i + ITEMS <= n && aligned(x) && aligned(y);
    float v[ITEMS];
    load_some(x, i, n, whole, v);
    add_bias(v, bias, i, columns);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) v[k] = activate<KIND>(v[k]);
    store_some(y, i, n, whole, v);
}

template <typename T, int KIND>
__global__ void __launch_bounds__(256) activation_backward(
    const T* __restrict__ grad, const T* __restrict__ x, const T* __restrict__ bias, T* __restrict__ gx, long long n,
    long long columns) {
    const long long i = first_item();
    if (i >= n) return;
    const bool whole = i + ITEMS <= n && aligned(grad) && aligned(x) && aligned(gx);
    float v[ITEMS], g[ITEMS];
    load_some(x, i, n, whole, v);
    load_some(grad, i, n, whole, g);
    add_bias(v, bias, i, columns);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) g[k] *= slope<KIND>(v[k]);
    store_some(gx, i, n, whole, g);
}

// Where result i lies in operands whose rows of `columns` elements start `stride` apart.
struct Strip {
    long long column, at;

    __device__ Strip(long long i, long long n, long long columns, long long stride) {
        const long long row = columns == n ? 0 : i / columns;
        column = i - row * columns;
        at = row * stride + column;
    }

    // To result i + 1.
    __device__ void next(long long columns, long long stride) {
        ++at;
        if (++column == columns) {
            column = 0;
            at += stride - columns;
        }
    }
};

// Whether no piece of ITEMS lies in two rows, and all are aligned as the first is: `stride` is columns or twice as much.
__device__ __forceinline__ bool pieces(long long n, long long columns) {
    return columns == n || columns % ITEMS == 0;
}

// A null `up`: gate is (rows, 2 columns), and up its second half; so with `gup` in the backward. What cannot go in pieces
// of 16 bytes goes one by one, in a loop that is not unrolled: unrolled, GELU's forward spilled 24 bytes.
template <typename T, int KIND>
__global__ void __launch_bounds__(256) gated_forward(
    const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ y, long long n, long long columns,
    long long stride) {
    const long long i = first_item();
    if (i >= n) return;
    if (up == nullptr) up = gate + columns;
    Strip s(i, n, columns, stride);
    if (i + ITEMS <= n && pieces(n, columns) && aligned(gate) && aligned(up) && aligned(y)) {
        float a[ITEMS], b[ITEMS];
        load(gate + s.at, a);
        load(up + s.at, b);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) a[k] = activate<KIND>(a[k]) * b[k];
        store(y + i, a);
        return;
    }
#pragma unroll 1
    for (long long k = i; k < n && k < i + ITEMS; ++k, s.next(columns, stride))
        y[k] = narrow<T>(activate<KIND>(widen(gate[s.at])) * widen(up[s.at]));
}

template <typename T, int KIND>
__global__ void __launch_bounds__(256) gated_backward(
    const T* __restrict__ grad, const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ ggate,
    T* __restrict__ gup, long long n, long long columns, long long stride) {
    const long long i = first_item();
    if (i >= n) return;
    if (up == nullptr) {
        up = gate + columns;
        gup = ggate + columns;
    }
    Strip s(i, n, columns, stride);
    if (i + ITEMS <= n && pieces(n, columns) && aligned(grad) && aligned(gate) && aligned(up) && aligned(ggate) &&
        aligned(gup)) {
        float g[ITEMS], a[ITEMS], b[ITEMS];
        load(grad + i, g);
        load(gate + s.at, a);
        load(up + s.at, b);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            b[k] *= g[k] * slope<KIND>(a[k]);
            g[k] *= activate<KIND>(a[k]);
        }
        store(ggate + s.at, b);
        store(gup + s.at, g);
        return;
    }
#pragma unroll 1
    for (long long k = i; k < n && k < i + ITEMS; ++k, s.next(columns, stride)) {
        const float g = widen(grad[k]), a = widen(gate[s.at]);
        ggate[s.at] = narrow<T>(widen(up[s.at]) * (g * slope<KIND>(a)));  // in the order of the products above
        gup[s.at] = narrow<T>(g * activate<KIND>(a));
    }
}

// Value i of the mask is kept where 32-bit word i of the stream (low halves first) is below `threshold`; `block` is the
// Philox block of value 0. Backward is the same kernel on the gradient, without a residual: the mask is made again, and
// never stored. R is the type of the residual and of the result: float beside a half x under autocast, else T.
template <typename T, typename R>
__global__ void __launch_bounds__(256) dropout(
    const T* __restrict__ x, const R* __restrict__ residual, R* __restrict__ y, long long n, float scale,
    unsigned int threshold, unsigned long long seed, unsigned long long block) {
    const long long i = first_item();
    if (i >= n) return;
    const bool whole = i + ITEMS <= n && aligned(x) && aligned(residual) && aligned(y);
    unsigned long long word[4];
    philox(seed, block + i / ITEMS, word);
    float v[ITEMS];
    load_some(x, i, n, whole, v);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
        const unsigned int bits = static_cast<unsigned int>(k % 2 ? word[k / 2] >> 32 : word[k / 2]);
        v[k] = v[k] * scale * (bits < threshold ? 1.f : 0.f);
    }
    if (residual != nullptr) {
        float r[ITEMS];
        load_some(residual, i, n, whole, r);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) v[k] += r[k];
    }
    store_some(y, i, n, whole, v);
}
