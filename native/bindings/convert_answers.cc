// SPDX-License-Identifier: Apache-2.0
// What goes out: facts about a model, events of a request, counters, errors.
#include "bindings/convert_values.h"

namespace chatspace {
namespace {

constexpr size_t kCopyBelow = 1 << 11;  // floats; a small copy costs less than a finalizer

template <typename Floats>
Napi::Float32Array float32_of(Napi::Env env, Floats values) {
  if (values.size() >= kCopyBelow) {
    auto* owned = new Floats(std::move(values));
    try {
      const size_t count = owned->size();
      auto buffer = Napi::ArrayBuffer::New(
          env, owned->data(), count * sizeof(float), [](Napi::BasicEnv, void*, Floats* v) { delete v; }, owned);
      return Napi::Float32Array::New(env, count, buffer, 0);
    } catch (const Napi::Error&) {
      // Hosts with pointer compression refuse memory that is not theirs.
      values = std::move(*owned);
      delete owned;
    }
  }
  auto array = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
  return array;
}

Napi::Array captures_to_js(Napi::Env env, std::vector<CaptureResult>& list) {
  Napi::Array array = Napi::Array::New(env, list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    CaptureResult& capture = list[i];
    Napi::Object each = Napi::Object::New(env);
    each.Set("site", capture.site);
    each.Set("positions", to_int32(env, capture.rows.positions));
    each.Set("indices", to_int32(env, capture.rows.indices));
    each.Set("data", to_float32(env, std::move(capture.rows.data)));
    each.Set("width", Napi::Number::New(env, static_cast<double>(capture.width)));
    array.Set(static_cast<uint32_t>(i), each);
  }
  return array;
}

}  // namespace

Napi::Float32Array to_float32(Napi::Env env, std::vector<float> values) { return float32_of(env, std::move(values)); }

Napi::Float32Array to_float32(Napi::Env env, RowBuffer values) { return float32_of(env, std::move(values)); }

Napi::Int32Array to_int32(Napi::Env env, const std::vector<int32_t>& values) {
  auto array = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(int32_t));
  return array;
}

Napi::Object to_js(Napi::Env env, const ModelInfo& info, const std::vector<Site>& sites) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("kind", info.own ? "own" : "foreign");
  out.Set("metadata", info.metadata);
  out.Set("layers", Napi::Number::New(env, static_cast<double>(info.layers)));
  out.Set("hiddenSize", Napi::Number::New(env, static_cast<double>(info.hidden_size)));
  out.Set("vocabSize", Napi::Number::New(env, static_cast<double>(info.vocab_size)));
  out.Set("contextLength", Napi::Number::New(env, static_cast<double>(info.context_length)));
  out.Set("device", info.device);
  out.Set("dtype", info.dtype);
  out.Set("quantize", info.quantize);
  out.Set("activations", info.activations);
  out.Set("forward", info.forward);
  out.Set("threads", Napi::Number::New(env, info.threads));
  out.Set("layerOutput", info.layer_output);
  out.Set("layersPath", info.layers_path);
  Napi::Array list = Napi::Array::New(env, sites.size());
  for (size_t i = 0; i < sites.size(); ++i) {
    Napi::Object site = Napi::Object::New(env);
    site.Set("name", sites[i].name);
    site.Set("path", sites[i].path);
    site.Set("width", Napi::Number::New(env, static_cast<double>(sites[i].width)));
    list.Set(static_cast<uint32_t>(i), site);
  }
  out.Set("sites", list);
  out.Set("cached", Napi::Boolean::New(env, info.cached));
  out.Set("weightBytes", Napi::Number::New(env, static_cast<double>(info.weight_bytes)));
  out.Set("weightHash", info.weight_hash);
  return out;
}

Napi::Object to_js(Napi::Env env, TokenBatch batch) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("type", "tokens");
  out.Set("tokens", to_int32(env, batch.tokens));
  out.Set("logprobs", to_float32(env, std::move(batch.logprobs)));
  out.Set("topIds", to_int32(env, batch.top_ids));
  out.Set("topLogprobs", to_float32(env, std::move(batch.top_logprobs)));
  out.Set("probes", to_float32(env, std::move(batch.probes)));
  return out;
}

