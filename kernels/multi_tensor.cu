// Kernels over lists of tensors in one launch: unscaling with its check for infinities and the global norm, Adam,
// AdamW, SGD, and the loss scale. Nothing here waits for the host: step counts, found-infinity flag, scale and factors
// lie on the device.
//
// addresses (lists, tensors), grads (tensors), steps (tensors): where the tensors begin; sizes (tensors). Block b works
// on elements chunk_start[b] .. chunk_start[b] + chunk of tensor chunk_tensor[b]. Tensors are contiguous, at any
// alignment; arithmetic in float. Gradients have a table of their own because they alone move from step to step.
// `found` other than 0 makes the update kernels return: parameters, state and step counts keep their bits.
//
//   kernel        computes                                       bytes moved for n elements
//   unscale       g *= factor, sums of squares by block, found   2 n s; n s without a factor, 0 where it is 1
//   finish_norm   norm = sqrt(sum of the sums), clip factor      -
//   advance       step += 1 unless found; 1 - beta^step          -
//   adam          Adam or AdamW                                  3 n s + 16 n, 8 n more with a master
//   sgd           SGD with momentum, dampening, Nesterov         3 n s + 8 n, 8 n more with a master
//   update_scale  growth and backoff of the loss scale           -
// A `scale` adds n s to adam and sgd: the gradients are left divided by it.
//
// Versions tried on a GPU: none, not yet measured.
#include "reduce.cuh"
#include "vector.cuh"

constexpr int ITEMS = 8;

// A tensor by its place in a table; number `which` of list k has place k * tensors + which.
template <typename T>
__device__ __forceinline__ T* tensor_of(const long long* addresses, long long place) {
    return reinterpret_cast<T*>(addresses[place]);
}

// What this block works on: elements begin .. end of tensor `which`.
struct Stretch {
    int which;
    long long begin, end;
};

__device__ __forceinline__ Stretch stretch(
    const long long* sizes, const int* chunk_tensor, const long long* chunk_start, long long chunk) {
    const int which = chunk_tensor[blockIdx.x];
    const long long begin = chunk_start[blockIdx.x];
    return {which, begin, min(begin + chunk, sizes[which])};
}

__device__ __forceinline__ bool skipped(const float* found) { return found != nullptr && *found != 0.f; }

// The float32 weights behind the rounded ones in p. Where those are no rounding of them, somebody wrote into the
// parameter, and what stands there is the weight: 2 bytes of 32 to read.
template <typename T>
__device__ __forceinline__ void restore(
    const float* master, long long i, long long end, bool whole, float (&p)[ITEMS], const T*) {
    float exact[ITEMS];
    load_some(master, i, end, whole, exact);
#pragma unroll
    for (int k = 0; k < ITEMS; ++k)
        if (widen(narrow<T>(exact[k])) == p[k]) p[k] = exact[k];
}

// Gradients divided by the loss scale, in registers and (rounded) in memory.
template <typename T>
__device__ __forceinline__ void unscaled(
    T* grad, long long i, long long end, bool whole, float (&g)[ITEMS], const float* scale) {
    const float by = 1.f / *scale;
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) g[k] *= by;
    store_some(grad, i, end, whole, g);
}

// parts (blocks) get the sums of squares after the factor; found becomes 1 where an element is not finite. Each may be
// null; with neither, a factor of 1 leaves the gradients unread.
template <typename T>
__global__ void __launch_bounds__(256, 4) unscale(
    const long long* __restrict__ grads, const long long* __restrict__ sizes, const int* __restrict__ chunk_tensor,
    const long long* __restrict__ chunk_start, const float* __restrict__ factor, float* __restrict__ parts,
    float* found, long long chunk) {
    __shared__ float staged[32];
    const float by = factor == nullptr ? 1.f : *factor;
    if (parts == nullptr && found == nullptr && by == 1.f) return;
    const auto [which, begin, end] = stretch(sizes, chunk_tensor, chunk_start, chunk);
    T* grad = tensor_of<T>(grads, which);
    const bool vectors = aligned(grad);
    float square = 0.f, bad = 0.f, g[ITEMS];
    for (long long i = begin + static_cast<long long>(threadIdx.x) * ITEMS; i < end; i += 256 * ITEMS) {
        const bool whole = vectors && i + ITEMS <= end;
        load_some(grad, i, end, whole, g);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            g[k] *= by;
            if (!(fabsf(g[k]) < infinity())) bad = 1.f;
            square += g[k] * g[k];
        }
        if (factor != nullptr) store_some(grad, i, end, whole, g);
    }
    square = reduce_row(square, Sum(), staged);
    bad = reduce_row(bad, Max(), staged);
    if (threadIdx.x == 0) {
        if (parts != nullptr) parts[blockIdx.x] = square;
        if (found != nullptr && bad != 0.f) atomicExch(found, 1.f);
    }
}

