// One worker: runs the blocks of a launch one after the other on its host thread, the threads of a block as fibers.
#pragma once
#include <setjmp.h>
#include <stdio.h>

#include <atomic>
#include <vector>

#include "abi.hpp"
#include "fibers.hpp"

namespace tt {

struct Index {
  unsigned x, y, z;
};

struct Thread {
  Fiber* fiber;
  const char* file;
  int line;
  int operation;  // what it waits in, -1: it runs, -2: it has ended
  unsigned clock;
  unsigned fence_clock, fence_epoch;  // at its last __threadfence; clock 0: none
  int depth;  // of calls, in the check build
};

struct Warp {
  unsigned arrived;
  unsigned group_mask;  // of all lanes that have arrived, 0: they differ
  int group_operation;
  unsigned mask[32];
  uint64_t value[32];
  uint64_t result[32];
  unsigned source[32];
};

struct Checker;  // shadow.hpp

struct Worker {
  tt_Launch* launch = nullptr;
  std::atomic<bool>* stop = nullptr;
  Arena arena;
  Fiber fibers[MAX_THREADS];
  Fiber home;
  int fiber_count = 0;
  int idle[MAX_THREADS];
  int idle_count = 0;
  Fiber* running = nullptr;
  sigjmp_buf escape;
  volatile int active = 0;   // inside a launch: a signal here is the kernel's
  uint64_t hook_pc = 0;      // of the last checked access
  int misses = 0;            // signals that found the thread outside the module
  volatile int busy = 0;     // inside malloc or stdio: do not jump out
  unsigned threads = 0;
  int current = 0;
  int next = 0;
  unsigned started = 0, finished = 0;
  int order[MAX_THREADS];
  Index index[MAX_THREADS];
  int ready[MAX_THREADS];
  unsigned ready_head = 0, ready_count = 0;
  Thread thread[MAX_THREADS];
  uint64_t calls[MAX_THREADS][24];
  Warp warps[MAX_THREADS / 32];
  unsigned barrier_count = 0;
  int barrier_line = 0, barrier_operation = 0, barrier_sum = 0, barrier_result = 0;
  const char* barrier_file = nullptr;
  uint64_t random = 1;
  uint64_t block_number = 0;
  Checker* checker = nullptr;
  pthread_t host;
  void* signal_stack = nullptr;

  uint64_t draw() {  // xorshift64*
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    return random * 2685821657736338717ull;
  }
};

extern thread_local Worker* here __attribute__((tls_model("initial-exec")));

[[noreturn]] void raise(Worker* w, tt_Fault& fault);
tt_Fault describe(Worker* w, int kind, const char* file, int line);
void run_blocks(Worker* w, std::atomic<uint64_t>* next_block);

// shadow.hpp
void checker_begin_block(Worker* w);
void checker_barrier(Worker* w);
void checker_warp(Worker* w, int warp, unsigned mask);
void checker_fence(Worker* w);

}  // namespace tt
