// The check build's memory checks: every access of the kernel comes here, by the hooks of -fsanitize=thread.
// Bounds by regions; races and reads of unwritten memory by one cell for each granule (4 bytes at first, finer once an
// access asks for it) with the last write and two readers of different warps.
#pragma once
#include <algorithm>
#include <unordered_map>

#include "worker.hpp"

namespace tt {

struct Record {
  uint32_t block;  // number + 1 + what former launches used up: older ones are no record
  uint32_t clock;  // of the thread
  uint32_t pc;     // from the module's start
  uint16_t thread;
  uint16_t epoch;  // barriers of the block before it, times 2; the lowest bit: atomic
};

struct Cell {
  Record write, read, read_too;
};

// What a block knows of the others through a fence and an atomic.
struct Knowledge {
  std::vector<uint32_t> epoch;                     // by block: accesses of earlier epochs are ordered
  std::unordered_map<uint64_t, uint32_t> threads;  // block * 1024 + thread: clock up to which it is ordered
  void merge(const Knowledge& other) {
    if (epoch.size() < other.epoch.size()) epoch.resize(other.epoch.size());
    for (size_t i = 0; i < other.epoch.size(); ++i) epoch[i] = std::max(epoch[i], other.epoch[i]);
    for (const auto& [key, clock] : other.threads) {
      uint32_t& mine = threads[key];
      mine = std::max(mine, clock);
    }
  }
};

struct Event {
  uint64_t address;
  uint32_t pc, nth;
  uint16_t thread, size;
  bool write, shared;
};
static void count_access(Worker* w, uint64_t address, unsigned size, bool write, bool shared, uint64_t pc);

struct Checker {
  tt_Launch* launch;
  uintptr_t stack_low;
  size_t stack_bytes;
  uintptr_t index_low, index_bytes;  // where threadIdx and its kind lie
  std::vector<tt_Region*> sorted;
  tt_Region* by_pc[256] = {};  // an instruction mostly stays in one region
  uint32_t first = 0, last = 0;  // the records of this launch have blocks above `first`, up to `last`
  uint32_t block = 1;
  uint32_t epoch = 0;
  uint32_t barrier_clock[MAX_THREADS];
  uint32_t seen[MAX_THREADS][32];  // clocks of the lanes of its warp that a thread knows
  std::unordered_map<uintptr_t, Knowledge> places;
  Knowledge acquired;
  bool has_acquired = false;
  uint64_t accesses = 0;
  std::vector<Event> events;
  std::unordered_map<uint64_t, tt_Traffic> traffic;
};

static void place_regions(Worker* w) {
  Checker* c = w->checker;
  c->sorted.clear();
  for (int i = 0; i < c->launch->region_count; ++i) {
    tt_Region& r = c->launch->regions[i];
    if (r.low < r.high) c->sorted.push_back(&r);
  }
  std::sort(c->sorted.begin(), c->sorted.end(), [](tt_Region* a, tt_Region* b) { return a->low < b->low; });
}

void checker_begin_block(Worker* w) {
  Checker* c = w->checker;
  c->block = c->first + (uint32_t)w->block_number + 1;
  c->epoch = 0;
  for (unsigned t = 0; t < w->threads; ++t) {
    w->thread[t].clock = 1;
    w->thread[t].fence_clock = 0;
    c->barrier_clock[t] = 1;
    memset(c->seen[t], 0, sizeof c->seen[t]);
  }
  if (c->has_acquired) {
    c->acquired = Knowledge();
    c->has_acquired = false;
  }
}

void checker_barrier(Worker* w) {
  Checker* c = w->checker;
  ++c->epoch;
  for (unsigned t = 0; t < w->threads; ++t) c->barrier_clock[t] = ++w->thread[t].clock;
}

void checker_warp(Worker* w, int warp, unsigned mask) {
  Checker* c = w->checker;
  uint32_t known[32] = {};
  int base = warp * 32;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    uint32_t* row = c->seen[base + __builtin_ctz(rest)];
    for (int l = 0; l < 32; ++l) known[l] = std::max(known[l], row[l]);
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    int l = __builtin_ctz(rest);
    known[l] = ++w->thread[base + l].clock;
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) memcpy(c->seen[base + __builtin_ctz(rest)], known, sizeof known);
}

