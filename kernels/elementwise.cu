// Elementwise kernels: activations with an optional bias, gated activations, dropout with an optional residual.
//
// All arrays are contiguous, of one dtype T (float, half, bfloat16), n elements; arithmetic in float, rounded once.
// A thread takes ITEMS neighbours (16 bytes of a half type, two times 16 of float: the values of one Philox block), by
// 16-byte accesses where all arrays are aligned, one by one in the tail and for unaligned arrays.
//
//   kernel               computes                                    bytes moved (s = sizeof(T))
//   activation_forward   y = f(x + bias)                             2 n s
//   activation_backward  gx = grad f'(x + bias)                      3 n s
//   gated_forward        y = f(gate) up                              3 n s
//   gated_backward       ggate = grad up f'(gate), gup = grad f(gate)  5 n s
//   dropout              y = residual + mask x scale                 2 n s, 3 n s with a residual
//
// f: GELU (erf), GELU (tanh), ReLU, SiLU. bias (columns): element i takes bias[i % columns].
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
__device__ __forceinline__ void add_bias(
    float (&x)[ITEMS], const T* bias, long long i, long long n, long long columns) {
    if (bias == nullptr) return;
    long long c = i % columns;
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
        if (i + k < n) x[k] += widen(bias[c]);
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
    add_bias(v, bias, i, n, columns);
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
    add_bias(v, bias, i, n, columns);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) g[k] *= slope<KIND>(v[k]);
    store_some(gx, i, n, whole, g);
}

template <typename T, int KIND>
__global__ void __launch_bounds__(256) gated_forward(
    const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ y, long long n) {
    const long long i = first_item();
    if (i >= n) return;
    const bool whole = i + ITEMS <= n && aligned(gate) && aligned(up) && aligned(y);
    float a[ITEMS], b[ITEMS];
    load_some(gate, i, n, whole, a);
    load_some(up, i, n, whole, b);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) a[k] = activate<KIND>(a[k]) * b[k];
    store_some(y, i, n, whole, a);
}

template <typename T, int KIND>
__global__ void __launch_bounds__(256) gated_backward(
    const T* __restrict__ grad, const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ ggate,
    T* __restrict__ gup, long long n) {
    const long long i = first_item();
    if (i >= n) return;
    const bool whole =
        i + ITEMS <= n && aligned(grad) && aligned(gate) && aligned(up) && aligned(ggate) && aligned(gup);
    float g[ITEMS], a[ITEMS], b[ITEMS];
    load_some(grad, i, n, whole, g);
    load_some(gate, i, n, whole, a);
    load_some(up, i, n, whole, b);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
        b[k] *= g[k] * slope<KIND>(a[k]);
        g[k] *= activate<KIND>(a[k]);
    }
    store_some(ggate, i, n, whole, b);
    store_some(gup, i, n, whole, g);
}

// Value i of the mask is kept where 32-bit word i of the stream (low halves first) is below `threshold`; `block` is the
// Philox block of value 0. Backward is the same kernel on the gradient, without a residual.
template <typename T>
__global__ void __launch_bounds__(256) dropout(
    const T* __restrict__ x, const T* __restrict__ residual, T* __restrict__ y, long long n, float scale,
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
