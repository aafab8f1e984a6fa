// CUDA's language on a host compiler: included before every kernel source. Vector and half types are NVIDIA's own.
#pragma once
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <vector_types.h>
#include <vector_functions.h>

#include "abi.hpp"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __managed__
#undef __grid_constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __noinline__
#undef __restrict__
#undef __maxnreg__
#undef __cluster_dims__
#undef __nv_pure__
#define __restrict__ __restrict
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ thread_local  // one copy for each host thread, which runs one block at a time
#ifdef TT_CHECK
#define __global__ __attribute__((noinline))
#else
#define __global__
#endif
#define __builtin_assume(x) ((void)0)
#define __nv_pure__

#define TT_INLINE static inline __attribute__((always_inline, unused))
#define TT_TEMPLATE inline __attribute__((always_inline))
#define TT_HERE int line = __builtin_LINE(), const char *file = __builtin_FILE()

// For the fiber that reads them they are constants; the runtime changes them when it changes the fiber.
extern const thread_local uint3 threadIdx __attribute__((tls_model("initial-exec"), visibility("default")));
extern const thread_local uint3 blockIdx __attribute__((tls_model("initial-exec"), visibility("default")));
extern const thread_local dim3 blockDim __attribute__((tls_model("initial-exec"), visibility("default")));
extern const thread_local dim3 gridDim __attribute__((tls_model("initial-exec"), visibility("default")));
static constexpr int warpSize = 32;

#include "emulator/intrinsics.hpp"
#include "emulator/warp.hpp"
#include "emulator/memory.hpp"

#include "emulator/half.hpp"

#include "emulator/kernel.hpp"

#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#endif
#define printf tt_printf
#undef assert
#ifdef NDEBUG
#define assert(e) ((void)0)
#else
#define assert(e) ((e) ? (void)0 : tt_assert_failed(#e, __FILE__, __LINE__))
#endif
#define __trap() tt_assert_failed("__trap()", __FILE__, __LINE__)
#define __assertfail(text, file, line, ...) tt_assert_failed(text, file, (int)(line))
