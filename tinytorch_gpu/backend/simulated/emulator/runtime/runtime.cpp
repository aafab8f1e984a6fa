// The emulator's runtime: one shared library for fast and check builds. Launches, workers, faults, printf.
#include <stdarg.h>

#include <thread>

#include "hooks.hpp"
#include "scheduler.hpp"
#include "shadow.hpp"
#include "signals.hpp"
#include "traffic.hpp"

thread_local uint3 threadIdx;
thread_local uint3 blockIdx;
thread_local dim3 blockDim;
thread_local dim3 gridDim;

namespace tt {

thread_local Worker* here = nullptr;
static std::mutex output_lock, fault_lock;

tt_Fault describe(Worker* w, int kind, const char* file, int line) {
  tt_Fault fault = {};
  fault.kind = kind;
  fault.line = line;
  fault.argument = fault.region = -1;
  if (file) snprintf(fault.file, sizeof fault.file, "%s", file);
  unfold_block(w->launch, w->block_number, fault.block);
  const Index& i = w->index[w->current];
  fault.thread[0] = i.x;
  fault.thread[1] = i.y;
  fault.thread[2] = i.z;
  return fault;
}

void raise(Worker* w, tt_Fault& fault) {
  w->active = 0;
  {
    std::unique_lock<std::mutex> hold(fault_lock);
    if (!w->launch->fault->kind) *w->launch->fault = fault;  // the first one is told
  }
  w->stop->store(true);
  siglongjmp(w->escape, 1);
}

static void begin_block(Worker* w, uint64_t number) {
  tt_Launch* l = w->launch;
  w->block_number = number;
  uint32_t b[3];
  unfold_block(l, number, b);
  blockIdx.x = b[0];
  blockIdx.y = b[1];
  blockIdx.z = b[2];
  w->started = 1;
  w->finished = 0;
  w->ready_head = w->ready_count = 0;
  w->barrier_count = 0;
  for (unsigned i = 0; i < (w->threads + 31) / 32; ++i) w->warps[i].arrived = 0;
  if (l->poison >= 0)
    for (int s = l->region_count - l->shared_region_count; s < l->region_count; ++s)
      memset(l->regions[s].low, l->poison, (size_t)(l->regions[s].high - l->regions[s].low));
  if (l->schedule == 2)
    for (unsigned i = w->threads - 1; i > 0; --i) std::swap(w->order[i], w->order[w->draw() % (i + 1)]);
  if (w->checker) checker_begin_block(w);
}

static void run_block(Worker* w, uint64_t number) {
  begin_block(w, number);
  w->next = w->order[0];
  go(w, &w->home, take_idle(w));
  if (w->launch->traffic && w->checker) {
    w->busy = 1;
    count_block(w);
    w->busy = 0;
  }
}

void run_blocks(Worker* w, std::atomic<uint64_t>* next_block) {
  tt_Launch* l = w->launch;
  uint64_t blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
  here = w;
  blockDim = dim3(l->block[0], l->block[1], l->block[2]);
  gridDim = dim3(l->grid[0], l->grid[1], l->grid[2]);
  w->threads = l->block[0] * l->block[1] * l->block[2];
  w->random = l->seed | 1;
  int i = 0;
  for (unsigned z = 0; z < l->block[2]; ++z)
    for (unsigned y = 0; y < l->block[1]; ++y)
      for (unsigned x = 0; x < l->block[0]; ++x) w->index[i++] = {x, y, z};
  for (unsigned t = 0; t < w->threads; ++t) w->order[t] = (int)(l->schedule == 1 ? w->threads - 1 - t : t);
  w->host = pthread_self();
  w->misses = 0;
  w->hook_pc = 0;
  if (w->checker)  // the arrays of this host thread
    for (int s = l->region_count - l->shared_region_count; s < l->region_count; ++s) {
      tt_Region& r = l->regions[s];
      char* base = r.shared == 2 ? l->dynamic_base() : l->shared_base() + l->shared_shift;
      r.high = base + (uint64_t)r.high;
      r.low = base + (uint64_t)r.low;
    }
  if (w->checker) {
    place_regions(w);
    uintptr_t low = ~(uintptr_t)0, high = 0;
    for (uintptr_t p : {(uintptr_t)&threadIdx, (uintptr_t)&blockIdx, (uintptr_t)&blockDim, (uintptr_t)&gridDim})
      low = std::min(low, p), high = std::max(high, p + sizeof(dim3));
    w->checker->index_low = low;
    w->checker->index_bytes = high - low;
  }
  install_handlers(w);
  watchdog.add(w);
  if (!sigsetjmp(w->escape, 1)) {
    w->active = 1;
    // a stride that shares no factor with the number of blocks visits all of them in a shuffled order
    uint64_t stride = 1, offset = 0;
    if (l->schedule == 2 && blocks > 2) {
      stride = 1 + w->draw() % (blocks - 1);
      while (std::__gcd(stride, blocks) != 1) stride = 1 + stride % (blocks - 1);
      offset = w->draw() % blocks;
    }
    uint64_t chunk = std::max<uint64_t>(1, std::min<uint64_t>(64, blocks / (8 * (uint64_t)l->workers)));
    for (;;) {
      uint64_t first = next_block->fetch_add(chunk, std::memory_order_relaxed);
      if (first >= blocks || w->stop->load(std::memory_order_relaxed)) break;
      for (uint64_t k = first; k < std::min(first + chunk, blocks); ++k) {
        uint64_t b = l->schedule == 1 ? blocks - 1 - k : l->schedule == 2 ? (k * stride + offset) % blocks : k;
        run_block(w, b);
      }
    }
    w->active = 0;
  } else {
    w->active = 0;  // the fibers stand anywhere in the kernel: new ones next time
    w->busy = 0;
    w->fiber_count = w->idle_count = 0;
  }
  watchdog.remove(w);
  remove_signal_stack(w);
  here = nullptr;
}

// Workers with their stacks are kept for the next launch.
static std::mutex pool_lock;
static std::vector<Worker*>& pool = *new std::vector<Worker*>;

static Worker* take_worker() {
  {
    std::unique_lock<std::mutex> hold(pool_lock);
    if (!pool.empty()) {
      Worker* w = pool.back();
      pool.pop_back();
      return w;
    }
  }
  Worker* w = new Worker;
  if (w->arena.reserve()) return w;
  delete w;
  return nullptr;
}

static void give_worker(Worker* w) {
  // a fiber is bound to the thread-local variables of the host thread that began it
  w->fiber_count = w->idle_count = 0;
  std::unique_lock<std::mutex> hold(pool_lock);
  pool.push_back(w);
}

}  // namespace tt

