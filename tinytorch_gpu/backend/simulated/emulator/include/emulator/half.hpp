// NVIDIA's half and bfloat16 headers, and what they declare for a GPU only: computed in float or double, rounded once.
#pragma once

#include <nv/target>
#ifdef TT_CHECK
// The compiler's hooks miss a structure that is read from memory for a call: inlined, there is no call. NVIDIA's headers
// mark each function `static __attribute__((unused))`.
#define unused always_inline
#endif
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#undef unused

#define TT_UNARY(T, FROM, TO, NAME, F) TT_INLINE T NAME(const T a) { return FROM(F(TO(a))); }
#define TT_UNARY2(T, PAIR, FROM, TO, NAME, F) \
  TT_INLINE PAIR NAME(const PAIR a) { PAIR r; r.x = FROM(F(TO(a.x))); r.y = FROM(F(TO(a.y))); return r; }
#define TT_FAMILY(T, PAIR, FROM, TO, WIDE)                                                                   \
  TT_UNARY(T, FROM, TO, hexp, expf) TT_UNARY(T, FROM, TO, hexp2, exp2f) TT_UNARY(T, FROM, TO, hexp10, exp10f)     \
  TT_UNARY(T, FROM, TO, hlog, logf) TT_UNARY(T, FROM, TO, hlog2, log2f) TT_UNARY(T, FROM, TO, hlog10, log10f)     \
  TT_UNARY(T, FROM, TO, hsqrt, sqrtf) TT_UNARY(T, FROM, TO, hrsqrt, rsqrtf) TT_UNARY(T, FROM, TO, hrcp, tt::rcp)  \
  TT_UNARY(T, FROM, TO, hsin, sinf) TT_UNARY(T, FROM, TO, hcos, cosf) TT_UNARY(T, FROM, TO, htanh, tanhf)         \
  TT_UNARY(T, FROM, TO, hceil, ceilf) TT_UNARY(T, FROM, TO, hfloor, floorf) TT_UNARY(T, FROM, TO, htrunc, truncf) \
  TT_UNARY(T, FROM, TO, hrint, rintf) TT_UNARY(T, FROM, TO, htanh_approx, tanhf)                                  \
  TT_UNARY2(T, PAIR, FROM, TO, h2exp, expf) TT_UNARY2(T, PAIR, FROM, TO, h2exp2, exp2f)                           \
  TT_UNARY2(T, PAIR, FROM, TO, h2log, logf) TT_UNARY2(T, PAIR, FROM, TO, h2log2, log2f)                           \
  TT_UNARY2(T, PAIR, FROM, TO, h2sqrt, sqrtf) TT_UNARY2(T, PAIR, FROM, TO, h2rsqrt, rsqrtf)                       \
  TT_UNARY2(T, PAIR, FROM, TO, h2rcp, tt::rcp) TT_UNARY2(T, PAIR, FROM, TO, h2tanh, tanhf)                        \
  TT_UNARY2(T, PAIR, FROM, TO, h2sin, sinf) TT_UNARY2(T, PAIR, FROM, TO, h2cos, cosf)                             \
  TT_INLINE T __hfma(const T a, const T b, const T c) { return WIDE((double)TO(a) * (double)TO(b) + (double)TO(c)); } \
  TT_INLINE T __hfma_relu(const T a, const T b, const T c) {                                                      \
    double r = (double)TO(a) * (double)TO(b) + (double)TO(c);                                                     \
    return WIDE(r < 0 ? 0.0 : r);                                                                                 \
  }                                                                                                               \
  TT_INLINE T __hfma_sat(const T a, const T b, const T c) {                                                       \
    double r = (double)TO(a) * (double)TO(b) + (double)TO(c);                                                     \
    return WIDE(r > 0 ? r < 1 ? r : 1.0 : 0.0);                                                                   \
  }                                                                                                               \
  TT_INLINE PAIR __hfma2(const PAIR a, const PAIR b, const PAIR c) {                                              \
    PAIR r;                                                                                                       \
    r.x = __hfma(a.x, b.x, c.x);                                                                                  \
    r.y = __hfma(a.y, b.y, c.y);                                                                                  \
    return r;                                                                                                     \
  }                                                                                                               \
  TT_CHANGE(T, atomicAdd, FROM(TO(old) + TO(v)))                                                                  \
  TT_INLINE PAIR atomicAdd(PAIR* p, PAIR v) {                                                                     \
    PAIR old;                                                                                                     \
    old.x = atomicAdd((T*)p, (T)v.x);                                                                             \
    old.y = atomicAdd((T*)p + 1, (T)v.y);                                                                         \
    return old;                                                                                                   \
  }

TT_FAMILY(__half, __half2, __float2half, __half2float, __double2half)
TT_FAMILY(__nv_bfloat16, __nv_bfloat162, __float2bfloat16, __bfloat162float, __double2bfloat16)

#define TT_ROUNDED(SUFFIX, ROUND)                                                                              \
  TT_INLINE int __half2int_##SUFFIX(const __half a) { return (int)ROUND(__half2float(a)); }                    \
  TT_INLINE unsigned __half2uint_##SUFFIX(const __half a) { return (unsigned)ROUND(__half2float(a)); }         \
  TT_INLINE int __bfloat162int_##SUFFIX(const __nv_bfloat16 a) { return (int)ROUND(__bfloat162float(a)); }     \
  TT_INLINE unsigned __bfloat162uint_##SUFFIX(const __nv_bfloat16 a) { return (unsigned)ROUND(__bfloat162float(a)); }
TT_ROUNDED(rn, rintf) TT_ROUNDED(rd, floorf) TT_ROUNDED(ru, ceilf)
#undef TT_ROUNDED
#undef TT_FAMILY
#undef TT_UNARY
#undef TT_UNARY2