void checker_fence(Worker* w) {
  Thread& t = w->thread[w->current];
  t.fence_clock = t.clock++;
  t.fence_epoch = w->checker->epoch;
}

static bool ordered(Worker* w, const Record& r) {
  Checker* c = w->checker;
  if (r.block == c->block)
    return r.thread == w->current || r.clock < c->barrier_clock[r.thread] ||
           (r.thread / 32 == w->current / 32 && r.clock < c->seen[w->current][r.thread % 32]);
  if (!c->has_acquired) return false;
  uint32_t b = r.block - 1 - c->first;
  if (b < c->acquired.epoch.size() && (r.epoch >> 1) < (c->acquired.epoch[b] & 0x7fff)) return true;
  auto found = c->acquired.threads.find((uint64_t)b * MAX_THREADS + r.thread);
  return found != c->acquired.threads.end() && r.clock <= found->second;
}

static void synchronise_by_atomic(Worker* w, uintptr_t address) {
  Checker* c = w->checker;
  Thread& t = w->thread[w->current];
  auto found = c->places.find(address);
  if (found != c->places.end()) {
    c->acquired.merge(found->second);
    c->has_acquired = true;
  }
  if (!t.fence_clock) return;
  Knowledge& place = found == c->places.end() ? c->places[address] : found->second;
  if (c->has_acquired) place.merge(c->acquired);
  uint32_t b = c->block - 1 - c->first;
  if (place.epoch.size() <= b) place.epoch.resize(b + 1);
  place.epoch[b] = std::max(place.epoch[b], t.fence_epoch);
  uint32_t& clock = place.threads[(uint64_t)b * MAX_THREADS + w->current];
  clock = std::max(clock, t.fence_clock);
}

static void add_frames(Worker* w, tt_Fault& fault, uint64_t pc) {
  if (pc) fault.pcs[fault.pc_count++] = pc - w->launch->module_base;
  const Thread& t = w->thread[w->current];
  for (int d = std::min(t.depth, 24); d > 0 && fault.pc_count < 16; --d)
    fault.pcs[fault.pc_count++] = w->calls[w->current][d - 1] - w->launch->module_base;
}

static tt_Fault memory_fault(Worker* w, int kind, uintptr_t address, unsigned size, bool write, void* pc, tt_Region* r) {
  tt_Fault fault = describe(w, kind, nullptr, 0);
  add_frames(w, fault, (uint64_t)pc);
  fault.address = address;
  fault.size = (int)size;
  fault.write = write;
  fault.region = -1;
  fault.argument = -1;
  if (r) {
    fault.region = (int)(r - w->launch->regions);
    fault.argument = r->argument;
    fault.offset = (int64_t)(address - (uintptr_t)r->low);
  }
  return fault;
}

static void unfold_block(const tt_Launch* launch, uint64_t number, uint32_t out[3]) {
  out[0] = (uint32_t)(number % launch->grid[0]);
  out[1] = (uint32_t)(number / launch->grid[0] % launch->grid[1]);
  out[2] = (uint32_t)(number / launch->grid[0] / launch->grid[1]);
}

[[noreturn]] static void race(Worker* w, uintptr_t address, unsigned size, bool write, void* pc, tt_Region* r,
                              const Record& other, bool other_writes) {
  tt_Fault fault = memory_fault(w, TT_RACE, address, size, write, pc, r);
  fault.has_other = other_writes ? 2 : 1;
  fault.other_pc = other.pc;
  unfold_block(w->launch, other.block - 1 - w->checker->first, fault.other_block);
  const Index& i = w->index[other.thread];
  fault.other_thread[0] = i.x;
  fault.other_thread[1] = i.y;
  fault.other_thread[2] = i.z;
  raise(w, fault);
}

