// SPDX-License-Identifier: Apache-2.0
#include "decoder/foreign_decoder.h"

#include <cstdlib>

#include "decoder/surgery.h"
#include "errors.h"

namespace chatspace {

namespace jit = torch::jit;

namespace {

// An integer of the export's marker file (scripts/py/export_torchscript.py), 0 when it is not told.
int64_t marked(const std::map<std::string, std::string>& extra_files, const std::string& name) {
  const auto marker = extra_files.find("torchscript-export.json");
  if (marker == extra_files.end()) return 0;
  const size_t at = marker->second.find("\"" + name + "\": ");
  return at == std::string::npos ? 0 : std::strtoll(marker->second.c_str() + at + name.size() + 4, nullptr, 10);
}

void convert(jit::Module& module, at::ScalarType dtype, bool change_dtype, at::Device device) {
  const auto move = [&](at::Tensor tensor) {
    const auto target = change_dtype && tensor.is_floating_point() ? dtype : tensor.scalar_type();
    tensor.set_data(tensor.to(device, target));
  };
  for (const at::Tensor& parameter : module.parameters()) move(parameter);
  for (const at::Tensor& buffer : module.buffers()) move(buffer);
}

at::ScalarType dtype_named(const std::string& name) {
  return name == "bfloat16" ? at::kBFloat16 : name == "float16" ? at::kHalf : at::kFloat;
}

std::string name_of(at::ScalarType type) {
  return type == at::kBFloat16 ? "bfloat16" : type == at::kHalf ? "float16" : "float32";
}

}  // namespace

ForeignDecoder::ForeignDecoder(Archive archive, const LoadOptions& options)
    : module_(archive.module) {
  extra_files_ = std::move(archive.extra_files);
  device_ = at::Device(options.device);
  info_.own = false;
  info_.device = options.device;
  info_.threads = options.threads;
  info_.weight_bytes = archive.weight_bytes;
  info_.weight_hash = archive.weight_hash;
  const bool change = options.dtype != "auto";
  dtype_ = dtype_named(options.dtype);
  convert(module_, dtype_, change, device_);
  if (!change) {
    for (const at::Tensor& parameter : module_.parameters()) {
      if (!parameter.is_floating_point()) continue;
      dtype_ = parameter.scalar_type();
      break;
    }
  }
  info_.dtype = name_of(dtype_);
  info_.context_length = marked(extra_files_, "context_length");
  if (!device_.is_cpu()) retarget_devices(module_, options.device);
  inputs_ = find_foreign_inputs(module_, options.path);
  info_.cached = inputs_.past >= 0;
  find_layers_path(options);
  probe(options.path);
  install_sites();
  check_pairs(options.path);
}

void ForeignDecoder::find_layers_path(const LoadOptions& options) {
  const auto [found, count] = find_layers(module_);
  info_.layers_path = options.layers_path.empty() ? found : options.layers_path;
  info_.layers = count;
  if (!options.layers_path.empty()) {
    try {
      info_.layers = static_cast<int64_t>(submodule(module_, options.layers_path).children().size());
    } catch (const std::exception&) {
      info_.layers = 0;
    }
    if (info_.layers == 0) {
      throw Error("ERR_LAYERS_PATH", text(options.path, ": no module list at \"", options.layers_path,
                                          "\"; the longest numbered one is \"", found, "\""),
                  {{"path", options.path}});
    }
  }
  if (info_.layers == 0) {
    throw Error("ERR_ARCHIVE_FROZEN", text(options.path, ": no numbered list of layers in the archive, so there is "
                                                         "no place to steer; ", kForeignRemedy), {{"path", options.path}});
  }
}

c10::IValue ForeignDecoder::empty_past() const {
  const auto& argument =
      module_.get_method("forward").function().getSchema().arguments()[static_cast<size_t>(inputs_.past + 1)];
  if (argument.default_value()) return *argument.default_value();
  const auto& type = argument.type();
  if (type->kind() == c10::TypeKind::OptionalType) return {};
  if (const auto list = type->cast<c10::ListType>()) {
    if (list->getElementType()->isSubtypeOf(*c10::TensorType::get())) return c10::List<at::Tensor>();
    return c10::impl::GenericList(list->getElementType());
  }
  throw Error("ERR_ARCHIVE_PAST", text("the archive's past is ", type->str(),
                                       ": expected a list or an optional, so that an empty one can be made"));
}

ForeignDecoder::Outputs ForeignDecoder::run(jit::Module& module, const std::vector<int64_t>& tokens,
                                            int64_t first_position, const c10::IValue& past) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const auto longs = at::TensorOptions().dtype(at::kLong).device(device_);
  std::vector<c10::IValue> arguments(static_cast<size_t>(inputs_.count));
  const auto& schema = module.get_method("forward").function().getSchema().arguments();
  for (int64_t i = 0; i < inputs_.count; ++i) {
    const auto& fallback = schema[static_cast<size_t>(i + 1)].default_value();
    if (fallback) arguments[static_cast<size_t>(i)] = *fallback;
  }
  arguments[static_cast<size_t>(inputs_.tokens)] = at::tensor(tokens, at::kLong).to(device_).view({1, count});
  if (inputs_.mask >= 0) arguments[static_cast<size_t>(inputs_.mask)] = at::ones({1, first_position + count}, longs);
  if (inputs_.positions >= 0) {
    arguments[static_cast<size_t>(inputs_.positions)] =
        at::arange(first_position, first_position + count, longs).view({1, count});
  }
  if (inputs_.cache_positions >= 0) {
    arguments[static_cast<size_t>(inputs_.cache_positions)] =
        at::arange(first_position, first_position + count, longs);
  }
  if (inputs_.past >= 0) arguments[static_cast<size_t>(inputs_.past)] = past;
  if (inputs_.use_cache >= 0) arguments[static_cast<size_t>(inputs_.use_cache)] = inputs_.past >= 0;
  const c10::IValue out = module.forward(std::move(arguments));
  Outputs result{foreign_logits(out), inputs_.past >= 0 ? foreign_past(out) : c10::IValue()};
  if (!result.logits.defined() || result.logits.numel() == 0 ||
      result.logits.numel() != count * result.logits.size(-1)) {
    throw Error("ERR_ARCHIVE_OUTPUTS", "forward returned no logits: expected a floating tensor [1, tokens, vocab]");
  }
  result.logits = result.logits.reshape({count, result.logits.size(-1)});
  return result;
}