// One block. clip = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
__global__ void __launch_bounds__(256) finish_norm(
    const float* __restrict__ parts, float* __restrict__ norm, float* __restrict__ clip, long long n, float max_norm) {
    __shared__ float staged[32];
    float total = 0.f;
    for (long long i = threadIdx.x; i < n; i += 256) total += parts[i];
    total = sqrtf(reduce_row(total, Sum(), staged));
    if (threadIdx.x == 0) {
        *norm = total;
        const float by = max_norm / (total + 1e-6f);
        *clip = by > 1.f ? 1.f : by;  // NaN stays
    }
}

// A thread for each tensor. corrections (tensors, 2): 1 - beta1^step, 1 - beta2^step; may be null.
__global__ void __launch_bounds__(256) advance(
    const long long* __restrict__ steps, const float* __restrict__ found, float* __restrict__ corrections, int tensors,
    double beta1, double beta2) {
    const int which = blockIdx.x * 256 + threadIdx.x;
    if (which >= tensors || skipped(found)) return;
    float* step = tensor_of<float>(steps, which);
    const double now = *step + 1.0;
    *step = now;
    if (corrections == nullptr) return;
    corrections[2 * which] = 1.0 - pow(beta1, now);
    corrections[2 * which + 1] = 1.0 - pow(beta2, now);
}

// Lists: param, exp_avg (float), exp_avg_sq (float), and with MASTER the float32 weights that param is rounded from.
// part1 = 1 - beta1, part2 = 1 - beta2. DECOUPLED is AdamW. Gradients are divided by `scale`, if given, in place.
template <typename T, bool DECOUPLED, bool MASTER>
__global__ void __launch_bounds__(256, 2) adam(
    const long long* __restrict__ addresses, const long long* __restrict__ grads, const long long* __restrict__ sizes,
    const int* __restrict__ chunk_tensor, const long long* __restrict__ chunk_start, const float* __restrict__ scale,
    const float* __restrict__ found, const float* __restrict__ corrections, long long chunk, long long tensors, float lr,
    float part1, float part2, float eps, float weight_decay, bool maximize) {
    if (skipped(found)) return;
    const auto [which, begin, end] = stretch(sizes, chunk_tensor, chunk_start, chunk);
    T* param = tensor_of<T>(addresses, which);
    T* grad = tensor_of<T>(grads, which);
    float* mean = tensor_of<float>(addresses, tensors + which);
    float* square = tensor_of<float>(addresses, 2 * tensors + which);
    float* master = MASTER ? tensor_of<float>(addresses, 3 * tensors + which) : nullptr;
    const bool vectors = aligned(param) && aligned(grad) && aligned(mean) && aligned(square) && aligned(master);
    const float rate = lr / corrections[2 * which], root = 1.f / sqrtf(corrections[2 * which + 1]);
    float p[ITEMS], g[ITEMS], m[ITEMS], v[ITEMS];
    for (long long i = begin + static_cast<long long>(threadIdx.x) * ITEMS; i < end; i += 256 * ITEMS) {
        const bool whole = vectors && i + ITEMS <= end;
        load_some(param, i, end, whole, p);
        if constexpr (MASTER) restore(master, i, end, whole, p, param);
        load_some(grad, i, end, whole, g);
        load_some(mean, i, end, whole, m);
        load_some(square, i, end, whole, v);
        if (scale != nullptr) unscaled(grad, i, end, whole, g, scale);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            if (maximize) g[k] = -g[k];
            if constexpr (DECOUPLED)
                p[k] *= 1.f - lr * weight_decay;
            else
                g[k] += weight_decay * p[k];
            m[k] += part1 * (g[k] - m[k]);
            v[k] += part2 * (g[k] * g[k] - v[k]);
            p[k] -= rate * m[k] / (sqrtf(v[k]) * root + eps);
        }
        if constexpr (MASTER) store_some(master, i, end, whole, p);
        store_some(param, i, end, whole, p);
        store_some(mean, i, end, whole, m);
        store_some(square, i, end, whole, v);
    }
}

