// CUDA's arithmetic that a host's math.h does not have. The fast ones (__expf) are the exact functions here.
#pragma once

namespace tt {
TT_INLINE float rcp(float x) { return 1.0f / x; }
TT_INLINE void sincosf_(float x, float* s, float* c) { *s = sinf(x); *c = cosf(x); }
TT_INLINE float exp10_(float x) { return (float)pow(10.0, (double)x); }
}  // namespace tt

// glibc declares these names for itself
#define __expf(x) expf(x)
#define __exp10f(x) tt::exp10_(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __tanhf(x) tanhf(x)
#define __sincosf(x, s, c) tt::sincosf_(x, s, c)
#define __fdividef(x, y) ((float)(x) / (float)(y))
#define fdividef(x, y) ((float)(x) / (float)(y))

TT_INLINE float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
TT_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }
TT_INLINE float rsqrt(float x) { return rsqrtf(x); }
TT_INLINE float rcbrtf(float x) { return 1.0f / cbrtf(x); }
TT_INLINE float normcdff(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }
TT_INLINE double normcdf(double x) { return 0.5 * erfc(x * -0.70710678118654752440); }
TT_INLINE float sinpif(float x) { return (float)sin(3.14159265358979323846 * (double)x); }
TT_INLINE float cospif(float x) { return (float)cos(3.14159265358979323846 * (double)x); }
TT_INLINE float __saturatef(float x) { return x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f; }
TT_INLINE float __fadd_rn(float a, float b) { return a + b; }
TT_INLINE float __fsub_rn(float a, float b) { return a - b; }
TT_INLINE float __fmul_rn(float a, float b) { return a * b; }
TT_INLINE float __fdiv_rn(float a, float b) { return a / b; }
TT_INLINE float __frcp_rn(float a) { return 1.0f / a; }
TT_INLINE float __fsqrt_rn(float a) { return sqrtf(a); }
TT_INLINE float __frsqrt_rn(float a) { return rsqrtf(a); }
TT_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
TT_INLINE double __dadd_rn(double a, double b) { return a + b; }
TT_INLINE double __dsub_rn(double a, double b) { return a - b; }
TT_INLINE double __dmul_rn(double a, double b) { return a * b; }
TT_INLINE double __ddiv_rn(double a, double b) { return a / b; }
TT_INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

#define TT_CAST(NAME, TO, FROM) \
  TT_INLINE TO NAME(FROM v) { TO r; __builtin_memcpy(&r, &v, sizeof r); return r; }
TT_CAST(__float_as_int, int, float) TT_CAST(__int_as_float, float, int)
TT_CAST(__float_as_uint, unsigned, float) TT_CAST(__uint_as_float, float, unsigned)
TT_CAST(__double_as_longlong, long long, double) TT_CAST(__longlong_as_double, double, long long)
#undef TT_CAST

// A float outside the integer's range saturates and NaN gives 0, as the GPU's cvt does.
namespace tt {
template <class I, class F>
TT_TEMPLATE I saturated(F x) {
  constexpr bool is_signed = (I)-1 < (I)0;
  constexpr int bits = (int)sizeof(I) * 8 - (is_signed ? 1 : 0);
  const F limit = bits > 62 ? (F)9223372036854775808.0 * (bits == 64 ? 2 : 1) : (F)(1ull << (bits & 63));
  if (!(x == x)) return 0;
  if (x >= limit) return is_signed ? (I)(((unsigned long long)1 << (bits & 63)) - 1) : (I)~(I)0;
  if (is_signed ? x < -limit : x <= (F)-1) return is_signed ? (I)((unsigned long long)1 << (bits & 63)) : 0;
  return (I)x;
}
}  // namespace tt
#define TT_ROUND(F, SUFFIX, X, ROUND)                                                               \
  TT_INLINE int __##F##2int_##SUFFIX(F x) { return tt::saturated<int>(ROUND(x)); }                  \
  TT_INLINE unsigned __##F##2uint_##SUFFIX(F x) { return tt::saturated<unsigned>(ROUND(x)); }       \
  TT_INLINE long long __##F##2ll_##SUFFIX(F x) { return tt::saturated<long long>(ROUND(x)); }       \
  TT_INLINE unsigned long long __##F##2ull_##SUFFIX(F x) { return tt::saturated<unsigned long long>(ROUND(x)); }
