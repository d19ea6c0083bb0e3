// SPDX-License-Identifier: Apache-2.0
#include "bindings/js_queue.h"

namespace chatspace {

JsQueue::JsQueue(Napi::Env env) {
  function_ = Function::New(env, "chatspace.queue", 0, 1, this);
  function_.Unref(env);
}

void JsQueue::post(Task task) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  tasks_.push_back(std::move(task));
  if (signalled_) return;
  signalled_ = function_.NonBlockingCall() == napi_ok;
}

void JsQueue::drain(Napi::Env env, Napi::Function, JsQueue* queue, void*) {
  if (env == nullptr || queue == nullptr) return;
  std::vector<Task> tasks;
  {
    std::lock_guard<std::mutex> lock(queue->mutex_);
    tasks.swap(queue->tasks_);
    queue->signalled_ = false;
  }
  for (size_t i = 0; i < tasks.size(); ++i) {
    Napi::HandleScope scope(env);
    try {
      tasks[i](env);
    } catch (const Napi::Error& error) {
      // A callback of the user's threw: that is an uncaught exception, and no reason for others to wait.
      // Thrown from here it would only be a warning (DEP0168).
      napi_fatal_exception(env, error.Value());
    }
  }
}

void JsQueue::hold(Napi::Env env) {
  if (held_++ == 0) function_.Ref(env);
}

void JsQueue::release(Napi::Env env) {
  if (--held_ == 0) function_.Unref(env);
}

void JsQueue::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    closed_ = true;
    tasks_.clear();
  }
  callbacks_.clear();
  function_.Release();
}

uint64_t JsQueue::keep(Napi::Function callback) {
  const uint64_t key = next_key_++;
  callbacks_.emplace(key, Napi::Persistent(callback));
  return key;
}

Napi::Function JsQueue::callback(uint64_t key) {
  const auto found = callbacks_.find(key);
  return found == callbacks_.end() ? Napi::Function() : found->second.Value();
}

void JsQueue::forget(uint64_t key) { callbacks_.erase(key); }

}  // namespace chatspace
