// SPDX-License-Identifier: Apache-2.0
// Exports the names of NativeAddon (src/native/contract.ts), nothing else.
#include <napi.h>

#include "bindings/env_data.h"
#include "bindings/machine.h"
#include "bindings/model.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  using namespace chatspace;
  EnvData::install(env);
  Model::define(env);
  exports.Set("versions", versions(env));
  exports.Set("machine", Napi::Function::New<machine>(env, "machine"));
  exports.Set("load", Napi::Function::New<Model::load>(env, "load"));
  exports.Set("convert", Napi::Function::New<convert_archive>(env, "convert"));
  exports.Set("dequantize", Napi::Function::New<dequantize_values>(env, "dequantize"));
  exports.Set("profile", Napi::Function::New<profile_operators>(env, "profile"));
  exports.Set("profileSteps", Napi::Function::New<profile_steps>(env, "profileSteps"));
  exports.Set("readBandwidth", Napi::Function::New<read_bandwidth_gbs>(env, "readBandwidth"));
  return exports;
}

NODE_API_MODULE(chatspace_steer, init)
