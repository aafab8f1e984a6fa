// Kernels over lists of tensors in one launch: unscaling with its check for infinities and the global norm, Adam, AdamW
// and SGD. Nothing here waits for the host: step count, found-infinity flag and factors lie on the device.
//
// addresses (lists, tensors): where the tensors begin; sizes (tensors). Block b works on elements chunk_start[b] ..
// chunk_start[b] + chunk of tensor chunk_tensor[b]. Tensors are contiguous, at any alignment; arithmetic in float.
// `found` 1 makes the update kernels return: parameters, state and step count keep their bits. A null `factor` is 1.
//
//   kernel       computes                                             bytes moved for n elements
//   unscale      g *= factor, sums of squares by block, found         2 n s
//   finish_norm  norm = sqrt(sum of the sums), clip factor            -
//   advance      step += 1 unless found; 1 - beta^step                -
//   adam         Adam or AdamW                                        2 n s + n s(grad) + 16 n (+ 8 n with a master)
//   sgd          SGD with momentum, dampening, Nesterov               2 n s + n s(grad) + 8 n
//
// Versions tried on a GPU: none, not yet measured.
#include "reduce.cuh"
#include "vector.cuh"

constexpr int ITEMS = 8;

// The tensor of this block in one of the lists.
template <typename T>
__device__ __forceinline__ T* tensor_of(const long long* addresses, int list, int tensors, int which) {
    return reinterpret_cast<T*>(addresses[static_cast<long long>(list) * tensors + which]);
}

__device__ __forceinline__ bool skipped(const int* found) { return found != nullptr && *found != 0; }

// parts (blocks) get the sum of squares after the factor; found becomes 1 where an element is not finite. Lists: grad.
template <typename T>
__global__ void __launch_bounds__(256, 4) unscale(
    const long long* __restrict__ addresses, const long long* __restrict__ sizes, const int* __restrict__ chunk_tensor,
    const long long* __restrict__ chunk_start, const float* __restrict__ factor, float* __restrict__ parts, int* found,
    long long chunk) {
    __shared__ float staged[32];
    const int which = chunk_tensor[blockIdx.x];
    T* grad = tensor_of<T>(addresses, 0, 0, which);
    const long long begin = chunk_start[blockIdx.x];
    const long long end = begin + chunk < sizes[which] ? begin + chunk : sizes[which];
    const bool vectors = aligned(grad);
    const float by = factor == nullptr ? 1.f : *factor;
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
        parts[blockIdx.x] = square;
        if (bad != 0.f) atomicExch(found, 1);
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

// One thread. corrections (2): 1 - beta1^step, 1 - beta2^step.
__global__ void advance(float* step, const int* found, float* corrections, double beta1, double beta2) {
    if (skipped(found)) return;
    const float now = *step + 1.f;
    *step = now;
    corrections[0] = static_cast<float>(1.0 - pow(beta1, static_cast<double>(now)));
    corrections[1] = static_cast<float>(1.0 - pow(beta2, static_cast<double>(now)));
}

// Lists: param, grad, exp_avg (float), exp_avg_sq (float), and with MASTER the float32 weights that param is rounded
// from. part1 = 1 - beta1, part2 = 1 - beta2. DECOUPLED is AdamW.
template <typename T, typename G, bool DECOUPLED, bool MASTER>
__global__ void __launch_bounds__(256, 2) adam(
    const long long* __restrict__ addresses, const long long* __restrict__ sizes, const int* __restrict__ chunk_tensor,
    const long long* __restrict__ chunk_start, const float* __restrict__ factor, const int* __restrict__ found,
    const float* __restrict__ corrections, long long chunk, int tensors, float lr, float part1, float part2, float eps,
    float weight_decay, bool maximize) {
    if (skipped(found)) return;
    const int which = chunk_tensor[blockIdx.x];
    T* param = tensor_of<T>(addresses, 0, tensors, which);
    const G* grad = tensor_of<const G>(addresses, 1, tensors, which);
    float* mean = tensor_of<float>(addresses, 2, tensors, which);
    float* square = tensor_of<float>(addresses, 3, tensors, which);
    float* master = MASTER ? tensor_of<float>(addresses, 4, tensors, which) : nullptr;
    const long long begin = chunk_start[blockIdx.x];
    const long long end = begin + chunk < sizes[which] ? begin + chunk : sizes[which];
    const bool vectors = aligned(param) && aligned(grad) && aligned(mean) && aligned(square) && aligned(master);
    const float by = (factor == nullptr ? 1.f : *factor) * (maximize ? -1.f : 1.f);
    const float rate = lr / corrections[0], root = 1.f / sqrtf(corrections[1]);
    float p[ITEMS], g[ITEMS], m[ITEMS], v[ITEMS];
    for (long long i = begin + static_cast<long long>(threadIdx.x) * ITEMS; i < end; i += 256 * ITEMS) {
        const bool whole = vectors && i + ITEMS <= end;
        if constexpr (MASTER)
            load_some(master, i, end, whole, p);
        else
            load_some(param, i, end, whole, p);
        load_some(grad, i, end, whole, g);
        load_some(mean, i, end, whole, m);
        load_some(square, i, end, whole, v);
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            g[k] *= by;
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

// Lists: param, grad, momentum (float; with MOMENTUM), and with MASTER the float32 weights, always the last list.
// In the first step the momentum is the gradient, as in torch.optim.SGD.
template <typename T, typename G, bool MOMENTUM, bool MASTER>
__global__ void __launch_bounds__(256, 2) sgd(
    const long long* __restrict__ addresses, const long long* __restrict__ sizes, const int* __restrict__ chunk_tensor,
    const long long* __restrict__ chunk_start, const float* __restrict__ factor, const int* __restrict__ found,
    const float* __restrict__ step, long long chunk, int tensors, float lr, float momentum, float dampening,
    float weight_decay, bool nesterov, bool maximize) {
    if (skipped(found)) return;
    const int which = chunk_tensor[blockIdx.x];
    T* param = tensor_of<T>(addresses, 0, tensors, which);
    const G* grad = tensor_of<const G>(addresses, 1, tensors, which);
    float* buffer = MOMENTUM ? tensor_of<float>(addresses, 2, tensors, which) : nullptr;
    float* master = MASTER ? tensor_of<float>(addresses, MOMENTUM ? 3 : 2, tensors, which) : nullptr;
    const long long begin = chunk_start[blockIdx.x];
    const long long end = begin + chunk < sizes[which] ? begin + chunk : sizes[which];
    const bool vectors = aligned(param) && aligned(grad) && aligned(buffer) && aligned(master);
    const float by = (factor == nullptr ? 1.f : *factor) * (maximize ? -1.f : 1.f);
    const bool first = *step == 1.f;
    float p[ITEMS], g[ITEMS], b[ITEMS];
    for (long long i = begin + static_cast<long long>(threadIdx.x) * ITEMS; i < end; i += 256 * ITEMS) {
        const bool whole = vectors && i + ITEMS <= end;
        if constexpr (MASTER)
            load_some(master, i, end, whole, p);
        else
            load_some(param, i, end, whole, p);
        load_some(grad, i, end, whole, g);
        if constexpr (MOMENTUM) {
            if (!first) load_some(buffer, i, end, whole, b);
        }
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            g[k] = g[k] * by + weight_decay * p[k];
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
