// Loads and stores with a cache hint, and atomics. In the check build the compiler's hooks see each of them.
#pragma once

namespace tt {
template <class T> struct same { using type = T; };
template <class T> using given = typename same<T>::type;  // takes part in no deduction
}  // namespace tt

#define TT_LOAD(NAME) template <class T> TT_TEMPLATE T NAME(const T* p) { return *p; }
TT_LOAD(__ldg) TT_LOAD(__ldcs) TT_LOAD(__ldca) TT_LOAD(__ldcg) TT_LOAD(__ldcv) TT_LOAD(__ldlu)
#undef TT_LOAD
#define TT_STORE(NAME) template <class T> TT_TEMPLATE void NAME(T* p, tt::given<T> value) { *p = value; }
TT_STORE(__stcs) TT_STORE(__stcg) TT_STORE(__stwb) TT_STORE(__stwt)
#undef TT_STORE

namespace tt {
template <int SIZE> struct word;
template <> struct word<2> { using type = uint16_t; };
template <> struct word<4> { using type = uint32_t; };
template <> struct word<8> { using type = uint64_t; };

// Every atomic is a loop of compare-and-swap on the bits: one form for integers, floats and halves.
template <class T, class F>
TT_TEMPLATE T modify(T* p, F change) {
  using W = typename word<sizeof(T)>::type;
  W* place = (W*)p;
  W seen = __atomic_load_n(place, __ATOMIC_RELAXED);
  for (;;) {
    T before;
    __builtin_memcpy((void*)&before, &seen, sizeof(T));
    T after = change(before);
    W bits;
    __builtin_memcpy(&bits, (const void*)&after, sizeof(T));
    if (__atomic_compare_exchange_n(place, &seen, bits, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return before;
  }
}
}  // namespace tt

#define TT_EACH_SCOPE(RETURN, NAME, PARAMETERS, BODY)             \
  TT_INLINE RETURN NAME PARAMETERS { BODY }                       \
  TT_INLINE RETURN NAME##_block PARAMETERS { BODY }               \
  TT_INLINE RETURN NAME##_system PARAMETERS { BODY }
#define TT_INTEGER(T, NAME, BUILTIN) TT_EACH_SCOPE(T, NAME, (T* p, T v), return (T)BUILTIN(p, v, __ATOMIC_SEQ_CST);)
#define TT_CHANGE(T, NAME, EXPRESSION) TT_EACH_SCOPE(T, NAME, (T* p, T v), return tt::modify(p, [&](T old) -> T { return EXPRESSION; });)

typedef unsigned int tt_u;
typedef long long tt_ll;
typedef unsigned long long tt_ull;
TT_INTEGER(int, atomicAdd, __atomic_fetch_add) TT_INTEGER(tt_u, atomicAdd, __atomic_fetch_add)
TT_INTEGER(tt_ull, atomicAdd, __atomic_fetch_add)
TT_CHANGE(float, atomicAdd, old + v) TT_CHANGE(double, atomicAdd, old + v)
TT_INTEGER(int, atomicSub, __atomic_fetch_sub) TT_INTEGER(tt_u, atomicSub, __atomic_fetch_sub)
TT_INTEGER(int, atomicExch, __atomic_exchange_n) TT_INTEGER(tt_u, atomicExch, __atomic_exchange_n)
TT_INTEGER(tt_ull, atomicExch, __atomic_exchange_n) TT_CHANGE(float, atomicExch, v)
#define TT_BITS(NAME, BUILTIN) \
  TT_INTEGER(int, NAME, BUILTIN) TT_INTEGER(tt_u, NAME, BUILTIN) TT_INTEGER(tt_ull, NAME, BUILTIN)
TT_BITS(atomicAnd, __atomic_fetch_and) TT_BITS(atomicOr, __atomic_fetch_or) TT_BITS(atomicXor, __atomic_fetch_xor)
#undef TT_BITS
#define TT_ORDER(T) TT_CHANGE(T, atomicMin, v < old ? v : old) TT_CHANGE(T, atomicMax, v > old ? v : old)
TT_ORDER(int) TT_ORDER(tt_u) TT_ORDER(tt_ll) TT_ORDER(tt_ull)
#undef TT_ORDER
TT_CHANGE(tt_u, atomicInc, old >= v ? 0 : old + 1)
TT_CHANGE(tt_u, atomicDec, old == 0 || old > v ? v : old - 1)
#define TT_SWAP(T)                                                                                      \
  TT_EACH_SCOPE(T, atomicCAS, (T* p, T expected, T v),                                                  \
                __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
                return expected;)
TT_SWAP(int) TT_SWAP(tt_u) TT_SWAP(tt_ull) TT_SWAP(unsigned short)
#undef TT_SWAP

#ifdef TT_CHECK
// The hooks do not see the C library's copies.
TT_INLINE void* tt_copy(void* to, const void* from, size_t n) {
  tt_access(from, (unsigned)n, 0);
  tt_access(to, (unsigned)n, 1);
  return __builtin_memcpy(to, from, n);
}
TT_INLINE void* tt_fill(void* to, int value, size_t n) {
  tt_access(to, (unsigned)n, 1);
  return __builtin_memset(to, value, n);
}
#define memcpy(to, from, n) tt_copy(to, from, n)
#define memset(to, value, n) tt_fill(to, value, n)
#endif
