// Which fiber runs next, the block barrier and the collectives of a warp.
#pragma once
#include <vector_types.h>

#include "worker.hpp"

// A module reads them as constants: for one fiber they never change.
extern thread_local uint3 threadIdx __attribute__((tls_model("initial-exec")));
extern thread_local uint3 blockIdx __attribute__((tls_model("initial-exec")));
extern thread_local dim3 blockDim __attribute__((tls_model("initial-exec")));
extern thread_local dim3 gridDim __attribute__((tls_model("initial-exec")));

namespace tt {

static void fiber_main();

static const char* operation_name(int operation) {
  static const char* names[] = {
      "__syncwarp", "__shfl_sync", "__any_sync", "__all_sync", "__ballot_sync", "__uni_sync", "__match_any_sync",
      "__match_all_sync", "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync", "__reduce_xor_sync", "__syncthreads",
      "__syncthreads_and", "__syncthreads_or", "__syncthreads_count"};
  return names[operation];
}

static inline void enter(Worker* w, int thread) {
  w->current = thread;
  const Index& i = w->index[thread];
  threadIdx.x = i.x;
  threadIdx.y = i.y;
  threadIdx.z = i.z;
}

static Fiber* take_idle(Worker* w) {
  if (w->idle_count) return &w->fibers[w->idle[--w->idle_count]];
  int index = w->fiber_count++;
  Fiber& fiber = w->fibers[index];
  if (!fiber.stack) fiber.stack = w->arena.open(index);
  if (!fiber.stack) {
    tt_Fault fault = describe(w, TT_STACK, nullptr, 0);
    snprintf(fault.text, sizeof fault.text, "the host has no memory for the stack of another thread");
    raise(w, fault);
  }
  prepare(fiber, index, fiber_main);
  return &fiber;
}

static inline void go(Worker* w, Fiber* from, Fiber* to) {
  w->running = to;
  change(*from, *to);
}

static void push_ready(Worker* w, int thread) {
  w->ready[(w->ready_head + w->ready_count++) % MAX_THREADS] = thread;
}

[[noreturn]] static void deadlock(Worker* w) {
  // nobody can run: the first waiting thread names the place, the text counts the others
  int first = -1, at_barrier = 0, in_warp = 0, other_place = -1;
  for (unsigned t = 0; t < w->threads; ++t) {
    Thread& thread = w->thread[t];
    if (thread.operation < 0) continue;
    if (first < 0) first = (int)t;
    else if (other_place < 0 && thread.line != w->thread[first].line) other_place = (int)t;
    (thread.operation >= TT_THREADS ? at_barrier : in_warp)++;
  }
  Thread& thread = w->thread[first];
  enter(w, first);
  bool block = thread.operation >= TT_THREADS;
  tt_Fault fault = describe(w, block ? TT_BARRIER : TT_WARP, thread.file, thread.line);
  int n = snprintf(fault.text, sizeof fault.text, "%d of %u threads wait in %s", block ? at_barrier : in_warp,
                   w->threads, operation_name(thread.operation));
  if (other_place >= 0)
    n += snprintf(fault.text + n, sizeof fault.text - n, ", others in %s at line %d",
                  operation_name(w->thread[other_place].operation), w->thread[other_place].line);
  if (w->finished)
    n += snprintf(fault.text + n, sizeof fault.text - n, ", %u have left the kernel", w->finished);
  raise(w, fault);
}

// Leaves the fiber `from`; `over`: its thread has ended and it may run another one.
static void dispatch(Worker* w, Fiber* from, bool over) {
  unsigned fresh = w->threads - w->started;
  if (!fresh && !w->ready_count) {
    if (w->finished != w->threads) deadlock(w);
    w->idle[w->idle_count++] = (int)(from - w->fibers);
    go(w, from, &w->home);
    return;
  }
  bool start = !w->ready_count;  // a warp goes on before the next one begins: its stacks are in the cache
  if (w->launch->schedule == 2 && w->ready_count) {
    uint64_t pick = w->draw() % (fresh + w->ready_count);
    start = pick < fresh;
    if (!start) {  // any of the ready ones
      int& a = w->ready[w->ready_head];
      int& b = w->ready[(w->ready_head + (pick - fresh)) % MAX_THREADS];
      int swap = a;
      a = b;
      b = swap;
    }
  }
  if (start) {
    w->next = w->order[w->started++];
    if (over) return;
    go(w, from, take_idle(w));
    return;
  }
  int thread = w->ready[w->ready_head];
  w->ready_head = (w->ready_head + 1) % MAX_THREADS;
  --w->ready_count;
  Fiber* to = w->thread[thread].fiber;
  enter(w, thread);
  if (over) w->idle[w->idle_count++] = (int)(from - w->fibers);
  if (to != from) go(w, from, to);
}

static void fiber_main() {
  Worker* w = here;
  for (;;) {
    int thread = w->next;
    enter(w, thread);
    Thread& t = w->thread[thread];
    t.fiber = w->running;
    t.operation = -1;
    t.depth = 0;
    w->launch->call(w->launch->arguments);
    w->thread[w->current].operation = -2;
    ++w->finished;
    dispatch(w, w->running, true);
  }
}

static inline void wait(Worker* w, int operation, int line, const char* file) {
  Thread& t = w->thread[w->current];
  t.operation = operation;
  t.line = line;
  t.file = file;
  dispatch(w, t.fiber, false);
  t.operation = -1;
}

static void release(Worker* w, int thread, int self) {
  if (thread != self) push_ready(w, thread);
}

extern "C" int tt_barrier(int operation, int predicate, int line, const char* file) {
  Worker* w = here;
  if (!w->barrier_count) {
    w->barrier_line = line;
    w->barrier_operation = operation;
    w->barrier_file = file;
    w->barrier_sum = 0;
  } else if (line != w->barrier_line || operation != w->barrier_operation) {
    tt_Fault fault = describe(w, TT_BARRIER, file, line);
    snprintf(fault.text, sizeof fault.text, "%u of %u threads wait in %s at line %d, this one came to %s at line %d",
             w->barrier_count, w->threads, operation_name(w->barrier_operation), w->barrier_line,
             operation_name(operation), line);
    raise(w, fault);
  }
  w->barrier_sum += predicate != 0;
  if (++w->barrier_count < w->threads) {
    wait(w, operation, line, file);
    return w->barrier_result;
  }
  w->barrier_count = 0;
  int all = w->barrier_sum == (int)w->threads, any = w->barrier_sum != 0;
  w->barrier_result = operation == TT_THREADS_AND ? all : operation == TT_THREADS_OR ? any : w->barrier_sum;
  if (w->checker) checker_barrier(w);
  for (unsigned i = 0; i < w->threads; ++i) release(w, w->order[i], w->current);
  return w->barrier_result;
}

static uint64_t combined(const Warp& warp, int operation, unsigned mask, int lane) {
  uint64_t first = warp.value[lane], result = operation == TT_MIN_U || operation == TT_AND ? ~0u : 0;
  if (operation == TT_MIN_S) result = 0x7fffffff;
  if (operation == TT_MAX_S) result = 0x80000000u;
  if (operation == TT_ALL || operation == TT_UNIFORM || operation == TT_MATCH_ALL) result = 1;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    int l = __builtin_ctz(rest);
    uint64_t v = warp.value[l];
    uint32_t a = (uint32_t)result, b = (uint32_t)v;
    switch (operation) {
      case TT_ANY: result |= v != 0; break;
      case TT_ALL: result &= v != 0; break;
      case TT_BALLOT: result |= (uint64_t)(v != 0) << l; break;
      case TT_UNIFORM: case TT_MATCH_ALL: result &= v == first; break;
      case TT_MATCH_ANY: result |= (uint64_t)(v == first) << l; break;
      case TT_ADD: result = a + b; break;
      case TT_MIN_U: result = a < b ? a : b; break;
      case TT_MAX_U: result = a > b ? a : b; break;
      case TT_MIN_S: result = (int32_t)a < (int32_t)b ? a : b; break;
      case TT_MAX_S: result = (int32_t)a > (int32_t)b ? a : b; break;
      case TT_AND: result = a & b; break;
      case TT_OR: result = a | b; break;
      case TT_XOR: result = a ^ b; break;
    }
  }
  return result;
}

