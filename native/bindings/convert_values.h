// SPDX-License-Identifier: Apache-2.0
// Values between JavaScript and C++. TypeScript has checked the options; what is checked again here is
// what could corrupt memory or crash: types of typed arrays, presence of fields.
#pragma once

#include <napi.h>

#include <cstring>
#include <string>
#include <vector>

#include "archive/plan.h"
#include "decoder/decoder.h"
#include "engine/failure.h"
#include "engine/request.h"

namespace chatspace {

// Reads fields of a plain object; a missing or mistyped one throws a TypeError that names it.
class Fields {
 public:
  Fields(Napi::Object object, std::string where) : object_(object), where_(std::move(where)) {}

  Napi::Value value(const char* name) const;
  std::string string(const char* name) const;
  double number(const char* name) const;
  int64_t integer(const char* name) const { return static_cast<int64_t>(number(name)); }
  bool boolean(const char* name) const;
  bool absent(const char* name) const;
  Fields object(const char* name) const;
  std::vector<Fields> objects(const char* name) const;
  // A typed array's elements, copied. null gives an empty vector.
  std::vector<float> floats(const char* name) const;
  std::vector<int32_t> ints(const char* name) const;
  std::string bytes(const char* name) const;
  std::vector<std::string> byte_strings(const char* name) const;
  std::vector<int64_t> numbers(const char* name) const;

 private:
  [[noreturn]] void refuse(const char* name, const char* expected) const;
  Napi::Object object_;
  std::string where_;
};

LoadOptions to_load_options(const Fields& fields);
RequestSpec to_request(const Fields& fields);
ConvertPlan to_convert_plan(const Fields& fields);

Napi::Object to_js(Napi::Env env, const ModelInfo& info, const std::vector<Site>& sites);
Napi::Object to_js(Napi::Env env, TokenBatch batch);
Napi::Object to_js(Napi::Env env, CaptureBatch batch);
Napi::Object to_js(Napi::Env env, Result result);
Napi::Object to_js(Napi::Env env, const EngineStats& stats);
// An Error with code and details (a JSON string), as src/native maps it to a typed error.
Napi::Error to_js_error(Napi::Env env, const Failure& failure);

// Takes the vector over when it is large, copies when it is small or the host refuses foreign memory.
Napi::Float32Array to_float32(Napi::Env env, std::vector<float> values);
Napi::Float32Array to_float32(Napi::Env env, RowBuffer values);
Napi::Int32Array to_int32(Napi::Env env, const std::vector<int32_t>& values);

}  // namespace chatspace