Napi::Object to_js(Napi::Env env, CaptureBatch batch) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("type", "captures");
  out.Set("captures", captures_to_js(env, batch.captures));
  out.Set("bytes", Napi::Number::New(env, static_cast<double>(batch.bytes)));
  return out;
}

Napi::Object to_js(Napi::Env env, Result result) {
  Napi::Object out = Napi::Object::New(env);
  const auto number = [env](double value) { return Napi::Number::New(env, value); };
  out.Set("type", "done");
  out.Set("finish", result.finish);
  out.Set("stopIndex", number(static_cast<double>(result.stop_index)));
  out.Set("tokens", to_int32(env, result.tokens));
  out.Set("promptLogprobs", to_float32(env, std::move(result.prompt_logprobs)));
  out.Set("logits", to_float32(env, std::move(result.logits)));
  out.Set("captures", captures_to_js(env, result.captures));
  out.Set("probes", captures_to_js(env, result.probes));
  auto touched = Napi::Float64Array::New(env, result.counters.size());
  auto change = Napi::Float64Array::New(env, result.counters.size());
  for (size_t i = 0; i < result.counters.size(); ++i) {
    touched[i] = static_cast<double>(result.counters[i].rows);
    change[i] = result.counters[i].change_norm;
  }
  auto reused = Napi::Float64Array::New(env, result.reused.size());
  for (size_t i = 0; i < result.reused.size(); ++i) reused[i] = static_cast<double>(result.reused[i]);
  out.Set("touched", touched);
  out.Set("reused", reused);
  out.Set("changeNorms", change);
  out.Set("promptTokens", number(static_cast<double>(result.prompt_tokens)));
  out.Set("cachedTokens", number(static_cast<double>(result.cached_tokens)));
  out.Set("queuedMs", number(result.queued_ms));
  out.Set("promptMs", number(result.prompt_ms));
  out.Set("generateMs", number(result.generate_ms));
  out.Set("queuedSteps", number(static_cast<double>(result.queued_steps)));
  out.Set("promptSteps", number(static_cast<double>(result.prompt_steps)));
  out.Set("generateSteps", number(static_cast<double>(result.generate_steps)));
  out.Set("preemptions", number(static_cast<double>(result.preemptions)));
  return out;
}

Napi::Object to_js(Napi::Env env, const EngineStats& stats) {
  Napi::Object out = Napi::Object::New(env);
  const auto set = [&](const char* name, auto value) {
    out.Set(name, Napi::Number::New(env, static_cast<double>(value)));
  };
  set("running", stats.running);
  set("waiting", stats.waiting);
  set("requests", stats.requests);
  set("programs", stats.programs);
  set("steps", stats.steps);
  set("promptTokens", stats.prompt_tokens);
  set("generatedTokens", stats.generated_tokens);
  set("cachedTokens", stats.cached_tokens);
  set("recomputedTokens", stats.recomputed_tokens);
  set("preemptions", stats.preemptions);
  set("stepRows", stats.step_rows);
  set("stepSequences", stats.step_sequences);
  set("largestStepRows", stats.largest_step_rows);
  set("meanStepRows", stats.mean_step_rows);
  set("meanStepSequences", stats.mean_step_sequences);
  set("stepSeconds", stats.step_seconds);
  set("promptTokensPerSecond", stats.prompt_tokens_per_second);
  set("generatedTokensPerSecond", stats.generated_tokens_per_second);
  set("graphsRecorded", stats.graphs.recorded);
  set("graphSteps", stats.graphs.replayed);
  set("graphOverflows", stats.graphs.overflowed);
  set("flashLayers", stats.flash_layers);
  set("cacheBlocks", stats.cache_blocks);
  set("cacheBlocksUsed", stats.cache_blocks_used);
  set("cacheBlocksKept", stats.cache_blocks_kept);
  set("cacheLookups", stats.cache_lookups);
  set("cacheHits", stats.cache_hits);
  set("cacheEvictions", stats.cache_evictions);
  set("weightBytes", stats.weight_bytes);
  set("cacheBytes", stats.cache_bytes);
  set("captureBytes", stats.capture_bytes);
  return out;
}

Napi::Error to_js_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  error.Set("details", Napi::String::New(env, failure.details));
  return error;
}

}  // namespace chatspace
