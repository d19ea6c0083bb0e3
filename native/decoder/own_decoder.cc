// SPDX-License-Identifier: Apache-2.0
#include "decoder/own_decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_set>

#include "archive/weights.h"
#include "decoder/join_matrices.h"
#include "decoder/memory.h"
#include "decoder/surgery.h"
#include "errors.h"

namespace chatspace {
namespace {

at::ScalarType dtype_of(const std::string& name) {
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  throw Error("ERR_DTYPE", text("dtype: expected float32, bfloat16 or float16, got ", name));
}

std::string name_of(at::ScalarType type) {
  return type == at::kBFloat16 ? "bfloat16" : type == at::kHalf ? "float16" : "float32";
}

Quantize quantize_of(const LoadOptions& options) {
  if (options.quantize == "none") return Quantize::kNone;
  if (options.quantize == "stored") return Quantize::kStored;
  if (options.quantize == "int8") return Quantize::kInt8;
  if (options.quantize == "int4") return Quantize::kInt4;
  throw Error("ERR_NATIVE_ARGUMENT", text("quantize: expected none, stored, int8 or int4, got ", options.quantize));
}

// Whether chatspace.json says that the matrices were quantised at conversion, at the user's word:
// "stored":{"dtype":...,"quantize":"int8"}.
bool quantized_at_conversion(const std::string& json) {
  const size_t at = json.find("\"stored\":{");
  if (at == std::string::npos) return false;
  const std::string form = json.substr(at, json.find('}', at) - at);
  return form.find("\"quantize\":\"int") != std::string::npos;
}

// auto: integer products where the matrices are quantised at the user's word, at load or at conversion; the
// exact ones of "stored" where nothing may be lost. CUDA has no integer products.
Activations activations_of(const LoadOptions& options, const std::string& metadata) {
  const bool asked = options.activations == "int16";
  if (asked && options.quantize == "none") {
    throw Error("ERR_ACTIVATIONS", text("activations int16: expected quantize stored, int8 or int4, got none"));
  }
  if (asked && options.device != "cpu") {
    throw Error("ERR_ACTIVATIONS", text("activations int16: expected device cpu, got ", options.device));
  }
  if (asked) return Activations::kInt16;
  if (options.activations == "float32") return Activations::kFloat32;
  if (options.activations != "auto") {
    throw Error("ERR_NATIVE_ARGUMENT",
                text("activations: expected auto, float32 or int16, got ", options.activations));
  }
  if (options.device != "cpu") return Activations::kFloat32;
  const bool asked_for_blocks = options.quantize == "int8" || options.quantize == "int4" ||
                                (options.quantize == "stored" && quantized_at_conversion(metadata));
  return asked_for_blocks ? Activations::kInt16 : Activations::kFloat32;
}

// An integer field of chatspace.json, which our own converter wrote.
int64_t field(const std::string& json, const std::string& name) {
  const size_t at = json.find("\"" + name + "\"");
  if (at == std::string::npos) return 0;
  const size_t digits = json.find_first_of("0123456789", at + name.size() + 2);
  return digits == std::string::npos ? 0 : std::strtoll(json.c_str() + digits, nullptr, 10);
}

// Bytes of all weights, a shared one counted once.
int64_t bytes_of(const torch::jit::Module& root) {
  std::unordered_set<const void*> seen;
  int64_t bytes = 0;
  for (const auto& module : root.modules()) {
    for (const auto& slot : module._ivalue()->slots()) {
      if (!slot.isTensor() || !slot.toTensor().defined()) continue;
      if (seen.insert(slot.toTensor().unsafeGetTensorImpl()).second) bytes += static_cast<int64_t>(slot.toTensor().nbytes());
    }
  }
  return bytes;
}

// Whether the graph's course depends on values that only the device knows.
bool asks_device(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    if (node->kind() == c10::aten::nonzero || node->kind() == c10::aten::item) return true;
    for (const torch::jit::Block* inner : node->blocks()) {
      if (asks_device(*inner)) return true;
    }
  }
  return false;
}

template <typename T>
at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType type, at::Device device) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(type));
  std::memcpy(host.data_ptr(), values.data(), values.size() * sizeof(T));
  return device.is_cpu() ? host : host.to(device);
}

}  // namespace

