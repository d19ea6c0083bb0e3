// SPDX-License-Identifier: Apache-2.0
// The end of the process while native threads run. process.exit() runs no environment cleanup: it goes
// straight to exit(), which destroys libtorch's statics under threads that still use them. So the addon
// listens to process's "exit" event: engines are stopped there, and if a thread does not end soon (a long
// load, a conversion) the process leaves without destructors, with the exit code it was given.
#pragma once

#include <list>
#include <memory>

#include "engine/engine.h"

namespace chatspace {

// Counts a thread that exit() must not run over.
class BusyThread {
 public:
  BusyThread();
  ~BusyThread();
  BusyThread(const BusyThread&) = delete;
  BusyThread& operator=(const BusyThread&) = delete;
};

// Stops the engines and waits, for a second at most, until no thread is busy.
void stop_before_exit(const std::list<std::weak_ptr<Engine>>& engines);

}  // namespace chatspace
