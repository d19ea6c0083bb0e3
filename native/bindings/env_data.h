// SPDX-License-Identifier: Apache-2.0
// State of one JavaScript environment (the main thread or a worker): its queue, the engines it opened,
// the threads that still work for it. Freed by the environment's cleanup hook, which joins every thread
// before anything static dies.
#pragma once

#include <napi.h>

#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "bindings/js_queue.h"
#include "engine/engine.h"

namespace chatspace {

class EnvData {
 public:
  static EnvData& of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }
  static void install(Napi::Env env);

  const std::shared_ptr<JsQueue>& queue() const { return queue_; }
  // Runs `work` on a thread of its own, joined at the latest when the environment ends.
  void background(std::function<void()> work);
  void track(const std::shared_ptr<Engine>& engine) { engines_.push_back(engine); }
  Napi::FunctionReference model_class;

 private:
  void close();
  void reap(bool all);

  struct Worker {
    std::thread thread;
    std::shared_ptr<std::atomic<bool>> done;
  };
  std::shared_ptr<JsQueue> queue_;
  std::list<std::weak_ptr<Engine>> engines_;
  std::list<Worker> workers_;
};

}  // namespace chatspace