void ForeignDecoder::install_sites() {
  Surgeon surgeon;
  const std::string first_layer = info_.layers_path + ".0";
  for (const LearnedSite& site : learned_) {
    auto hook = c10::make_intrusive<SiteHook>();
    hook->copy_before_write = true;
    jit::Module module = submodule(module_, site.path);
    surgeon.install(module, hook, site.form);
    sites_.add({canonical_name(site.path, info_.layers_path), site.path, site.width, hook, site.order});
    if (site.path == first_layer) {
      info_.hidden_size = site.width;
      info_.layer_output = site.form.kind == OutputForm::Kind::kPair ? "delta-residual" : "hidden";
    }
  }
}

at::Tensor ForeignDecoder::forward(const StepRows& step, const std::vector<int64_t>& logit_rows) {
  if (!step.given_rows.empty()) {
    throw Error("ERR_EMBEDDINGS_UNSUPPORTED", "prompt embeddings need an archive of our own (chatspace-steer convert)");
  }
  const auto& sequence = step.sequences.at(0);
  c10::IValue past;
  if (info_.cached) {
    const auto kept = pasts_.find(sequence.id);
    past = kept == pasts_.end() ? empty_past() : kept->second;
  }
  Outputs out = run(module_, step.tokens, step.positions.at(0), past);
  if (info_.cached) pasts_[sequence.id] = out.past;
  if (logit_rows.empty()) return at::empty({0, info_.vocab_size}, at::kFloat);
  at::Tensor logits = out.logits;
  if (static_cast<int64_t>(logit_rows.size()) != logits.size(0)) {
    logits = logits.index_select(0, at::tensor(logit_rows, at::kLong).to(logits.device()));
  }
  return logits.to(at::kCPU, at::kFloat).contiguous();
}

std::vector<std::pair<std::string, std::string>> ForeignDecoder::module_tree() const {
  return chatspace::module_tree(module_);
}

}  // namespace chatspace
