// SPDX-License-Identifier: Apache-2.0
// What comes in: options, requests, plans.
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

}  // namespace chatspace
