// SPDX-License-Identifier: Apache-2.0
#include "bindings/convert_values.h"

#include <algorithm>

#include "errors.h"

namespace chatspace {
namespace {

Phase to_phase(const std::string& name) {
  return name == "prompt" ? Phase::kPrompt : name == "generation" ? Phase::kGeneration : Phase::kAll;
}

void read_positions(const Fields& fields, Scope& scope) {
  scope.has_positions = !fields.absent("positions");
  const std::vector<int32_t> pairs = fields.ints("positions");
  for (size_t i = 0; i + 1 < pairs.size(); i += 2) scope.positions.emplace_back(pairs[i], pairs[i + 1]);
}

int32_t clamp_to_int32(double value) {
  return value >= 2147483647.0 ? 2147483647 : static_cast<int32_t>(value);
}

SteerKind to_kind(const std::string& op) {
  static const std::pair<const char*, SteerKind> kinds[] = {
      {"add", SteerKind::kAdd},         {"cap", SteerKind::kCap},         {"ablate", SteerKind::kAblate},
      {"replace", SteerKind::kReplace}, {"rotate", SteerKind::kRotate},   {"addNorm", SteerKind::kAddNorm},
      {"swap", SteerKind::kSwap},       {"subspace", SteerKind::kSubspace}};
  for (const auto& [name, kind] : kinds) {
    if (op == name) return kind;
  }
  throw Error("ERR_NATIVE_ARGUMENT", text("op: expected the name of an operation, got ", op));
}

GateSpec to_gate(const Fields& fields) {
  GateSpec spec;
  spec.site = fields.string("site");
  spec.direction = fields.floats("direction");
  spec.threshold = static_cast<float>(fields.number("threshold"));
  spec.above = fields.boolean("above");
  spec.cosine = fields.boolean("cosine");
  spec.latch = fields.boolean("latch");
  return spec;
}

OperationSpec to_operation(const Fields& fields) {
  OperationSpec spec;
  spec.site = fields.string("site");
  spec.kind = to_kind(fields.string("op"));
  spec.vector = fields.floats("vector");
  spec.second = fields.floats("second");
  spec.scale = static_cast<float>(fields.number("scale"));
  spec.min = static_cast<float>(fields.number("min"));
  spec.max = static_cast<float>(fields.number("max"));
  spec.mean = static_cast<float>(fields.number("mean"));
  spec.amount = static_cast<float>(fields.number("amount"));
  spec.keep_norm = fields.boolean("keepNorm");
  spec.scope.phase = to_phase(fields.string("phase"));
  read_positions(fields, spec.scope);
  spec.scope.after_generated = clamp_to_int32(fields.number("afterGenerated"));
  spec.scope.first_generated = clamp_to_int32(fields.number("firstGenerated"));
  spec.scope.token_ids = fields.ints("tokenIds");
  const std::vector<float> points = fields.floats("schedule");
  for (size_t i = 0; i + 1 < points.size(); i += 2) spec.schedule.points.emplace_back(points[i], points[i + 1]);
  if (!fields.absent("gate")) spec.gate = to_gate(fields.object("gate"));
  return spec;
}

void read_reduction(const Fields& fields, CaptureSpec& spec) {
  const std::string kind = fields.string("kind");
  spec.reduce = kind == "directions" ? Reduce::kDirections : kind == "encoder" ? Reduce::kEncoder : Reduce::kLens;
  spec.weight = fields.floats("weight");
  spec.bias = fields.floats("bias");
  spec.relu = fields.boolean("relu");
  spec.cosine = fields.boolean("cosine");
  spec.top_k = fields.integer("topK");
}

CaptureSpec to_capture(const Fields& fields) {
  CaptureSpec spec;
  spec.site = fields.string("site");
  spec.scope.phase = to_phase(fields.string("phase"));
  read_positions(fields, spec.scope);
  const std::string pool = fields.string("pool");
  spec.pool = pool == "mean" ? Pool::kMean : pool == "last" ? Pool::kLast : pool == "first" ? Pool::kFirst : Pool::kNone;
  if (!fields.absent("reduce")) read_reduction(fields.object("reduce"), spec);
  return spec;
}

CaptureSpec to_probe(const Fields& fields) {
  CaptureSpec spec;
  spec.site = fields.string("site");
  spec.reduce = Reduce::kDirections;
  spec.weight = fields.floats("direction");
  spec.cosine = fields.boolean("cosine");
  return spec;
}

SamplingSpec to_sampling(const Fields& fields) {
  SamplingSpec spec;
  spec.temperature = fields.number("temperature");
  spec.top_k = fields.integer("topK");
  spec.top_p = fields.number("topP");
  spec.min_p = fields.number("minP");
  spec.repetition_penalty = fields.number("repetitionPenalty");
  spec.presence_penalty = fields.number("presencePenalty");
  spec.frequency_penalty = fields.number("frequencyPenalty");
  spec.seed = static_cast<uint64_t>(fields.number("seed"));
  spec.bias_ids = fields.ints("biasIds");
  spec.bias_values = fields.floats("biasValues");
  if (spec.bias_ids.size() != spec.bias_values.size()) {
    throw Error("ERR_NATIVE_ARGUMENT", "biasIds and biasValues differ in length");
  }
  return spec;
}

WeightSource to_source(const Fields& fields) {
  WeightSource source;
  source.file = fields.string("file");
  source.offset = fields.integer("offset");
  source.bytes = fields.integer("bytes");
  source.type = fields.string("type");
  source.shape = fields.numbers("shape");
  source.transpose = fields.boolean("transpose");
  source.rope_heads = fields.integer("ropeHeads");
  source.row_start = fields.integer("rowStart");
  source.rows = fields.integer("rows");
  source.addend = fields.number("addend");
  source.store = fields.string("store");
  return source;
}

AttributePlan to_attribute(const Fields& fields) {
  AttributePlan plan{fields.string("name"), int64_t{0}};
  const std::string type = fields.string("type");
  if (type == "int") {
    plan.value = fields.integer("value");
  } else if (type == "float") {
    plan.value = fields.number("value");
  } else if (type == "bool") {
    plan.value = fields.boolean("value");
  } else {
    plan.value = fields.string("value");
  }
  return plan;
}

}  // namespace

LoadOptions to_load_options(const Fields& fields) {
  LoadOptions options;
  options.path = fields.string("path");
  options.device = fields.string("device");
  options.dtype = fields.string("dtype");
  if (!fields.absent("quantize")) options.quantize = fields.string("quantize");
  if (!fields.absent("activations")) options.activations = fields.string("activations");
  options.threads = static_cast<int>(std::max<int64_t>(1, fields.integer("threads")));
  options.layers_path = fields.absent("layersPath") ? "" : fields.string("layersPath");
  options.token_budget = std::max<int64_t>(1, fields.integer("tokenBudget"));
  options.max_batch = std::max<int64_t>(1, fields.integer("maxBatch"));
  options.cache_bytes = std::max<int64_t>(0, fields.integer("cacheBytes"));
  options.cuda_graphs = !fields.absent("cudaGraphs") && fields.string("cudaGraphs") == "on";
  options.flash_attention = !fields.absent("flashAttention") && fields.string("flashAttention") == "on";
  options.reproducible = !fields.absent("reproducible") && fields.boolean("reproducible");
  return options;
}

RequestSpec to_request(const Fields& fields) {
  RequestSpec spec;
  for (int32_t token : fields.ints("tokens")) spec.tokens.push_back(token);
  if (spec.tokens.empty()) throw Error("ERR_PROMPT_EMPTY", "tokens: expected at least one");
  spec.given_rows = fields.ints("embeddingRows");
  spec.given = fields.floats("embeddings");
  spec.max_tokens = fields.integer("maxTokens");
  spec.min_tokens = fields.integer("minTokens");
  spec.stop_ids = fields.ints("stopIds");
  spec.stop_bytes = fields.byte_strings("stopBytes");
  spec.sampling = to_sampling(fields.object("sampling"));
  spec.logprobs = fields.integer("logprobs");
  spec.prompt_logprobs = fields.boolean("promptLogprobs");
  spec.reuse = fields.absent("reuse") || fields.boolean("reuse");
  const std::string logits = fields.string("logits");
  spec.logits = logits == "all" ? LogitsWanted::kAll : logits == "last" ? LogitsWanted::kLast : LogitsWanted::kNone;
  for (const Fields& operation : fields.objects("program")) spec.program.push_back(to_operation(operation));
  for (const Fields& capture : fields.objects("captures")) spec.captures.push_back(to_capture(capture));
  if (!fields.absent("stream")) {
    const Fields stream = fields.object("stream");
    spec.stream = true;
    spec.buffer_bytes = std::max<int64_t>(2, stream.integer("bufferBytes"));
    // A chunk that is not yet sent must fit beside what a request may have out when it is not paused.
    spec.chunk_bytes = std::clamp<int64_t>(stream.integer("chunkBytes"), 0, spec.buffer_bytes / 2);
  }
  if (!fields.absent("probes")) {
    for (const Fields& probe : fields.objects("probes")) spec.probes.push_back(to_probe(probe));
  }
  return spec;
}

ConvertPlan to_convert_plan(const Fields& fields) {
  ConvertPlan plan;
  plan.output = fields.string("output");
  plan.dtype = fields.string("dtype");
  for (const Fields& source : fields.objects("sources")) {
    plan.sources.emplace_back(source.string("kind"), source.string("text"));
  }
  for (const Fields& module : fields.objects("modules")) {
    ModulePlan out;
    out.path = module.string("path");
    out.kind = module.string("kind");
    for (const Fields& attribute : module.objects("attributes")) out.attributes.push_back(to_attribute(attribute));
    for (const Fields& weight : module.objects("weights")) {
      WeightPlan w{weight.string("name"), weight.boolean("optional"), std::nullopt};
      if (!weight.absent("source")) w.source = to_source(weight.object("source"));
      out.weights.push_back(std::move(w));
    }
    plan.modules.push_back(std::move(out));
  }
  plan.cache = fields.string("cache");
  for (const Fields& file : fields.objects("extraFiles")) {
    plan.extra_files.emplace_back(file.string("name"), file.bytes("bytes"));
  }
  return plan;
}

namespace {

constexpr size_t kCopyBelow = 1 << 14;  // floats; a small copy costs less than a finalizer

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