OwnDecoder::OwnDecoder(Archive archive, const LoadOptions& options)
    : module_(archive.module), max_batch_(options.max_batch) {
  extra_files_ = std::move(archive.extra_files);
  device_ = at::Device(options.device);
  const std::string& metadata = extra_files_["chatspace.json"];
  const std::string& table = extra_files_[kWeightsTable];
  info_.own = true;
  info_.metadata = metadata;
  info_.dtype = options.dtype == "auto" ? name_of(stored_dtype(table)) : options.dtype;
  info_.device = options.device;
  info_.threads = options.threads;
  info_.layer_output = "delta-residual";
  info_.layers_path = "layers";
  info_.layers = field(metadata, "layers");
  info_.hidden_size = field(metadata, "hiddenSize");
  info_.vocab_size = field(metadata, "vocabSize");
  info_.context_length = field(metadata, "contextLength");
  info_.weight_hash = archive.weight_hash;
  const at::ScalarType dtype = dtype_of(info_.dtype);
  info_.quantize = options.quantize;
  const Quantize quantize = quantize_of(options);
  const Activations activations = activations_of(options, metadata);
  if (!device_.is_cpu()) cuda_backend()->set_reproducible(options.reproducible);
  const int64_t in_blocks = materialize_weights(module_, table, dtype, device_, quantize, activations);
  if (in_blocks == 0 && options.activations == "int16") {
    throw Error("ERR_ACTIVATIONS", text("activations int16: expected quantised matrices, got none in ", options.path,
                                        " at quantize ", options.quantize));
  }
  info_.activations = in_blocks > 0 && activations == Activations::kInt16 ? "int16" : "float32";
  if (!device_.is_cpu()) join_matrices(module_);
  info_.weight_bytes = bytes_of(module_);
  cache_ = module_.attr("kv").toCustomClass<KVCache>();
  // The archive stores the object once per module that reads it; all of them get the root's.
  for (torch::jit::Module module : module_.modules()) {
    if (module.hasattr("kv")) module._ivalue()->setAttr("kv", module_.attr("kv"));
  }
  if (info_.layers != static_cast<int64_t>(cache_->layers().size()) || info_.hidden_size <= 0 ||
      info_.vocab_size <= 0) {
    throw Error("ERR_ARCHIVE_METADATA", text(options.path, ": chatspace.json names ", info_.layers,
                                             " layers, the archive's cache has ", cache_->layers().size()));
  }
  install_sites();
  size_cache(options, dtype);
  make_plans();
}

void OwnDecoder::install_sites() {
  Surgeon surgeon;
  // The order of the forward: within a layer attention, then MLP, then what the layer hands on.
  const auto add = [&](const std::string& name, const std::string& path, OutputForm form, int64_t order) {
    auto hook = c10::make_intrusive<SiteHook>();
    torch::jit::Module module = submodule(module_, path);
    surgeon.install(module, hook, form);
    sites_.add({name, path, info_.hidden_size, hook, order});
  };
  add("embed", "embed", {}, 0);
  for (int64_t layer = 0; layer < info_.layers; ++layer) {
    const std::string path = text("layers.", layer);
    add(path, path, {OutputForm::Kind::kPair, 0, 1}, 3 * layer + 3);
    add(path + ".attn", path + ".attn", {}, 3 * layer + 1);
    add(path + ".mlp", path + ".mlp", {}, 3 * layer + 2);
  }
  add("final", "norm", {}, 3 * info_.layers + 1);
}

int64_t OwnDecoder::context_blocks() const {
  const int64_t context = info_.context_length > 0 ? info_.context_length : 4096;
  return (context + kBlockTokens - 1) / kBlockTokens;
}

void OwnDecoder::size_cache(const LoadOptions& options, at::ScalarType dtype) {
  block_bytes_ = cache_->block_bytes(dtype);
  const int64_t budget = options.cache_bytes > 0 ? options.cache_bytes : available_memory(device_) / 4;
  // Pages of the pool are taken when they are first written, so its size is a limit, not a cost.
  const int64_t blocks = std::min(budget / block_bytes_, context_blocks() * options.max_batch);
  if (blocks < 1) {
    throw Error("ERR_CACHE_MEMORY", text("KV cache: ", budget, " bytes do not hold one block of ", block_bytes_,
                                         " bytes (", kBlockTokens, " positions)"));
  }
  cache_->allocate(blocks, dtype, device_);
}

void OwnDecoder::use_flash(Backend& backend, bool reproducible) {
  const auto refuse = [](const std::string& reason) {
    throw Error("ERR_FLASH_ATTENTION", text("flashAttention: libtorch's flash attention can serve no layer: ", reason));
  };
  if (reproducible && !device_.is_cpu()) refuse("reproducible: true gives a row the same bits in any chunk, it does not");
  std::string reason;
  for (const AttentionSpec& layer : cache_->layers()) {
    reason = backend.flash_refusal(device_, layer, cache_->dtype());
    if (reason.empty()) {
      flash_rows_ = backend.flash_rows();
      return;
    }
  }
  refuse(reason);
}

std::shared_ptr<const PromptChunks> OwnDecoder::chunks_of(const StepRows& step) const {
  if (!flash_rows_.has_value()) return nullptr;
  auto chunks = std::make_shared<PromptChunks>();
  int64_t rows = 0;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const StepRows::Sequence& sequence = step.sequences[s];
    if (sequence.rows < 2) continue;
    const int32_t last = step.positions[static_cast<size_t>(sequence.first_row + sequence.rows - 1)];
    chunks->list.push_back({static_cast<int64_t>(s), sequence.first_row, sequence.rows, int64_t{last} + 1});
    rows += sequence.rows;
  }
  return rows < *flash_rows_ ? nullptr : chunks;
}