TT_ROUND(float, rn, x, rintf) TT_ROUND(float, rz, x, truncf) TT_ROUND(float, rd, x, floorf) TT_ROUND(float, ru, x, ceilf)
TT_ROUND(double, rn, x, rint) TT_ROUND(double, rz, x, trunc) TT_ROUND(double, rd, x, floor) TT_ROUND(double, ru, x, ceil)
#undef TT_ROUND
TT_INLINE float __int2float_rn(int x) { return (float)x; }
TT_INLINE float __uint2float_rn(unsigned x) { return (float)x; }
TT_INLINE float __ll2float_rn(long long x) { return (float)x; }
TT_INLINE float __ull2float_rn(unsigned long long x) { return (float)x; }
TT_INLINE double __int2double_rn(int x) { return x; }
TT_INLINE float __double2float_rn(double x) { return (float)x; }

TT_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
TT_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
TT_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
TT_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
TT_INLINE int __ffs(int x) { return __builtin_ffs(x); }
TT_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
TT_INLINE unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
TT_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned pick = s >> (4 * i) & 0xf, byte = (unsigned)(both >> (8 * (pick & 7))) & 0xff;
    r |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return r;
}
TT_INLINE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)((((unsigned long long)hi << 32 | lo) << (n & 31)) >> 32);
}
TT_INLINE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)(((unsigned long long)hi << 32 | lo) >> (n & 31));
}
TT_INLINE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
TT_INLINE int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
TT_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
TT_INLINE int __mul24(int a, int b) { return ((a << 8) >> 8) * ((b << 8) >> 8); }
TT_INLINE unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
#if defined(__x86_64__)
TT_INLINE long long clock64() { return (long long)__builtin_ia32_rdtsc(); }
#else
TT_INLINE long long clock64() { static thread_local long long ticks = 0; return ++ticks; }
#endif
TT_INLINE int clock() { return (int)clock64(); }
TT_INLINE void __nanosleep(unsigned) {}

#define TT_MINMAX(R, A, B)                                        \
  TT_INLINE R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; } \
  TT_INLINE R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
TT_MINMAX(int, int, int) TT_MINMAX(unsigned, unsigned, unsigned) TT_MINMAX(unsigned, int, unsigned)
TT_MINMAX(unsigned, unsigned, int) TT_MINMAX(long, long, long) TT_MINMAX(unsigned long, unsigned long, unsigned long)
TT_MINMAX(long long, long long, long long) TT_MINMAX(unsigned long long, unsigned long long, unsigned long long)
#undef TT_MINMAX
TT_INLINE float min(float a, float b) { return fminf(a, b); }
TT_INLINE float max(float a, float b) { return fmaxf(a, b); }
TT_INLINE double min(double a, double b) { return fmin(a, b); }
TT_INLINE double max(double a, double b) { return fmax(a, b); }
TT_INLINE double min(float a, double b) { return fmin((double)a, b); }
TT_INLINE double max(float a, double b) { return fmax((double)a, b); }
TT_INLINE double min(double a, float b) { return fmin(a, (double)b); }
TT_INLINE double max(double a, float b) { return fmax(a, (double)b); }
TT_INLINE long long llmin(long long a, long long b) { return a < b ? a : b; }
TT_INLINE long long llmax(long long a, long long b) { return a > b ? a : b; }
TT_INLINE unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
TT_INLINE unsigned umax(unsigned a, unsigned b) { return a > b ? a : b; }
