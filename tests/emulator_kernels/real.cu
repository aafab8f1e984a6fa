// Small kernels of the usual kinds, right ones: the emulator's results are compared with NumPy's.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// c = a + b: 16-byte loads where all three allow it, a tail of single elements
template <typename T>
__global__ void __launch_bounds__(256) add(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ c, long long n) {
    constexpr int W = 16 / sizeof(T);
    const long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * W;
    const bool aligned = (((size_t)a | (size_t)b | (size_t)c) & 15) == 0;
    if (aligned && i + W <= n) {
        const uint4 x = __ldg((const uint4*)(a + i)), y = __ldcs((const uint4*)(b + i));
        T u[W], v[W], r[W];
        memcpy(u, &x, 16);
        memcpy(v, &y, 16);
        for (int k = 0; k < W; ++k) r[k] = (T)((float)u[k] + (float)v[k]);
        uint4 out;
        memcpy(&out, r, 16);
        __stcs((uint4*)(c + i), out);
    } else {
        for (long long k = i; k < i + W && k < n; ++k) c[k] = (T)((float)a[k] + (float)b[k]);
    }
}

__device__ float block_sum(float x) {
    __shared__ float part[32];
    for (int o = 16; o; o >>= 1) x += __shfl_down_sync(0xffffffffu, x, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) {
        x = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
        for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
        if (threadIdx.x == 0) part[0] = x;
    }
    __syncthreads();
    x = part[0];
    __syncthreads();  // the next call writes `part` again
    return x;
}

// first by 4 bytes, then by 2: the records of an array become finer inside a launch
extern "C" __global__ void finer(const __half* x, float* y) {
    const unsigned pair = ((const unsigned*)x)[threadIdx.x];
    y[threadIdx.x] = __half2float(x[2 * threadIdx.x]) + (float)(pair >> 31);
}

// rows of x (rows, n) to their softmax
extern "C" __global__ void softmax(const float* x, float* y, int n) {
    __shared__ float largest;
    extern __shared__ float row[];
    x += (long long)blockIdx.x * n;
    y += (long long)blockIdx.x * n;
    float m = -INFINITY;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        row[i] = x[i];
        m = fmaxf(m, row[i]);
    }
    for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, o));
    __shared__ float tops[32];
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = m;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned w = 1; w < blockDim.x / 32; ++w) m = max(m, tops[w]);
        largest = m;
    }
    __syncthreads();
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += row[i] = __expf(row[i] - largest);
    sum = block_sum(sum);
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __fdividef(row[i], sum);
}

// y (columns, rows) = x (rows, columns), 32 x 32 tiles by 32 x 8 threads
template <typename T>
__global__ void transposed(const T* x, T* y, int rows, int columns) {
    __shared__ T tile[32][33];
    int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += blockDim.y)
        if (r + k < rows && c < columns) tile[threadIdx.y + k][threadIdx.x] = x[(long long)(r + k) * columns + c];
    __syncthreads();
    c = blockIdx.y * 32 + threadIdx.x, r = blockIdx.x * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += blockDim.y)
        if (r + k < columns && c < rows) y[(long long)(r + k) * rows + c] = tile[threadIdx.x][threadIdx.y + k];
}

// counts of the values 0..63, first in shared memory
extern "C" __global__ void histogram(const int* x, unsigned* counts, int n) {
    __shared__ unsigned own[64];
    for (int i = threadIdx.x; i < 64; i += blockDim.x) own[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += blockDim.x) atomicAdd(counts + i, own[i]);
}

// the sum of x in one launch: the last block to finish adds the blocks' parts
extern "C" __global__ void total(const float* x, float* parts, unsigned* done, float* y, int n) {
    __shared__ bool last;
    float s = 0.f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
    s = block_sum(s);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = s;
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    s = 0.f;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) s += parts[b];
    s = block_sum(s);
    if (threadIdx.x == 0) *y = s;
}

// each warp's lanes exchange through shared memory with __syncwarp alone
extern "C" __global__ void reversed_in_warps(const int* x, int* y) {
    __shared__ int values[256];
    const int t = threadIdx.x, base = t & ~31;
    values[t] = x[blockIdx.x * blockDim.x + t];
    __syncwarp();
    y[blockIdx.x * blockDim.x + t] = values[base + 31 - (t & 31)];
}

