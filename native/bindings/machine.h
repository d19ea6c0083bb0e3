// SPDX-License-Identifier: Apache-2.0
// Functions of the addon that belong to no model: versions, the machine, dequantisation, bandwidth,
// conversion.
#pragma once

#include <napi.h>

namespace chatspace {

Napi::Object versions(Napi::Env env);
Napi::Value machine(const Napi::CallbackInfo& info);
Napi::Value dequantize_values(const Napi::CallbackInfo& info);
Napi::Value read_bandwidth_gbs(const Napi::CallbackInfo& info);
Napi::Value profile_operators(const Napi::CallbackInfo& info);
Napi::Value profile_steps(const Napi::CallbackInfo& info);
Napi::Value convert_archive(const Napi::CallbackInfo& info);

}  // namespace chatspace