void OwnDecoder::use_graphs(Backend& backend, int64_t table_bytes) {
  for (const torch::jit::Module& module : module_.modules()) {
    for (const torch::jit::Method& method : module.get_methods()) {
      // How many rows an expert gets is read back in the middle of the step: no fixed sequence of work.
      if (asks_device(*method.graph()->block())) {
        throw Error("ERR_GRAPHS_MODEL", "cudaGraphs: a mixture of experts counts rows in the middle of a step, which "
                                        "cannot be recorded; load it with cudaGraphs off");
      }
    }
  }
  graphs_ = std::make_unique<DecodeGraphs>(
      backend, sites_, *cache_, device_, max_batch_, std::min(context_blocks(), cache_->blocks()), table_bytes,
      [this](const at::Tensor& tokens) {
        return logits_of(hidden_of(tokens, {}, {})).to(at::kFloat);
      });
  graphs_->probe();
}

void OwnDecoder::make_plans() {
  info_.forward = "interpreter";
  // For comparing: both ways give the same bits.
  const char* interpreter = std::getenv("CHATSPACE_INTERPRETER");
  if (interpreter != nullptr && std::string(interpreter) == "1") return;
  // What a list cannot hold stays with the interpreter; that costs time and nothing else.
  std::string reason;
  forward_plan_ = CallPlan::make(module_, "forward", {std::nullopt, c10::IValue(), c10::IValue()}, &reason);
  logits_plan_ = CallPlan::make(module_, "logits", {std::nullopt}, &reason);
  if (forward_plan_ != nullptr && logits_plan_ != nullptr) info_.forward = "calls";
}

at::Tensor OwnDecoder::hidden_of(const at::Tensor& tokens, const c10::IValue& rows, const c10::IValue& given) {
  if (forward_plan_ != nullptr && rows.isNone()) return forward_plan_->run({tokens});
  return module_.forward({tokens, rows, given}).toTensor();
}

at::Tensor OwnDecoder::logits_of(const at::Tensor& hidden) {
  if (logits_plan_ != nullptr) return logits_plan_->run({hidden});
  return module_.get_method("logits")({hidden}).toTensor();
}

at::Tensor OwnDecoder::forward(const StepRows& step, const std::vector<int64_t>& logit_rows) {
  if (graphs_ != nullptr) {
    if (std::optional<at::Tensor> logits = graphs_->run(step, logit_rows)) return *std::move(logits);
  }
  size_t max_blocks = 1;
  for (const auto& sequence : step.sequences) max_blocks = std::max(max_blocks, sequence.blocks.size());
  std::vector<int32_t> tables(step.sequences.size() * max_blocks, 0);
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    std::copy(step.sequences[s].blocks.begin(), step.sequences[s].blocks.end(), tables.begin() + s * max_blocks);
  }
  StepLayout layout;
  layout.positions = tensor_of(step.positions, at::kInt, device_);
  layout.row_sequence = tensor_of(step.row_sequence, at::kInt, device_);
  layout.block_tables = tensor_of(tables, at::kInt, device_)
                            .view({static_cast<int64_t>(step.sequences.size()), static_cast<int64_t>(max_blocks)});
  layout.chunks = chunks_of(step);
  cache_->begin_step(layout);

  c10::IValue rows;
  c10::IValue given;
  if (!step.given_rows.empty()) {
    rows = tensor_of(step.given_rows, at::kLong, device_);
    given = tensor_of(step.given, at::kFloat, device_).view({-1, info_.hidden_size});
  }
  const at::Tensor hidden = hidden_of(tensor_of(step.tokens, at::kLong, device_), rows, given);
  if (layout.chunks != nullptr) flash_layers_ += layout.chunks->served;
  if (logit_rows.empty()) return at::empty({0, info_.vocab_size}, at::kFloat);
  at::Tensor selected = hidden;
  if (static_cast<int64_t>(logit_rows.size()) != hidden.size(0)) {
    selected = hidden.index_select(0, tensor_of(logit_rows, at::kLong, device_));
  }
  return logits_of(selected).to(at::kCPU, at::kFloat).contiguous();
}

at::Tensor OwnDecoder::lens(const at::Tensor& rows) {
  const at::Tensor normed = module_.attr("norm").toModule().forward({rows, at::zeros_like(rows)}).toTensor();
  return at::log_softmax(logits_of(normed).to(at::kFloat), -1);
}

std::vector<std::pair<std::string, std::string>> OwnDecoder::module_tree() const {
  return chatspace::module_tree(module_);
}

}  // namespace chatspace
