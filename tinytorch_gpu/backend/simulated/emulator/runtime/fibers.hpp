// Fibers: a stack each, switched by hand on x86-64 (about 2 ns) and by ucontext elsewhere or when it is forced.
#pragma once
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <mutex>

namespace tt {

constexpr int MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 128 << 10;

#if defined(__x86_64__)
extern "C" void tt_switch(void** save, void* to) __asm__("tt_switch");
__asm__(R"(
  .text
  .p2align 4
tt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr bool HAS_SWITCH = true;
#else
inline void tt_switch(void**, void*) {}
constexpr bool HAS_SWITCH = false;
#endif

inline bool use_ucontext() {
  static const bool chosen = [] {
    const char* text = getenv("TINYTORCH_EMULATOR_FIBERS");
    return !HAS_SWITCH || (text && !strcmp(text, "ucontext"));
  }();
  return chosen;
}

struct Fiber {
  void* stack_pointer = nullptr;
  ucontext_t* context = nullptr;
  char* stack = nullptr;
};

// The stacks of one worker: a guard page below each, mapped once and kept, memory on first touch.
struct Arena {
  char* low = nullptr;
  size_t stride = 0;

  bool reserve() {
    if (low) return true;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    stride = STACK_BYTES + page;
    size_t bytes = stride * MAX_THREADS + page;
    void* got = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return false;
    low = (char*)got;
    return true;
  }
  char* open(int index) {  // the lowest usable byte of a stack
    size_t page = stride - STACK_BYTES;
    char* stack = low + (size_t)index * stride + page;
    return mprotect(stack, STACK_BYTES, PROT_READ | PROT_WRITE) ? nullptr : stack;
  }
  bool contains(uintptr_t address) const { return address - (uintptr_t)low < stride * MAX_THREADS; }
  bool is_guard(uintptr_t address) const {
    return contains(address) && (address - (uintptr_t)low) % stride < stride - STACK_BYTES;
  }
};

inline void prepare(Fiber& fiber, int index, void (*entry)()) {
  char* top = fiber.stack + STACK_BYTES - index % 16 * 256;  // stacks a page apart would share the cache's sets
  if (use_ucontext()) {
    if (!fiber.context) fiber.context = (ucontext_t*)malloc(sizeof(ucontext_t));
    getcontext(fiber.context);
    fiber.context->uc_stack.ss_sp = fiber.stack;
    fiber.context->uc_stack.ss_size = (size_t)(top - fiber.stack);
    fiber.context->uc_link = nullptr;
    makecontext(fiber.context, entry, 0);
    return;
  }
  void** base = (void**)(top - 8);
  base[0] = nullptr;  // in place of a return address: the stack is aligned at the entry as after a call
  base[-1] = (void*)entry;
  for (int i = 2; i <= 7; ++i) base[-i] = nullptr;
  fiber.stack_pointer = base - 7;
}

inline void change(Fiber& from, Fiber& to) {
  if (use_ucontext()) {
    if (!from.context) from.context = (ucontext_t*)malloc(sizeof(ucontext_t));
    swapcontext(from.context, to.context);
  } else {
    tt_switch(&from.stack_pointer, to.stack_pointer);
  }
}

}  // namespace tt
