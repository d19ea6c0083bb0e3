// SPDX-License-Identifier: Apache-2.0
// Carries one request's events to JavaScript. Tokens that arrive before JavaScript has looked are
// joined into one event, so a slow reader costs memory for its own tokens and nothing else.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "bindings/convert_values.h"
#include "bindings/js_queue.h"

namespace chatspace {

class RequestSink : public Sink, public std::enable_shared_from_this<RequestSink> {
 public:
  // `settled` runs on the JavaScript thread after the last event.
  RequestSink(std::shared_ptr<JsQueue> queue, uint64_t callback, JsQueue::Task settled)
      : queue_(std::move(queue)), callback_(callback), settled_(std::move(settled)) {}

  void on_tokens(TokenBatch batch) override {
    std::lock_guard<std::mutex> lock(mutex_);
    append(pending_.tokens, batch.tokens);
    append(pending_.logprobs, batch.logprobs);
    append(pending_.top_ids, batch.top_ids);
    append(pending_.top_logprobs, batch.top_logprobs);
    append(pending_.probes, batch.probes);
    if (posted_) return;
    posted_ = true;
    queue_->post([self = shared_from_this()](Napi::Env env) { self->deliver_tokens(env); });
  }

  // Not joined: the engine has made pieces of the size asked for, and stops when too many are out.
  void on_captures(CaptureBatch batch) override {
    auto shared = std::make_shared<CaptureBatch>(std::move(batch));
    queue_->post([self = shared_from_this(), shared](Napi::Env env) {
      const Napi::Function callback = self->queue_->callback(self->callback_);
      if (!callback.IsEmpty()) callback.Call({to_js(env, std::move(*shared))});
    });
  }

  void on_done(Result result) override {
    auto shared = std::make_shared<Result>(std::move(result));
    queue_->post([self = shared_from_this(), shared](Napi::Env env) {
      self->deliver_tokens(env);
      self->last(env, to_js(env, std::move(*shared)));
    });
  }

  void on_error(const std::string& code, const std::string& message, const std::string& details) override {
    queue_->post([self = shared_from_this(), code, message, details](Napi::Env env) {
      Napi::Object event = Napi::Object::New(env);
      event.Set("type", "error");
      event.Set("code", code);
      event.Set("message", message);
      event.Set("details", details);
      self->last(env, event);
    });
  }

 private:
  template <typename T>
  static void append(std::vector<T>& to, const std::vector<T>& from) {
    to.insert(to.end(), from.begin(), from.end());
  }

  void deliver_tokens(Napi::Env env) {
    TokenBatch batch;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      std::swap(batch, pending_);
      posted_ = false;
    }
    if (batch.tokens.empty()) return;
    const Napi::Function callback = queue_->callback(callback_);
    if (!callback.IsEmpty()) callback.Call({to_js(env, std::move(batch))});
  }

  void last(Napi::Env env, Napi::Object event) {
    const Napi::Function callback = queue_->callback(callback_);
    queue_->forget(callback_);
    settled_(env);
    if (!callback.IsEmpty()) callback.Call({event});
  }

  std::shared_ptr<JsQueue> queue_;
  uint64_t callback_;
  JsQueue::Task settled_;
  std::mutex mutex_;
  TokenBatch pending_;
  bool posted_ = false;
};

}  // namespace chatspace