[[noreturn]] static void warp_fault(Worker* w, const char* file, int line, int operation, const char* text,
                                    unsigned a, unsigned b) {
  tt_Fault fault = describe(w, TT_WARP, file, line);
  int n = snprintf(fault.text, sizeof fault.text, "%s: ", operation_name(operation));
  snprintf(fault.text + n, sizeof fault.text - n, text, a, b);
  raise(w, fault);
}

extern "C" uint64_t tt_collective(int operation, unsigned mask, uint64_t value, unsigned source, int line,
                                  const char* file) {
  Worker* w = here;
  int self = w->current, lane = self & 31, base = self & ~31;
  Warp& warp = w->warps[self >> 5];
  unsigned exists = w->threads - base >= 32 ? ~0u : (1u << (w->threads - base)) - 1;
  if (!(mask >> lane & 1)) warp_fault(w, file, line, operation, "mask 0x%08x leaves out the calling lane %u", mask, lane);
  if (mask & ~exists)
    warp_fault(w, file, line, operation, "mask 0x%08x names lanes that the block does not have (it has 0x%08x)", mask,
               exists);
  bool alike = mask == warp.group_mask && operation == warp.group_operation;
  if (!warp.arrived) {
    warp.group_mask = mask;
    warp.group_operation = operation;
  } else if (!alike) {
    warp.group_mask = 0;
  }
  for (unsigned rest = alike ? 0 : warp.arrived & mask; rest; rest &= rest - 1) {
    int l = __builtin_ctz(rest);
    if (warp.mask[l] != mask)
      warp_fault(w, file, line, operation, "this lane names mask 0x%08x, another one 0x%08x", mask, warp.mask[l]);
    if (w->thread[base + l].operation != operation)
      warp_fault(w, file, line, operation, "lane %u of the mask waits in another function at line %u", l,
                 w->thread[base + l].line);
  }
  warp.mask[lane] = mask;
  warp.value[lane] = value;
  warp.source[lane] = source;
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) != mask) {
    wait(w, operation, line, file);
    return warp.result[lane];
  }
  warp.arrived &= ~mask;
  bool same = operation != TT_SHUFFLE && operation != TT_MATCH_ANY;
  uint64_t common = same && operation != TT_SYNC ? combined(warp, operation, mask, lane) : 0;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    int l = __builtin_ctz(rest);
    if (operation == TT_SHUFFLE) {
      unsigned from = warp.source[l];
      if (!(mask >> from & 1))
        warp_fault(w, file, line, operation, "lane %u reads from lane %u, which the mask leaves out", l, from);
      warp.result[l] = warp.value[from];
    } else {
      warp.result[l] = same ? common : combined(warp, operation, mask, l);
    }
  }
  if (w->checker && operation == TT_SYNC) checker_warp(w, self >> 5, mask);
  if (w->launch->schedule == 1)
    for (int l = 31; l >= 0; --l) {
      if (mask >> l & 1) release(w, base + l, self);
    }
  else
    for (unsigned rest = mask; rest; rest &= rest - 1) release(w, base + __builtin_ctz(rest), self);
  return warp.result[lane];
}

extern "C" void tt_fence() {
  if (here->checker) checker_fence(here);
}

}  // namespace tt
