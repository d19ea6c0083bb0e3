// SPDX-License-Identifier: Apache-2.0
#include "bindings/convert_values.h"

namespace chatspace {

void Fields::refuse(const char* name, const char* expected) const {
  Napi::TypeError error =
      Napi::TypeError::New(object_.Env(), where_ + "." + name + ": expected " + expected);
  error.Set("code", "ERR_NATIVE_ARGUMENT");
  throw error;
}

Napi::Value Fields::value(const char* name) const { return object_.Get(name); }

std::string Fields::string(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsString()) refuse(name, "a string");
  return v.As<Napi::String>();
}

double Fields::number(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsNumber()) refuse(name, "a number");
  return v.As<Napi::Number>().DoubleValue();
}

bool Fields::boolean(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsBoolean()) refuse(name, "a boolean");
  return v.As<Napi::Boolean>();
}

bool Fields::absent(const char* name) const {
  const Napi::Value v = value(name);
  return v.IsNull() || v.IsUndefined();
}

Fields Fields::object(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsObject()) refuse(name, "an object");
  return Fields(v.As<Napi::Object>(), where_ + "." + name);
}

std::vector<Fields> Fields::objects(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsArray()) refuse(name, "an array");
  const Napi::Array array = v.As<Napi::Array>();
  std::vector<Fields> out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value element = array.Get(i);
    if (!element.IsObject()) refuse(name, "an array of objects");
    out.emplace_back(element.As<Napi::Object>(), where_ + "." + name + "[" + std::to_string(i) + "]");
  }
  return out;
}

std::vector<float> Fields::floats(const char* name) const {
  if (absent(name)) return {};
  const Napi::Value v = value(name);
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    refuse(name, "a Float32Array");
  }
  const auto array = v.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<int32_t> Fields::ints(const char* name) const {
  if (absent(name)) return {};
  const Napi::Value v = value(name);
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    refuse(name, "an Int32Array");
  }
  const auto array = v.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

namespace {

bool is_bytes(const Napi::Value& v) {
  return v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
}

std::string text_of(const Napi::Value& v) {
  const auto array = v.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(array.Data()), array.ElementLength()};
}

}  // namespace

std::string Fields::bytes(const char* name) const {
  const Napi::Value v = value(name);
  if (!is_bytes(v)) refuse(name, "a Uint8Array");
  return text_of(v);
}

std::vector<std::string> Fields::byte_strings(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsArray()) refuse(name, "an array of Uint8Array");
  const Napi::Array array = v.As<Napi::Array>();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value element = array.Get(i);
    if (!is_bytes(element)) refuse(name, "an array of Uint8Array");
    out.push_back(text_of(element));
  }
  return out;
}

std::vector<int64_t> Fields::numbers(const char* name) const {
  const Napi::Value v = value(name);
  if (!v.IsArray()) refuse(name, "an array of numbers");
  const Napi::Array array = v.As<Napi::Array>();
  std::vector<int64_t> out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value element = array.Get(i);
    if (!element.IsNumber()) refuse(name, "an array of numbers");
    out.push_back(element.As<Napi::Number>().Int64Value());
  }
  return out;
}

}  // namespace chatspace
