// What the runtime, the compiled modules and Python (faults.py, module.py: ctypes) agree on.
#pragma once
#include <stdint.h>

#define TT_ABI 5

// One memory area that a kernel of the check build may touch: an argument, a `__shared__` array, module data.
struct tt_Region {
  char* low;
  char* high;
  int32_t argument;       // index of the argument, -1: not one
  int32_t float_size;     // 2, 4, 8: an element of all ones was never written; 0: not known
  int32_t uninitialised;  // nothing in it is written when the launch begins
  int32_t shared;         // 1: `low` and `high` are offsets into the thread-local image, 2: into the dynamic array
  // filled in by the runtime
  int32_t granule_log2;
  int32_t unused;
  void* cells;
  uint64_t cell_count;
};

struct tt_Fault {
  int32_t kind;  // tt_Kind, 0: none
  int32_t line;
  int32_t argument;
  int32_t region;   // index into the launch's regions, -1: none
  int64_t offset;   // bytes from the start of the region
  uint64_t address;
  int32_t size;
  int32_t write;
  uint32_t block[3];
  uint32_t thread[3];
  uint64_t pcs[16];
  int32_t pc_count;
  int32_t has_other;
  uint64_t other_pc;
  uint32_t other_block[3];
  uint32_t other_thread[3];
  char file[256];
  char text[512];
};

enum tt_Kind {
  TT_NONE, TT_BOUNDS, TT_MISALIGNED, TT_RACE, TT_UNINITIALISED, TT_BARRIER, TT_WARP, TT_ENDLESS, TT_ASSERT, TT_CRASH,
  TT_ARITHMETIC, TT_STACK
};

// Of one instruction: requests of whole warps, transfers (32-byte sectors; of shared memory: passes over the banks)
// and the fewest transfers that could carry the same bytes.
struct tt_Traffic {
  uint64_t pc, requests, transfers, least;
  int32_t write, shared;
};

struct tt_Launch {
  void (*call)(void** arguments);
  void** arguments;
  char* (*shared_base)(void);   // `__shared__` arrays lie from here on, on the calling thread
  char* (*dynamic_base)(void);  // the dynamic shared array, null: the module has none
  uint32_t grid[3];
  uint32_t block[3];
  uint64_t shared_bytes;   // dynamic
  int64_t shared_shift;    // from shared_base() to the start of the module's thread-local image
  int32_t schedule;        // 0 ascending, 1 descending, 2 random
  int32_t poison;          // byte put into shared memory before each block, -1: leave it
  uint64_t seed;
  int32_t workers;
  int32_t check;
  double seconds;
  tt_Region* regions;
  int32_t region_count;
  int32_t shared_region_count;  // the last ones of `regions`
  uint64_t module_base;
  uint64_t module_bytes;  // of its code
  tt_Fault* fault;
  char* output;  // what printf wrote
  uint64_t output_capacity;
  uint64_t output_size;
  // counted by the check build
  uint64_t accesses;
  tt_Traffic* traffic;  // null: not counted
  int32_t traffic_capacity;
  int32_t traffic_count;
};

struct tt_Parameter {
  char pointer;  // 0 by value, 1 pointer, 2 pointer to const
  char kind;     // f, i, u, b (bool), B (bfloat16), s (struct), v (void)
  uint16_t align;
  uint32_t size;  // of the value, or of what the pointer points to
  char base_kind;  // the element of a vector type (float4: f)
  char base_size;
  uint16_t unused;
};

extern "C" {
uint64_t tt_collective(int operation, unsigned mask, uint64_t value, unsigned source, int line, const char* file);
int tt_barrier(int operation, int predicate, int line, const char* file);
void tt_fence();
int tt_printf(const char* format, ...) __attribute__((format(printf, 1, 2)));
void tt_assert_failed(const char* text, const char* file, int line) __attribute__((noreturn));
void tt_access(const void* address, unsigned size, int write);
}

enum tt_Operation {
  TT_SYNC, TT_SHUFFLE, TT_ANY, TT_ALL, TT_BALLOT, TT_UNIFORM, TT_MATCH_ANY, TT_MATCH_ALL, TT_ADD, TT_MIN_U, TT_MAX_U,
  TT_MIN_S, TT_MAX_S, TT_AND, TT_OR, TT_XOR, TT_THREADS, TT_THREADS_AND, TT_THREADS_OR, TT_THREADS_COUNT
};