// Cells are kept for later launches and need no clearing: their records are of older blocks.
struct CellStore {
  static constexpr uint64_t KEPT = 64ull << 20;  // bytes
  std::mutex lock;
  std::vector<std::pair<uint64_t, Cell*>> free;  // by capacity
  uint64_t held = 0, used = 0;                   // bytes in `free`; block numbers used up by launches

  static uint64_t capacity(uint64_t count) {
    uint64_t c = 64;
    while (c < count) c *= 2;
    return c;
  }
  Cell* take(uint64_t count) {
    uint64_t wanted = capacity(count);
    {
      std::unique_lock<std::mutex> hold(lock);
      for (size_t i = free.size(); i-- > 0;)
        if (free[i].first == wanted) {
          Cell* cells = free[i].second;
          free.erase(free.begin() + (long)i);
          held -= wanted * sizeof(Cell);
          return cells;
        }
    }
    void* got = mmap(nullptr, wanted * sizeof(Cell), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) {
      fprintf(stderr, "tinytorch emulator: no memory for %llu bytes of the check build\n",
              (unsigned long long)(wanted * sizeof(Cell)));
      abort();
    }
    return (Cell*)got;
  }
  void give(Cell* cells, uint64_t count) {
    uint64_t bytes = capacity(count) * sizeof(Cell);
    std::unique_lock<std::mutex> hold(lock);
    if (held + bytes > KEPT) {
      munmap(cells, bytes);
      return;
    }
    free.push_back({capacity(count), cells});
    held += bytes;
  }
  uint32_t begin(uint64_t blocks) {  // what Checker::first is for a launch of so many blocks
    std::unique_lock<std::mutex> hold(lock);
    if (used + blocks >= 0xffffffffull) {  // the numbers begin again: no old record may be met
      for (auto& [size, cells] : free) munmap(cells, size * sizeof(Cell));
      free.clear();
      held = used = 0;
    }
    used += blocks;
    return (uint32_t)(used - blocks);
  }
};
static CellStore& cell_store = *new CellStore;

static void make_cells(Worker* w, tt_Region* r, int granule_log2) {
  w->busy = 1;
  uint64_t bytes = (uint64_t)(r->high - r->low) + 15, count = (bytes >> granule_log2) + 1;
  Cell* cells = cell_store.take(count);
  if (r->cells) {
    Cell* old = (Cell*)r->cells;
    int shift = r->granule_log2 - granule_log2;
    for (uint64_t i = 0; i < count; ++i) {
      const Cell& from = old[std::min(i >> shift, r->cell_count - 1)];
      if (from.write.block > w->checker->first || from.read.block > w->checker->first) cells[i] = from;
    }
    munmap(old, CellStore::capacity(r->cell_count) * sizeof(Cell));  // its records are of this launch: not to be met again
  }
  r->cells = cells;
  r->cell_count = count;
  r->granule_log2 = granule_log2;
  w->busy = 0;
}

static bool all_ones(const tt_Region* r, uintptr_t address, unsigned size) {
  uintptr_t low = (uintptr_t)r->low;
  uintptr_t begin = low + (address - low) / r->float_size * r->float_size;
  for (uintptr_t e = begin; e < address + size; e += r->float_size) {
    uint64_t bits = ~0ull;
    memcpy(&bits, (void*)e, r->float_size);
    if (bits == ~0ull) return true;
  }
  return false;
}

static tt_Region* nearest(Checker* c, uintptr_t address) {
  tt_Region* best = nullptr;
  uint64_t distance = ~0ull;
  for (tt_Region* r : c->sorted) {
    uint64_t d = address < (uintptr_t)r->low ? (uintptr_t)r->low - address : address - (uintptr_t)r->high;
    if (address >= (uintptr_t)r->low && address < (uintptr_t)r->high) d = 0;
    if (d < distance) distance = d, best = r;
  }
  return best;
}

