// Crashes and endless loops inside a kernel become faults: signal handlers that jump out, and a watchdog thread.
#pragma once
#include <condition_variable>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "worker.hpp"

namespace tt {

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t pc_of(void* context) {
#if defined(__x86_64__) && defined(__linux__)
  return (uint64_t)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__) && defined(__linux__)
  return ((ucontext_t*)context)->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

static const int CAUGHT[] = {SIGSEGV, SIGBUS, SIGFPE, SIGURG};
static struct sigaction previous[4];

static void on_signal(int number, siginfo_t* info, void* context) {
  Worker* w = here;
  if (!w || !w->active || (number == SIGURG && w->busy)) {
    if (number == SIGURG) return;
    for (int i = 0; i < 3; ++i)
      if (CAUGHT[i] == number) sigaction(number, &previous[i], nullptr);  // runs again under the former handler
    return;
  }
  uint64_t pc = pc_of(context);
  uintptr_t address = (uintptr_t)info->si_addr;
  int kind = number == SIGURG ? TT_ENDLESS : number == SIGFPE ? TT_ARITHMETIC : TT_CRASH;
  if (kind == TT_CRASH && w->arena.is_guard(address)) kind = TT_STACK;
  if (kind == TT_ENDLESS && !(w->stop && w->stop->load()) && now() < w->launch->seconds) return;
  if (kind == TT_ENDLESS && pc - w->launch->module_base >= w->launch->module_bytes) {
    // in a function of the runtime or of libm: the next signal may find it in the kernel
    if (w->checker && w->hook_pc) pc = w->hook_pc - 1;
    else if (++w->misses < 100) return;
  }
  tt_Fault fault = describe(w, kind, nullptr, 0);
  if (pc) fault.pcs[fault.pc_count++] = pc - w->launch->module_base + 1;
  const Thread& t = w->thread[w->current];
  if (w->checker)
    for (int d = t.depth < 24 ? t.depth : 24; d > 0 && fault.pc_count < 16; --d)
      fault.pcs[fault.pc_count++] = w->calls[w->current][d - 1] - w->launch->module_base;
  fault.address = address;
  raise(w, fault);
}

static void install_handlers(Worker* w) {
  for (int i = 0; i < 4; ++i) {
    struct sigaction current;
    sigaction(CAUGHT[i], nullptr, &current);
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_signal) continue;
    previous[i] = current;
    struct sigaction ours = {};
    ours.sa_sigaction = on_signal;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    sigaction(CAUGHT[i], &ours, nullptr);
  }
  stack_t old;
  sigaltstack(nullptr, &old);
  if (!(old.ss_flags & SS_DISABLE)) return;
  constexpr size_t bytes = 64 << 10;
  if (!w->signal_stack) w->signal_stack = malloc(bytes);
  stack_t stack = {};
  stack.ss_sp = w->signal_stack;
  stack.ss_size = bytes;
  sigaltstack(&stack, nullptr);
}

// The stack goes with the worker, which may serve another host thread next.
static void remove_signal_stack(Worker* w) {
  stack_t old;
  if (!w->signal_stack || sigaltstack(nullptr, &old) || old.ss_sp != w->signal_stack) return;
  stack_t none = {};
  none.ss_flags = SS_DISABLE;
  sigaltstack(&none, nullptr);
}

// Sleeps while nothing runs; looks four times a second and signals the host threads of launches past their time.
struct Watchdog {
  std::mutex lock;
  std::condition_variable wake;
  std::vector<Worker*> watched;
  bool sleeping = false;
  pid_t owner = 0;

  void run() {
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
      if (watched.empty()) {
        sleeping = true;
        wake.wait(hold, [this] { return !watched.empty(); });
        sleeping = false;
      }
      double first = now() + 0.25;
      for (Worker* w : watched) first = first < w->launch->seconds ? first : w->launch->seconds;
      double left = first - now();
      if (left < 0.01) left = 0.01;
      wake.wait_for(hold, std::chrono::duration<double>(left));
      double time = now();
      for (Worker* w : watched)
        if (time >= w->launch->seconds || (w->stop && w->stop->load())) pthread_kill(w->host, SIGURG);
    }
  }
  void add(Worker* w) {
    std::unique_lock<std::mutex> hold(lock);
    if (owner != getpid()) {  // the first launch, or the first one after a fork
      owner = getpid();
      pthread_t thread;
      pthread_create(&thread, nullptr, [](void* self) -> void* { ((Watchdog*)self)->run(); return nullptr; }, this);
      pthread_detach(thread);
    }
    watched.push_back(w);
    if (sleeping) wake.notify_one();
  }
  void remove(Worker* w) {
    std::unique_lock<std::mutex> hold(lock);
    for (size_t i = 0; i < watched.size(); ++i)
      if (watched[i] == w) {
        watched[i] = watched.back();
        watched.pop_back();
        break;
      }
  }
};
static Watchdog& watchdog = *new Watchdog;  // never destroyed: its thread outlives main's statics
// A forked process has no such thread, but a condition on which one seems to wait: waking it would wait for ever.
static const int after_fork = pthread_atfork(nullptr, nullptr, [] { new (&watchdog) Watchdog; });

}  // namespace tt