// votes, matches, reductions and counting barriers of one warp: 12 numbers a lane
extern "C" __global__ void votes(const int* x, int* y) {
    const unsigned all = 0xffffffffu;
    const int t = threadIdx.x, v = x[t];
    int same = 0;
    int* out = y + t * 12;
    out[0] = __any_sync(all, v > 5);
    out[1] = __all_sync(all, v > 5);
    out[2] = (int)__ballot_sync(all, v & 1);
    out[3] = (int)__match_any_sync(all, v);
    out[4] = (int)__match_all_sync(all, v, &same) + same;
    out[5] = __reduce_add_sync(all, v);
    out[6] = __reduce_min_sync(all, v);
    out[7] = (int)__reduce_max_sync(all, (unsigned)v);
    out[8] = __syncthreads_count(v > 5);
    out[9] = __syncthreads_or(v == 7) ? 1 : 0;
    out[10] = __syncthreads_and(v >= 0) ? 1 : 0;
    out[11] = __shfl_up_sync(all, v, 3, 8) * 1000 + __shfl_sync(all, v, t + 1, 16);
}

// all bit patterns: half and bfloat16 to float, and float to both
extern "C" __global__ void widened(const __half* h, const __nv_bfloat16* b, float* fh, float* fb) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    fh[i] = __half2float(h[i]);
    fb[i] = __bfloat162float(b[i]);
}
extern "C" __global__ void narrowed(const float* x, __half* h, __nv_bfloat16* b, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        h[i] = __float2half(x[i]);
        b[i] = __float2bfloat16(x[i]);
    }
}
// a * b + c rounded once, sums by atomics, the functions that a GPU alone has
template <typename T>
__global__ void half_functions(const T* a, const T* b, const T* c, T* fma, T* root, T* sum) {
    const int i = threadIdx.x;
    fma[i] = __hfma(a[i], b[i], c[i]);
    root[i] = hsqrt(__habs(a[i]));
    atomicAdd(sum, T(1.0f));
}

extern "C" __global__ void numbers(const float* x, float* y, unsigned* u) {
    y[0] = rsqrtf(x[0]);
    y[1] = erff(x[1]);
    y[2] = tanhf(x[2]);
    y[3] = __expf(x[3]);
    y[4] = __uint_as_float(0x3fc00000u);
    y[5] = (float)min(3, 4) + max(1.5f, 2.5f) + fabsf(-1.f);
    y[6] = __saturatef(7.f) + rintf(2.5f) + floorf(-0.5f);
    y[7] = make_float4(1, 2, 3, 4).w;
    u[0] = __float_as_uint(1.0f);
    u[1] = __popc(0xff00u) + __clz(1) + __ffs(8);
    u[2] = __brev(1u);
    u[3] = __umulhi(0x80000000u, 6u);
    u[4] = __byte_perm(0x33221100u, 0x77665544u, 0x7531);
    u[5] = (unsigned)__float2int_rn(2.5f) + (unsigned)__float2int_rz(-1.5f);
    u[6] = (unsigned)__float2int_rn(1e20f);
    u[7] = __funnelshift_l(0x80000000u, 1u, 1);
}

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d, float2 step) {
    atomicAdd(i, 1);
    atomicSub(i + 1, 2);
    atomicMin(i + 2, (int)threadIdx.x - 5);
    atomicMax(i + 3, (int)threadIdx.x);
    atomicInc(u, 9u);
    atomicDec(u + 1, 9u);
    atomicOr(u + 2, 1u << threadIdx.x % 32);
    atomicXor(u + 3, 3u);
    atomicAdd(l, 1ull << 33);
    unsigned long long seen = l[1 + threadIdx.x], want = 5;
    while ((seen = atomicCAS(l + 1 + threadIdx.x, seen, want)) != want) {}
    atomicAdd(f, step.x);
    atomicAdd(d, (double)step.y);
    if (threadIdx.x == 0) atomicExch(f + 1, 4.f);
}

extern "C" __global__ void says(int n) {
    if (threadIdx.x < n) printf("thread %d says %s %.2f\n", (int)threadIdx.x, "hello", 1.5);
}

struct Table {
    float* place[3];
    int size[3];
};
// place[k][i] += 1, by addresses that come inside a structure
extern "C" __global__ void by_table(Table table) {
    const int k = blockIdx.x;
    if (threadIdx.x < table.size[k]) table.place[k][threadIdx.x] += 1.f;
}
extern "C" __global__ void by_addresses(float** place, const int* size) {
    if (threadIdx.x < size[blockIdx.x]) place[blockIdx.x][threadIdx.x] += 1.f;
}
__constant__ float weights[4] = {1.f, 2.f, 3.f, 4.f};
extern "C" __global__ void weighted(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x] * weights[threadIdx.x % 4]; }
