// SPDX-License-Identifier: Apache-2.0
#include "bindings/machine.h"

#include <torch/version.h>

#include "archive/writer.h"
#include "bindings/convert_values.h"
#include "bindings/env_data.h"
#include "decoder/device.h"
#include "errors.h"
#include "kernels/cpu_kernels.h"
#include "kernels/dequant.h"
#include "kernels/linear_cpu.h"
#include "kernels/profile.h"
#include "kernels/thread_pool.h"

#ifndef CHATSPACE_VERSION
#define CHATSPACE_VERSION "0.1.0"
#endif

namespace chatspace {

namespace {

constexpr int kContract = 1;  // CONTRACT_VERSION of src/native/contract.ts

}  // namespace

Napi::Object versions(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("addon", CHATSPACE_VERSION);
  out.Set("torch", TORCH_VERSION);
  out.Set("napi", Napi::Number::New(env, NAPI_VERSION));
  out.Set("contract", Napi::Number::New(env, kContract));
  return out;
}

Napi::Value machine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("isa", cpu_kernels().name);
  out.Set("cores", Napi::Number::New(env, usable_cores()));
  const std::vector<CudaDevice> devices = cuda_devices();
  Napi::Array list = Napi::Array::New(env, devices.size());
  for (size_t i = 0; i < devices.size(); ++i) {
    Napi::Object device = Napi::Object::New(env);
    device.Set("index", Napi::Number::New(env, static_cast<double>(i)));
    device.Set("name", devices[i].name);
    device.Set("bytes", Napi::Number::New(env, static_cast<double>(devices[i].bytes)));
    list.Set(static_cast<uint32_t>(i), device);
  }
  out.Set("cuda", list);
  return out;
}

Napi::Value dequantize_values(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string type = info[0].ToString();
  const double elements = info[2].ToNumber();
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(env, "bytes: expected a Uint8Array");
  }
  const auto bytes = info[1].As<Napi::Uint8Array>();
  const size_t need = elements >= 0 && elements < 9e15 ? type_bytes(type, static_cast<int64_t>(elements)) : 0;
  if (need == 0 && elements != 0) {
    throw to_js_error(env, {"ERR_WEIGHT_TYPE", text("weight type ", type, " of ", elements,
                                                    " elements is not supported"), "{}"});
  }
  if (need != bytes.ElementLength()) {
    throw to_js_error(env, {"ERR_NATIVE_ARGUMENT", text("bytes: expected ", need, " for ", elements, " elements of ",
                                                        type, ", got ", bytes.ElementLength()), "{}"});
  }
  std::vector<float> out(static_cast<size_t>(elements));
  if (!out.empty()) dequantize(type, bytes.Data(), static_cast<int64_t>(elements), out.data());
  return to_float32(env, std::move(out));
}

Napi::Value read_bandwidth_gbs(const Napi::CallbackInfo& info) {
  const int64_t bytes = info[0].ToNumber().Int64Value();
  const int threads = info[1].ToNumber().Int32Value();
  const int runs = info[2].ToNumber().Int32Value();
  return Napi::Number::New(info.Env(), read_bandwidth(bytes, threads, runs));
}

Napi::Value profile_operators(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string action = info[0].ToString();
  if (action == "stop") stop_profile();
  const Profile profile = read_profile();
  if (action == "start") start_profile();
  Napi::Array out = Napi::Array::New(env, profile.size());
  for (size_t i = 0; i < profile.size(); ++i) {
    const auto number = [env](int64_t value) { return Napi::Number::New(env, static_cast<double>(value)); };
    Napi::Object line = Napi::Object::New(env);
    line.Set("operator", operator_name(static_cast<Operator>(i)));
    line.Set("calls", number(profile[i].calls));
    line.Set("nanoseconds", number(profile[i].nanoseconds));
    line.Set("idleNanoseconds", number(profile[i].idle_nanoseconds));
    line.Set("bytes", number(profile[i].bytes));
    out.Set(static_cast<uint32_t>(i), line);
  }
  return out;
}

Napi::Value profile_steps(const Napi::CallbackInfo& info) {
  const std::vector<StepMark> marks = read_step_marks();
  const size_t width = 3 + static_cast<size_t>(Operator::kCount);
  Napi::Float64Array out = Napi::Float64Array::New(info.Env(), marks.size() * width);
  double* to = out.Data();
  for (const StepMark& mark : marks) {
    *to++ = static_cast<double>(mark.rows);
    *to++ = static_cast<double>(mark.end);
    *to++ = static_cast<double>(mark.processor);
    for (int64_t nanoseconds : mark.nanoseconds) *to++ = static_cast<double>(nanoseconds);
  }
  return out;
}

Napi::Value convert_archive(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ConvertPlan plan;
  try {
    plan = to_convert_plan(Fields(info[0].As<Napi::Object>(), "convert"));
  } catch (const Error& error) {
    throw to_js_error(env, guard([&] { throw error; }));
  }
  auto queue = EnvData::of(env).queue();
  const uint64_t progress = info[1].IsFunction() ? queue->keep(info[1].As<Napi::Function>()) : 0;
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  queue->hold(env);
  EnvData::of(env).background([plan = std::move(plan), queue, progress, deferred] {
    const Failure failure = guard([&] {
      write_archive(plan, [&](int64_t done, int64_t total) {
        if (progress == 0) return;
        queue->post([queue, progress, done, total](Napi::Env js) {
          const Napi::Function callback = queue->callback(progress);
          if (callback.IsEmpty()) return;
          callback.Call({Napi::Number::New(js, static_cast<double>(done)),
                         Napi::Number::New(js, static_cast<double>(total))});
        });
      });
    });
    queue->post([queue, progress, deferred, failure](Napi::Env js) {
      queue->forget(progress);
      queue->release(js);
      if (failure) {
        deferred->Reject(to_js_error(js, failure).Value());
      } else {
        deferred->Resolve(js.Undefined());
      }
    });
  });
  return deferred->Promise();
}

}  // namespace chatspace