extern "C" int tt_abi() { return TT_ABI; }

extern "C" int tt_launch(tt_Launch* l) {
  using namespace tt;
  std::atomic<uint64_t> next_block{0};
  std::atomic<bool> stop{false};
  l->seconds += now();
  std::vector<Worker*> workers;
  for (int i = 0; i < l->workers; ++i) {
    Worker* w = take_worker();
    if (!w) break;
    w->launch = l;
    w->stop = &stop;
    workers.push_back(w);
  }
  if (workers.empty()) return 1;
  l->workers = (int)workers.size();
  Checker* checker = nullptr;
  if (l->check) {
    checker = new Checker;
    checker->launch = l;
    uint64_t blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
    checker->first = cell_store.begin(blocks);
    checker->last = checker->first + (uint32_t)blocks;
    checker->stack_low = (uintptr_t)workers[0]->arena.low;
    checker->stack_bytes = workers[0]->arena.stride * MAX_THREADS;
    workers[0]->checker = checker;
  }
  std::vector<std::thread> threads;
  for (size_t i = 1; i < workers.size(); ++i) threads.emplace_back(run_blocks, workers[i], &next_block);
  run_blocks(workers[0], &next_block);
  for (auto& thread : threads) thread.join();
  if (checker) {
    l->accesses = checker->accesses;
    for (auto& [key, row] : checker->traffic)
      if (l->traffic && l->traffic_count < l->traffic_capacity) l->traffic[l->traffic_count++] = row;
    for (int i = 0; i < l->region_count; ++i)
      if (l->regions[i].cells) cell_store.give((Cell*)l->regions[i].cells, l->regions[i].cell_count);
    workers[0]->checker = nullptr;
    delete checker;
  }
  for (Worker* w : workers) give_worker(w);
  return 0;
}

extern "C" int tt_printf(const char* format, ...) {
  tt::Worker* w = tt::here;
  w->busy = 1;
  char text[1024];
  va_list list;
  va_start(list, format);
  int n = vsnprintf(text, sizeof text, format, list);
  va_end(list);
  int length = n < (int)sizeof text ? n : (int)sizeof text - 1;
  if (length > 0) {
    std::unique_lock<std::mutex> hold(tt::output_lock);
    tt_Launch* l = w->launch;
    if (l->output_size + (uint64_t)length <= l->output_capacity) memcpy(l->output + l->output_size, text, (size_t)length);
    l->output_size += (uint64_t)length;  // past the capacity: how much is lost
  }
  w->busy = 0;
  return n;
}

extern "C" void tt_assert_failed(const char* text, const char* file, int line) {
  tt::Worker* w = tt::here;
  tt_Fault fault = tt::describe(w, TT_ASSERT, file, line);
  snprintf(fault.text, sizeof fault.text, "%s", text);
  tt::raise(w, fault);
}

extern "C" void tt_access(const void* address, unsigned size, int write) {
  if (size) tt::access(address, size, write, !write, false, 1, TT_PC);
}
