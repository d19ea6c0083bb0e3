// SPDX-License-Identifier: Apache-2.0
#include "kernels/core_share.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#if defined(__linux__)
#include <sched.h>
#endif

namespace chatspace {
namespace {

// Never destroyed: engines of other environments may end after the process's static objects.
struct Registry {
  std::mutex mutex;
  std::vector<ThreadPool*> running;
  int cores = 0;             // the process may use, as it was at the first lease
  std::vector<int> allowed;  // their numbers
};

Registry& registry() {
  static Registry* all = new Registry();
  return *all;
}

std::vector<int> allowed_cores() {
  std::vector<int> out;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<size_t>(core), &set)) out.push_back(core);
    }
  }
#endif
  return out;
}

// The registry's mutex is held.
void divide(Registry& all) {
  std::vector<int> wanted;
  for (const ThreadPool* pool : all.running) wanted.push_back(pool->threads());
  const std::vector<int> shares = share_cores(all.cores, wanted);
  size_t next = 0;
  for (size_t i = 0; i < shares.size(); ++i) {
    ThreadPool& pool = *all.running[i];
    if (pool.width() != shares[i]) pool.set_width(shares[i]);
    if (!pinning()) continue;
    const auto share = static_cast<size_t>(shares[i]);
    std::vector<int> cores;
    if (next + share <= all.allowed.size()) {
      cores.assign(all.allowed.begin() + static_cast<int64_t>(next),
                   all.allowed.begin() + static_cast<int64_t>(next + share));
    }
    next += share;
    pool.pin(cores, all.allowed);
  }
}

}  // namespace

std::vector<int> share_cores(int cores, const std::vector<int>& wanted) {
  int64_t sum = 0;
  for (const int threads : wanted) sum += threads;
  if (wanted.size() <= 1 || sum <= cores) return wanted;
  std::vector<int> out;
  int given = 0;
  for (const int threads : wanted) {
    const auto part = static_cast<int>(static_cast<int64_t>(cores) * threads / sum);
    out.push_back(std::max(1, part));
    given += out.back();
  }
  for (size_t i = 0; i < out.size() && given < cores; ++i) {
    if (out[i] >= wanted[i]) continue;
    out[i] += 1;
    given += 1;
  }
  return out;
}

bool pinning() {
  static const bool on = [] {
    const char* wanted = std::getenv("CHATSPACE_PIN");
    return wanted != nullptr && std::strcmp(wanted, "1") == 0;
  }();
  return on;
}

void CoreLease::hold(bool work) {
  if (work == held_) return;
  held_ = work;
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.cores == 0) {
    all.cores = usable_cores();
    all.allowed = allowed_cores();
  }
  if (work) {
    all.running.push_back(&pool_);
  } else {
    all.running.erase(std::find(all.running.begin(), all.running.end(), &pool_));
    pool_.set_width(pool_.threads());
  }
  divide(all);
}

int running_models() {
  Registry& all = registry();
  std::lock_guard<std::mutex> lock(all.mutex);
  return static_cast<int>(all.running.size());
}

}  // namespace chatspace
