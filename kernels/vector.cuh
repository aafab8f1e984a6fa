// Loads and stores of 16 bytes, and the three dtypes as float. Needs no other header.
#ifndef TINYTORCH_VECTOR_CUH
#define TINYTORCH_VECTOR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Elements of 16 bytes.
template <typename T>
struct Vector {
    static constexpr int width = 16 / sizeof(T);
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// To the nearest value of T, ties to even.
template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half narrow<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Whether a pointer allows 16-byte accesses; a null pointer, an operand that is left out, does.
__device__ __forceinline__ bool aligned(const void* p) { return (reinterpret_cast<unsigned long long>(p) & 15) == 0; }

// N elements from p: one element, or pieces of 16 bytes from an aligned address.
template <int N, typename T>
__device__ __forceinline__ void load(const T* p, float (&v)[N]) {
    if constexpr (N == 1) {
        v[0] = widen(*p);
    } else {
        constexpr int W = Vector<T>::width;
        static_assert(N % W == 0, "whole pieces of 16 bytes");
#pragma unroll
        for (int piece = 0; piece < N / W; ++piece) {
            const uint4 raw = reinterpret_cast<const uint4*>(p)[piece];
            T e[W];
            memcpy(e, &raw, 16);
#pragma unroll
            for (int k = 0; k < W; ++k) v[piece * W + k] = widen(e[k]);
        }
    }
}

template <int N, typename T>
__device__ __forceinline__ void store(T* p, const float (&v)[N]) {
    if constexpr (N == 1) {
        *p = narrow<T>(v[0]);
    } else {
        constexpr int W = Vector<T>::width;
        static_assert(N % W == 0, "whole pieces of 16 bytes");
#pragma unroll
        for (int piece = 0; piece < N / W; ++piece) {
            T e[W];
#pragma unroll
            for (int k = 0; k < W; ++k) e[k] = narrow<T>(v[piece * W + k]);
            uint4 raw;
            memcpy(&raw, e, 16);
            reinterpret_cast<uint4*>(p)[piece] = raw;
        }
    }
}

// Elements i .. i + N - 1 of an array of n: by vectors where `whole`, else those that exist, one by one (the rest 0).
template <int N, typename T>
__device__ __forceinline__ void load_some(const T* p, long long i, long long n, bool whole, float (&v)[N]) {
    if (whole) {
        load(p + i, v);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) v[k] = i + k < n ? widen(p[i + k]) : 0.f;
    }
}

template <int N, typename T>
__device__ __forceinline__ void store_some(T* p, long long i, long long n, bool whole, const float (&v)[N]) {
    if (whole) {
        store(p + i, v);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
            if (i + k < n) p[i + k] = narrow<T>(v[k]);
    }
}

#endif
