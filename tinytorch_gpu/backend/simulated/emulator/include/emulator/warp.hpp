// Barriers, shuffles, votes and reductions: each is one call of the runtime, with the line that it stands on.
#pragma once

TT_INLINE void __syncthreads(TT_HERE) { tt_barrier(TT_THREADS, 0, line, file); }
TT_INLINE int __syncthreads_and(int p, TT_HERE) { return tt_barrier(TT_THREADS_AND, p, line, file); }
TT_INLINE int __syncthreads_or(int p, TT_HERE) { return tt_barrier(TT_THREADS_OR, p, line, file); }
TT_INLINE int __syncthreads_count(int p, TT_HERE) { return tt_barrier(TT_THREADS_COUNT, p, line, file); }
TT_INLINE void __syncwarp(unsigned mask = 0xffffffffu, TT_HERE) { tt_collective(TT_SYNC, mask, 0, 0, line, file); }
TT_INLINE void __threadfence() { tt_fence(); }
TT_INLINE void __threadfence_block() {}
TT_INLINE void __threadfence_system() { tt_fence(); }

namespace tt {
TT_INLINE unsigned lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31;
}
template <class T>
TT_TEMPLATE T exchange(unsigned mask, T value, unsigned source, int line, const char* file) {
  static_assert(sizeof(T) <= 8 && __is_trivially_copyable(T), "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, (const void*)&value, sizeof(T));
  bits = tt_collective(TT_SHUFFLE, mask, bits, source, line, file);
  __builtin_memcpy((void*)&value, &bits, sizeof(T));
  return value;
}
template <class T>
TT_TEMPLATE uint64_t bits_of(T value) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}
}  // namespace tt

template <class T>
TT_TEMPLATE T __shfl_sync(unsigned mask, T value, int source, int width = 32, TT_HERE) {
  unsigned lane = tt::lane();
  return tt::exchange(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), line, file);
}
template <class T>
TT_TEMPLATE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, TT_HERE) {
  int lane = (int)tt::lane(), from = lane - (int)delta;
  return tt::exchange(mask, value, (unsigned)(from < (lane & ~(width - 1)) ? lane : from), line, file);
}
template <class T>
TT_TEMPLATE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, TT_HERE) {
  int lane = (int)tt::lane(), from = lane + (int)delta;
  return tt::exchange(mask, value, (unsigned)(from > (lane | (width - 1)) ? lane : from), line, file);
}
template <class T>
TT_TEMPLATE T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, TT_HERE) {
  int lane = (int)tt::lane(), from = lane ^ flip;
  return tt::exchange(mask, value, (unsigned)(from > (lane | (width - 1)) ? lane : from), line, file);
}

TT_INLINE int __any_sync(unsigned mask, int p, TT_HERE) { return (int)tt_collective(TT_ANY, mask, p != 0, 0, line, file); }
TT_INLINE int __all_sync(unsigned mask, int p, TT_HERE) { return (int)tt_collective(TT_ALL, mask, p != 0, 0, line, file); }
TT_INLINE unsigned __ballot_sync(unsigned mask, int p, TT_HERE) {
  return (unsigned)tt_collective(TT_BALLOT, mask, p != 0, 0, line, file);
}
template <class T>
TT_TEMPLATE unsigned __match_any_sync(unsigned mask, T value, TT_HERE) {
  return (unsigned)tt_collective(TT_MATCH_ANY, mask, tt::bits_of(value), 0, line, file);
}
template <class T>
TT_TEMPLATE unsigned __match_all_sync(unsigned mask, T value, int* all, TT_HERE) {
  *all = (int)tt_collective(TT_MATCH_ALL, mask, tt::bits_of(value), 0, line, file);
  return *all ? mask : 0;
}
#define TT_REDUCE(NAME, U, S)                                                                                       \
  TT_INLINE unsigned NAME(unsigned mask, unsigned v, TT_HERE) { return (unsigned)tt_collective(U, mask, v, 0, line, file); } \
  TT_INLINE int NAME(unsigned mask, int v, TT_HERE) { return (int)tt_collective(S, mask, (unsigned)v, 0, line, file); }
TT_REDUCE(__reduce_add_sync, TT_ADD, TT_ADD)
TT_REDUCE(__reduce_min_sync, TT_MIN_U, TT_MIN_S)
TT_REDUCE(__reduce_max_sync, TT_MAX_U, TT_MAX_S)
#undef TT_REDUCE
#define TT_REDUCE(NAME, OP) \
  TT_INLINE unsigned NAME(unsigned mask, unsigned v, TT_HERE) { return (unsigned)tt_collective(OP, mask, v, 0, line, file); }
TT_REDUCE(__reduce_and_sync, TT_AND)
TT_REDUCE(__reduce_or_sync, TT_OR)
TT_REDUCE(__reduce_xor_sync, TT_XOR)
#undef TT_REDUCE
