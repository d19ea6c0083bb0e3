// SPDX-License-Identifier: Apache-2.0
// The cores of the process, shared by the models that have work: one model alone gets the threads it asked
// for; several get their parts, so that two of them do not run four threads on two cores. A model counts
// while its engine has requests, not while it is loaded.
#pragma once

#include <vector>

#include "kernels/thread_pool.h"

namespace chatspace {

// Threads of each of several models that asked for `wanted` on `cores` cores: what they asked for where
// that fits, else in proportion, at least one each; cores left over by rounding go to the first.
std::vector<int> share_cores(int cores, const std::vector<int>& wanted);

// How worker threads are bound to cores: CHATSPACE_PIN=1 gives each worker of each running model a core of its
// own, 0 (the default) leaves placement to the system.
bool pinning();

// One pool's claim. Made and destroyed by the pool's owner while the pool lives; hold() may be called at
// every step: it does something only when it changes.
class CoreLease {
 public:
  explicit CoreLease(ThreadPool& pool) : pool_(pool) {}
  ~CoreLease() { hold(false); }
  CoreLease(const CoreLease&) = delete;
  CoreLease& operator=(const CoreLease&) = delete;
  void hold(bool work);

 private:
  ThreadPool& pool_;
  bool held_ = false;
};

// Models that hold a lease now.
int running_models();

}  // namespace chatspace