static inline tt_Region* find_region(Checker* c, uintptr_t address, uint64_t pc = 0) {
  tt_Region*& last = c->by_pc[(pc ^ pc >> 8) & 255];
  tt_Region* r = last;
  if (r && address >= (uintptr_t)r->low && address < (uintptr_t)r->high) return r;
  auto after = std::upper_bound(c->sorted.begin(), c->sorted.end(), address,
                                [](uintptr_t a, tt_Region* b) { return a < (uintptr_t)b->low; });
  if (after == c->sorted.begin()) return nullptr;
  r = *--after;
  if (address >= (uintptr_t)r->high) return nullptr;
  return last = r;
}

static void access(const void* pointer, unsigned size, bool write, bool read, bool atomic, unsigned align, void* pc) {
  Worker* w = here;
  if (!w || !w->checker || !w->active) return;
  Checker* c = w->checker;
  uintptr_t address = (uintptr_t)pointer;
  if (address - c->stack_low < c->stack_bytes || address - c->index_low < c->index_bytes) return;  // own variables
  ++c->accesses;
  w->hook_pc = (uint64_t)pc;
  tt_Region* r = find_region(c, address, (uint64_t)pc);
  if (!r || address + size > (uintptr_t)r->high) {
    tt_Fault fault = memory_fault(w, TT_BOUNDS, address, size, write, pc, r ? r : nearest(c, address));
    raise(w, fault);
  }
  if (align > 1 && address % align) {
    tt_Fault fault = memory_fault(w, TT_MISALIGNED, address, size, write, pc, r);
    snprintf(fault.text, sizeof fault.text, "%u", align);
    raise(w, fault);
  }
  if (w->launch->traffic) count_access(w, address, size, write, r->shared != 0, (uint64_t)pc);
  if (atomic) synchronise_by_atomic(w, address);
  uintptr_t base = (uintptr_t)r->low & ~(uintptr_t)15;
  if (!r->cells) make_cells(w, r, 2);
  unsigned part = (unsigned)(address | size) & 3;
  if (part && r->granule_log2) {
    int wanted = part & 1 ? 0 : 1;
    if (wanted < r->granule_log2) make_cells(w, r, wanted);
  }
  Cell* cells = (Cell*)r->cells;
  uint64_t first = (address - base) >> r->granule_log2, last = (address + size - 1 - base) >> r->granule_log2;
  Thread& t = w->thread[w->current];
  Record mine = {c->block, t.clock, (uint32_t)((uint64_t)pc - w->launch->module_base), (uint16_t)w->current,
                 (uint16_t)(c->epoch << 1 | (atomic ? 1 : 0))};
  const uint32_t newer = r->shared ? c->block - 1 : c->first, latest = r->shared ? c->block : c->last;
  auto counts = [=](const Record& record) { return record.block > newer && record.block <= latest; };
  for (uint64_t i = first; i <= last; ++i) {
    Cell& cell = cells[i];
    if (read && !counts(cell.write) && (r->uninitialised || (r->float_size && all_ones(r, address, size)))) {
      tt_Fault fault = memory_fault(w, TT_UNINITIALISED, address, size, false, pc, r);
      raise(w, fault);
    }
    const Record& wrote = cell.write;
    if (counts(wrote) && !(atomic && wrote.epoch & 1) && !ordered(w, wrote))
      race(w, address, size, write, pc, r, wrote, true);
    if (write) {
      for (const Record* reader : {&cell.read, &cell.read_too})
        if (counts(*reader) && !(atomic && reader->epoch & 1) && !ordered(w, *reader))
          race(w, address, size, write, pc, r, *reader, false);
      cell.write = mine;
    } else {
      bool other_warp = cell.read.block != mine.block || cell.read.thread / 32 != mine.thread / 32;
      if (counts(cell.read) && (other_warp || (!counts(cell.read_too) && cell.read.thread != mine.thread)))
        cell.read_too = cell.read;
      cell.read = mine;
    }
  }
}

}  // namespace tt
