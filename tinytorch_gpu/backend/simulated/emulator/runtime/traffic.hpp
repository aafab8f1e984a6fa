// How much memory traffic each line of a kernel makes: the accesses of one warp at one place count as one request.
#pragma once
#include <tuple>

#include "shadow.hpp"

namespace tt {

static void count_access(Worker* w, uint64_t address, unsigned size, bool write, bool shared, uint64_t pc) {
  w->busy = 1;
  w->checker->events.push_back({address, (uint32_t)(pc - w->launch->module_base), 0, (uint16_t)w->current,
                                (uint16_t)size, write, shared});
  w->busy = 0;
}

static void count_request(const Event* begin, const Event* end, tt_Traffic& row) {
  std::vector<uint64_t> bytes, sectors;
  for (const Event* e = begin; e != end; ++e)
    for (unsigned k = 0; k < e->size; ++k) bytes.push_back(e->address + k);
  std::sort(bytes.begin(), bytes.end());
  bytes.erase(std::unique(bytes.begin(), bytes.end()), bytes.end());
  const uint64_t unit = begin->shared ? 4 : 32;
  for (uint64_t b : bytes)
    if (sectors.empty() || sectors.back() != b / unit) sectors.push_back(b / unit);
  ++row.requests;
  if (!begin->shared) {
    row.transfers += sectors.size();
    row.least += (bytes.size() + 31) / 32;
    return;
  }
  uint64_t banks[32] = {}, most = 0;  // distinct words of a bank come one after the other
  for (uint64_t word : sectors) most = std::max(most, ++banks[word % 32]);
  row.transfers += most;
  row.least += (sectors.size() + 31) / 32;
}

// The nth time that a lane passes an instruction belongs to the nth time of the other lanes of its warp.
static void count_block(Worker* w) {
  Checker* c = w->checker;
  std::unordered_map<uint64_t, uint32_t> passed;
  for (Event& e : c->events) e.nth = passed[(uint64_t)e.pc << 16 | e.thread]++;
  auto key = [](const Event& e) { return std::make_tuple(e.pc, e.thread / 32, e.nth); };
  std::sort(c->events.begin(), c->events.end(), [&](const Event& a, const Event& b) { return key(a) < key(b); });
  for (size_t i = 0; i < c->events.size();) {
    size_t j = i;
    while (j < c->events.size() && key(c->events[j]) == key(c->events[i])) ++j;
    const Event& first = c->events[i];
    tt_Traffic& row = c->traffic[(uint64_t)first.pc << 1 | first.shared];
    row.pc = first.pc;
    row.write = first.write;
    row.shared = first.shared;
    count_request(&first, &first + (j - i), row);
    i = j;
  }
  c->events.clear();
}

}  // namespace tt
