// Kernels with one fault each. The line of the fault ends in a comment with the kernel's name.
#include <cuda_fp16.h>

extern "C" __global__ void past_end(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = x[i] + 1.f;  // past_end
}
extern "C" __global__ void before_start(const float* x, float* y) {
    y[threadIdx.x] = x[(int)threadIdx.x - 1];  // before_start
}
extern "C" __global__ void wild(float* y) {
    *(float*)((size_t)y + (1ull << 40)) = 1.f;  // wild
}
extern "C" __global__ void null_pointer(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];  // null_pointer
}
extern "C" __global__ void half_past_end(const __half* x, float* y, int n) {
    if (threadIdx.x <= n) y[threadIdx.x] = __half2float(x[threadIdx.x]);  // half_past_end
}
extern "C" __global__ void vector_tail(const float* x, float* y, int n) {
    int i = threadIdx.x * 4;
    if (i < n) {
        float4 v = *(const float4*)(x + i);  // vector_tail
        y[i] = v.x;
    }
}
extern "C" __global__ void copied_past_end(const float* x, float* y, int n) {
    float v[4];
    memcpy(v, x + n - 3, 16);  // copied_past_end
    y[0] = v[0];
}
extern "C" __global__ void shared_column(float* y) {
    __shared__ float tile[8][8];
    if (threadIdx.x < 8)
        for (int c = 0; c < 8; ++c) tile[threadIdx.x][c] = 0.f;
    __syncthreads();
    y[threadIdx.x] = tile[0][threadIdx.x];  // shared_column
}
extern "C" __global__ void shared_pointer(float* y) {
    __shared__ float tile[64];
    float* p = tile;
    p[threadIdx.x + 33] = 1.f;  // shared_pointer
    __syncthreads();
    y[threadIdx.x] = p[threadIdx.x + 33];
}
extern "C" __global__ void dynamic_past_end(float* y) {
    extern __shared__ float room[];
    room[threadIdx.x] = 1.f;  // dynamic_past_end
    y[threadIdx.x] = room[threadIdx.x];
}
extern "C" __global__ void local_array(float* y, int n) {
    float v[4] = {1.f, 2.f, 3.f, 4.f};
    y[threadIdx.x] = v[threadIdx.x + n];  // local_array
}
extern "C" __global__ void misaligned(const float* x, float4* y) {
    y[threadIdx.x] = *(const float4*)(x + 1);  // misaligned
}
extern "C" __global__ void misaligned_argument(const float* x, float4* y) {
    y[threadIdx.x] = *(const float4*)x;  // misaligned_argument
}
extern "C" __global__ void missing_barrier(const int* x, int* y) {
    __shared__ int v[64];
    v[threadIdx.x] = 0;
    __syncthreads();
    v[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = v[63 - threadIdx.x];  // missing_barrier
}
extern "C" __global__ void barrier_after_write(const int* x, int* y) {
    __shared__ int v[64];
    v[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = v[63 - threadIdx.x];  // barrier_after_write
}
extern "C" __global__ void write_after_read(const int* x, int* y) {
    __shared__ int v[64];
    v[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int other = v[(threadIdx.x + 1) % 64];
    v[threadIdx.x] = other;  // write_after_read
    y[threadIdx.x] = other;
}
extern "C" __global__ void shuffle_orders_nothing(int* y) {
    __shared__ int v[32];
    v[threadIdx.x] = threadIdx.x;
    int other = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
    y[threadIdx.x] = v[other];  // shuffle_orders_nothing
}
extern "C" __global__ void half_warp_sync(int* y) {
    __shared__ int v[32];
    const unsigned half = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
    v[threadIdx.x] = 0;
    __syncthreads();
    v[threadIdx.x] = threadIdx.x;
    __syncwarp(half);
    y[threadIdx.x] = v[31 - threadIdx.x];  // half_warp_sync
}
extern "C" __global__ void blocks_race(float* y) {
    if (threadIdx.x == 0) y[0] = blockIdx.x;  // blocks_race
}
extern "C" __global__ void plain_and_atomic(int* y) {
    if (threadIdx.x == 0) y[0] = 7;
    else atomicAdd(y, 1);  // plain_and_atomic
}
extern "C" __global__ void no_fence(const float* x, float* parts, unsigned* done, float* y) {
    parts[blockIdx.x] = x[blockIdx.x];
    if (atomicAdd(done, 1u) == gridDim.x - 1) {
        float s = 0.f;
        for (unsigned b = 0; b < gridDim.x; ++b) s += parts[b];  // no_fence
        *y = s;
    }
}
extern "C" __global__ void halves_race(__half* y) {
    y[threadIdx.x / 2] = __float2half(1.f);  // halves_race
}
extern "C" __global__ void shared_unwritten(float* y) {
    __shared__ float v[64];
    if (threadIdx.x < 63) v[threadIdx.x] = 1.f;
    __syncthreads();
    y[threadIdx.x] = v[threadIdx.x];  // shared_unwritten
}
extern "C" __global__ void dynamic_unwritten(float* y) {
    extern __shared__ float room[];
    y[threadIdx.x] = room[threadIdx.x];  // dynamic_unwritten
}
extern "C" __global__ void global_unwritten(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x];  // global_unwritten
}
extern "C" __global__ void local_unwritten(float* y, int n) {
    float v[8];
    for (int i = 0; i < n; ++i) v[i] = 1.f;
    y[threadIdx.x] = v[7];
}
extern "C" __global__ void barrier_for_some(float* y) {
    if (threadIdx.x < 16) __syncthreads();  // barrier_for_some
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void two_barriers(float* y) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();  // two_barriers
    }
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void early_return(float* y, int n) {
    if (threadIdx.x >= n) return;
    __syncthreads();  // early_return
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void barrier_in_loop(float* y) {
    for (unsigned i = 0; i < threadIdx.x / 32 + 1; ++i) __syncthreads();  // barrier_in_loop
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void shuffle_for_some(int* y) {
    int v = threadIdx.x;
    if (v < 20) v = __shfl_xor_sync(0xffffffffu, v, 1);  // shuffle_for_some
    y[threadIdx.x] = v;
}
extern "C" __global__ void not_in_mask(int* y) {
    y[threadIdx.x] = __shfl_sync(0xffffu, (int)threadIdx.x, 0);  // not_in_mask
}
extern "C" __global__ void reads_outside_mask(int* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_down_sync(0xffffu, (int)threadIdx.x, 1);  // reads_outside_mask
}
extern "C" __global__ void endless_with_memory(volatile int* y) {
    while (y[0] == 0) {}  // endless_with_memory
}
extern "C" __global__ void endless_alone(int* y, unsigned n) {
    unsigned i = 1;
    while (i != n) i = i * 3u + 2u * (i & 1u);  // endless_alone
    y[0] = i;
}
extern "C" __global__ void asserts(const int* x) {
    assert(x[threadIdx.x] < 3);  // asserts
}
extern "C" __global__ void divides(int* y, int n) {
    y[threadIdx.x] = 7 / (n - (int)threadIdx.x);  // divides
}
__device__ __noinline__ int deeper(int n, volatile int* y) {
    volatile int room[64];
    room[n % 64] = n;
    return n == 0 ? 0 : deeper(n - 1, y) + room[n % 64];
}
extern "C" __global__ void too_deep(int* y) { y[0] = deeper(1 << 20, y); }
__device__ __noinline__ void store(float* y, int i) {
    y[i] = 1.f;  // called_from
}
extern "C" __global__ void called_from(float* y, int n) {
    store(y, threadIdx.x);  // caller
}
