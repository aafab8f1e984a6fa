// Sums and maxima over the threads of a row: threadIdx.x, blockDim.x a multiple of 32; deterministic.
#ifndef TINYTORCH_REDUCE_CUH
#define TINYTORCH_REDUCE_CUH

// The compiler knows no header that has these as constants.
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

struct Sum {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The same result in every thread of the row. With more than one warp a row has the whole block (blockDim.y is 1), and
// all its threads must come here; `staged` is shared memory of 32 floats.
template <typename F>
__device__ __forceinline__ float reduce_row(float v, F f, float* staged) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, offset));
    if (blockDim.x == 32) return v;
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) staged[warp] = v;
    __syncthreads();
    v = staged[0];
    for (int w = 1; w < warps; ++w) v = f(v, staged[w]);
    __syncthreads();  // `staged` may be used again
    return v;
}

#endif
