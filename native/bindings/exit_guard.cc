// SPDX-License-Identifier: Apache-2.0
#include "bindings/exit_guard.h"

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace chatspace {
namespace {

std::atomic<int> busy{0};

}  // namespace

BusyThread::BusyThread() { busy.fetch_add(1); }
BusyThread::~BusyThread() { busy.fetch_sub(1); }

void stop_before_exit(const std::list<std::weak_ptr<Engine>>& engines) {
  for (const auto& weak : engines) {
    auto engine = weak.lock();
    if (engine == nullptr) continue;
    auto counted = std::make_unique<BusyThread>();
    std::thread([engine = std::move(engine), counted = std::move(counted)]() mutable {
      engine->shutdown();
      engine.reset();
      counted.reset();
    }).detach();
  }
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (busy.load() > 0) {
    if (std::chrono::steady_clock::now() > limit) {
      // The newest handler runs first, before any destructor.
      on_exit([](int status, void*) { if (busy.load() > 0) _exit(status); }, nullptr);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace chatspace
