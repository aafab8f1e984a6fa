// The names that -fsanitize=thread,bounds,alignment calls.
#pragma once
#include "shadow.hpp"

using tt::access;
#define TT_PC __builtin_return_address(0)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void* pc) {
  tt::Worker* w = tt::here;
  if (!w || !w->checker || !w->active) return;
  tt::Thread& t = w->thread[w->current];
  if (t.depth < 24) w->calls[w->current][t.depth] = (uint64_t)pc;
  ++t.depth;
}
void __tsan_func_exit() {
  tt::Worker* w = tt::here;
  if (!w || !w->checker || !w->active) return;
  tt::Thread& t = w->thread[w->current];
  if (t.depth > 0) --t.depth;
}
#define TT_HOOK(N)                                                                             \
  void __tsan_read##N(void* p) { access(p, N, false, true, false, N, TT_PC); }                 \
  void __tsan_write##N(void* p) { access(p, N, true, false, false, N, TT_PC); }                \
  void __tsan_volatile_read##N(void* p) { access(p, N, false, true, false, N, TT_PC); }        \
  void __tsan_volatile_write##N(void* p) { access(p, N, true, false, false, N, TT_PC); }       \
  void __tsan_unaligned_read##N(void* p) { access(p, N, false, true, false, 1, TT_PC); }       \
  void __tsan_unaligned_write##N(void* p) { access(p, N, true, false, false, 1, TT_PC); }
TT_HOOK(1) TT_HOOK(2) TT_HOOK(4) TT_HOOK(8) TT_HOOK(16)
#undef TT_HOOK
void __tsan_read_range(void* p, uint64_t n) { if (n) access(p, (unsigned)n, false, true, false, 1, TT_PC); }
void __tsan_write_range(void* p, uint64_t n) { if (n) access(p, (unsigned)n, true, false, false, 1, TT_PC); }
void __tsan_vptr_update(void**, void*) {}

#define TT_RMW(BITS, T, NAME, CALL)                                                \
  T __tsan_atomic##BITS##_##NAME(volatile T* p, T v, int) {                        \
    access((const void*)p, sizeof(T), true, true, true, sizeof(T), TT_PC);         \
    return CALL(p, v, __ATOMIC_SEQ_CST);                                           \
  }
#define TT_ATOMICS(BITS, T)                                                                      \
  T __tsan_atomic##BITS##_load(const volatile T* p, int) {                                       \
    access((const void*)p, sizeof(T), false, true, true, sizeof(T), TT_PC);                      \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                              \
  void __tsan_atomic##BITS##_store(volatile T* p, T v, int) {                                    \
    access((const void*)p, sizeof(T), true, false, true, sizeof(T), TT_PC);                      \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                              \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {        \
    access((const void*)p, sizeof(T), true, true, true, sizeof(T), TT_PC);                       \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);      \
  }                                                                                              \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) {          \
    access((const void*)p, sizeof(T), true, true, true, sizeof(T), TT_PC);                       \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);      \
  }                                                                                              \
  TT_RMW(BITS, T, exchange, __atomic_exchange_n)                                                 \
  TT_RMW(BITS, T, fetch_add, __atomic_fetch_add)                                                 \
  TT_RMW(BITS, T, fetch_sub, __atomic_fetch_sub)                                                 \
  TT_RMW(BITS, T, fetch_and, __atomic_fetch_and)                                                 \
  TT_RMW(BITS, T, fetch_or, __atomic_fetch_or)                                                   \
  TT_RMW(BITS, T, fetch_xor, __atomic_fetch_xor)
TT_ATOMICS(8, uint8_t) TT_ATOMICS(16, uint16_t) TT_ATOMICS(32, uint32_t) TT_ATOMICS(64, uint64_t)
#undef TT_ATOMICS
#undef TT_RMW
void __tsan_atomic_thread_fence(int) { tt_fence(); }
void __tsan_atomic_signal_fence(int) {}

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct OutOfBounds {
  SourceLocation where;
  void *array, *index;
};
struct TypeMismatch {
  SourceLocation where;
  struct Type { uint16_t kind, info; char name[1]; }* type;
  unsigned char log_align, kind;
};
static void sanitizer_fault(int kind, const SourceLocation& where, uintptr_t address, const char* text, void* pc) {
  tt::Worker* w = tt::here;
  if (!w || !w->active) return;
  tt_Fault fault = tt::describe(w, kind, where.file, (int)where.line);
  tt::add_frames(w, fault, (uint64_t)pc);
  fault.address = address;
  fault.region = fault.argument = -1;
  if (w->checker && address) {
    if (tt_Region* r = tt::find_region(w->checker, address)) {
      fault.region = (int)(r - w->launch->regions);
      fault.argument = r->argument;
      fault.offset = (int64_t)(address - (uintptr_t)r->low);
    }
  }
  snprintf(fault.text, sizeof fault.text, "%s", text);
  tt::raise(w, fault);
}
void __ubsan_handle_out_of_bounds(OutOfBounds* data, uintptr_t index) {
  char text[200];
  const char* name = data->array ? ((TypeMismatch::Type*)data->array)->name : "an array";
  snprintf(text, sizeof text, "index %lld of an array of type %s", (long long)index, name);
  sanitizer_fault(TT_BOUNDS, data->where, 0, text, TT_PC);
}
void __ubsan_handle_out_of_bounds_abort(OutOfBounds* data, uintptr_t index) {
  __ubsan_handle_out_of_bounds(data, index);
}
void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t address) {
  char text[64];
  snprintf(text, sizeof text, "%u", 1u << data->log_align);
  sanitizer_fault(TT_MISALIGNED, data->where, address, text, TT_PC);
}
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* data, uintptr_t address) {
  __ubsan_handle_type_mismatch_v1(data, address);
}
}
