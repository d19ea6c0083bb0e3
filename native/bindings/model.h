// SPDX-License-Identifier: Apache-2.0
// NativeModel of src/native/contract.ts. The engine is shared with the background thread that shuts it
// down; the JavaScript object may die first. While requests run the object holds itself.
#pragma once

#include <napi.h>

#include <memory>

#include "bindings/env_data.h"
#include "engine/engine.h"

namespace chatspace {

class Model : public Napi::ObjectWrap<Model> {
 public:
  static void define(Napi::Env env);
  // Promise of a Model; loading happens on the engine's thread.
  static Napi::Value load(const Napi::CallbackInfo& info);

  explicit Model(const Napi::CallbackInfo& info);
  ~Model() override;

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value extra_file(const Napi::CallbackInfo& info);
  void set_token_bytes(const Napi::CallbackInfo& info);
  Napi::Value submit(const Napi::CallbackInfo& info);
  void abort(const Napi::CallbackInfo& info);
  void hold(const Napi::CallbackInfo& info);
  void acknowledge(const Napi::CallbackInfo& info);
  Napi::Value module_tree(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Engine& engine(Napi::Env env);

  std::shared_ptr<Engine> engine_;
  std::shared_ptr<JsQueue> queue_;
  Napi::ObjectReference info_;
  // What info() and friends answer from, fixed at load: the decoder itself belongs to its thread.
  std::shared_ptr<const struct ModelFacts> facts_;
};

}  // namespace chatspace
