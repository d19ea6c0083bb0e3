// SPDX-License-Identifier: Apache-2.0
#include "bindings/env_data.h"

#include <atomic>

#include "bindings/exit_guard.h"

namespace chatspace {

void EnvData::install(Napi::Env env) {
  auto* data = new EnvData();
  data->queue_ = std::make_shared<JsQueue>(env);
  env.SetInstanceData(data);
  // Registered after the queue's own hook, so it runs before it: threads end while posting is safe.
  env.AddCleanupHook([](EnvData* self) { self->close(); }, data);
  const Napi::Object process = env.Global().Get("process").As<Napi::Object>();
  const auto leave = [](const Napi::CallbackInfo& info) { stop_before_exit(EnvData::of(info.Env()).engines_); };
  process.Get("once").As<Napi::Function>().Call(
      process, {Napi::String::New(env, "exit"), Napi::Function::New(env, leave, "chatspaceSteerExit")});
}

void EnvData::background(std::function<void()> work) {
  reap(false);
  auto done = std::make_shared<std::atomic<bool>>(false);
  workers_.push_back({std::thread([work = std::move(work), done, counted = std::make_unique<BusyThread>()]() mutable {
                        work();
                        done->store(true);
                        counted.reset();
                      }),
                      done});
}

void EnvData::reap(bool all) {
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (!all && !it->done->load()) {
      ++it;
      continue;
    }
    it->thread.join();
    it = workers_.erase(it);
  }
  engines_.remove_if([](const auto& engine) { return engine.expired(); });
}

void EnvData::close() {
  for (const auto& weak : engines_) {
    if (auto engine = weak.lock()) engine->shutdown();
  }
  reap(true);
  model_class.Reset();
  queue_->close();
}

}  // namespace chatspace
