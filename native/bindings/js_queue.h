// SPDX-License-Identifier: Apache-2.0
// The way from any thread back to JavaScript: one queue an environment, drained on its thread. Posting
// never blocks and never fails loudly: what is posted to a closed environment is dropped.
//
// JavaScript functions that wait for something live in `callbacks`, touched on the JavaScript thread
// alone; tasks carry their keys, so that a task which dies on another thread takes no reference along.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace chatspace {

class JsQueue {
 public:
  using Task = std::function<void(Napi::Env)>;

  explicit JsQueue(Napi::Env env);
  // Any thread.
  void post(Task task);

  // JavaScript thread. The environment stays alive while something is held.
  void hold(Napi::Env env);
  void release(Napi::Env env);
  void close();
  // After close() nothing reaches JavaScript any more.
  bool closed() const { return closed_; }

  uint64_t keep(Napi::Function callback);
  Napi::Function callback(uint64_t key);
  void forget(uint64_t key);

 private:
  static void drain(Napi::Env env, Napi::Function, JsQueue* queue, void*);
  using Function = Napi::TypedThreadSafeFunction<JsQueue, void, drain>;

  Function function_;
  std::unordered_map<uint64_t, Napi::FunctionReference> callbacks_;
  uint64_t next_key_ = 1;
  int64_t held_ = 0;

  std::mutex mutex_;
  std::vector<Task> tasks_;
  bool signalled_ = false;
  bool closed_ = false;
};

}  // namespace chatspace