// Lists: param, momentum (float; with MOMENTUM), and with MASTER the float32 weights, always the last list. `steps`
// (with MOMENTUM) count this step: in a tensor's first the momentum is the gradient, as in torch.optim.SGD.
template <typename T, bool MOMENTUM, bool MASTER>
__global__ void __launch_bounds__(256, 2) sgd(
    const long long* __restrict__ addresses, const long long* __restrict__ grads, const long long* __restrict__ sizes,
    const int* __restrict__ chunk_tensor, const long long* __restrict__ chunk_start, const float* __restrict__ scale,
    const float* __restrict__ found, const long long* __restrict__ steps, long long chunk, long long tensors, float lr,
    float momentum, float dampening, float weight_decay, bool nesterov, bool maximize) {
    if (skipped(found)) return;
    const auto [which, begin, end] = stretch(sizes, chunk_tensor, chunk_start, chunk);
    T* param = tensor_of<T>(addresses, which);
    T* grad = tensor_of<T>(grads, which);
    float* buffer = MOMENTUM ? tensor_of<float>(addresses, tensors + which) : nullptr;
    float* master = MASTER ? tensor_of<float>(addresses, (MOMENTUM ? 2 : 1) * tensors + which) : nullptr;
    const bool vectors = aligned(param) && aligned(grad) && aligned(buffer) && aligned(master);
    const bool first = MOMENTUM && *tensor_of<const float>(steps, which) == 1.f;
    float p[ITEMS], g[ITEMS], b[ITEMS];
    for (long long i = begin + static_cast<long long>(threadIdx.x) * ITEMS; i < end; i += 256 * ITEMS) {
        const bool whole = vectors && i + ITEMS <= end;
        load_some(param, i, end, whole, p);
        if constexpr (MASTER) restore(master, i, end, whole, p, param);
        load_some(grad, i, end, whole, g);
        if constexpr (MOMENTUM) {
            if (!first) load_some(buffer, i, end, whole, b);
        }
        if (scale != nullptr) unscaled(grad, i, end, whole, g, scale);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            if (maximize) g[k] = -g[k];
            g[k] += weight_decay * p[k];
            if constexpr (MOMENTUM) {
                b[k] = first ? g[k] : momentum * b[k] + (1.f - dampening) * g[k];
                g[k] = nesterov ? g[k] + momentum * b[k] : b[k];
            }
            p[k] -= lr * g[k];
        }
        if constexpr (MASTER) store_some(master, i, end, whole, p);
        store_some(param, i, end, whole, p);
        if constexpr (MOMENTUM) store_some(buffer, i, end, whole, b);
    }
}

// One thread. An infinity shrinks the scale; `interval` steps without one grow it, where it stays finite. tracker: such
// steps since the last change.
__global__ void update_scale(
    float* __restrict__ scale, int* __restrict__ tracker, const float* __restrict__ found, double growth,
    double backoff, int interval) {
    if (*found != 0.f) {
        *scale = *scale * backoff;
        *tracker = 0;
        return;
    }
    const int good = *tracker + 1;
    *tracker = good == interval ? 0 : good;
    const float grown = *scale * growth;
    if (good == interval && grown < infinity()) *scale = grown;
}
