// SPDX-License-Identifier: Apache-2.0
#include "decoder/foreign_decoder.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>
#include <cstdlib>

#include "decoder/foreign_sites.h"
#include "decoder/surgery.h"
#include "errors.h"

namespace chatspace {

namespace jit = torch::jit;

namespace {

constexpr const char* kRemedy =
    "save the traced or scripted module itself (torch.jit.save), not the result of torch.jit.freeze or "
    "optimize_for_inference; scripts/py/export_torchscript.py writes a fitting one";

bool contains(const std::string& name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return name.find(part) != std::string::npos; });
}

bool is_tensor(const c10::TypePtr& type) {
  if (type->isSubtypeOf(*c10::TensorType::get())) return true;
  const auto optional = type->cast<c10::OptionalType>();
  return optional && optional->getElementType()->isSubtypeOf(*c10::TensorType::get());
}

// A past is a list or tuple of tensors (or of lists of them); a flag that says "cache" is none.
bool is_collection(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  const auto kind = optional ? optional->getElementType()->kind() : type->kind();
  return kind == c10::TypeKind::ListType || kind == c10::TypeKind::TupleType || kind == c10::TypeKind::AnyType;
}

bool is_flag(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return (optional ? optional->getElementType()->kind() : type->kind()) == c10::TypeKind::BoolType;
}

// Which tensor argument takes the tokens: the one so named, else the first.
int64_t token_argument(const std::vector<c10::Argument>& arguments) {
  int64_t first = -1;
  for (size_t i = 1; i < arguments.size(); ++i) {
    if (!is_tensor(arguments[i].type())) continue;
    const std::string& name = arguments[i].name();
    if (name == "input_ids" || name == "tokens" || name == "token_ids" || name == "ids") {
      return static_cast<int64_t>(i) - 1;
    }
    if (first < 0 && !contains(name, {"mask", "position", "embed"})) first = static_cast<int64_t>(i) - 1;
  }
  return first;
}

// An integer of the export's marker file (scripts/py/export_torchscript.py), 0 when it is not told.
int64_t marked(const std::map<std::string, std::string>& extra_files, const std::string& name) {
  const auto marker = extra_files.find("torchscript-export.json");
  if (marker == extra_files.end()) return 0;
  const size_t at = marker->second.find("\"" + name + "\": ");
  return at == std::string::npos ? 0 : std::strtoll(marker->second.c_str() + at + name.size() + 4, nullptr, 10);
}

// The logits are the first floating tensor of the outputs, or the entry of that name.
at::Tensor find_logits(const c10::IValue& value) {
  if (value.isTensor()) {
    return value.toTensor().is_floating_point() && value.toTensor().dim() >= 2 ? value.toTensor() : at::Tensor();
  }
  if (value.isGenericDict()) {
    const auto dict = value.toGenericDict();
    if (dict.contains("logits")) return dict.at("logits").toTensor();
    for (const auto& entry : dict) {
      if (at::Tensor found = find_logits(entry.value()); found.defined()) return found;
    }
  }
  if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) {
      if (at::Tensor found = find_logits(element); found.defined()) return found;
    }
  }
  return {};
}

// The past that comes back: the first list or tuple among the outputs, or the entry whose name says so.
c10::IValue find_past(const c10::IValue& value) {
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (entry.key().isString() && contains(entry.key().toStringRef(), {"past", "cache"})) return entry.value();
    }
    return {};
  }
  if (!value.isTuple()) return {};
  for (const auto& element : value.toTupleRef().elements()) {
    if (element.isList() || element.isTensorList() || element.isTuple()) return element;
  }
  return {};
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
  find_inputs(options.path);
  find_layers_path(options);
  probe(options.path);
  install_sites();
  check_pairs(options.path);
}

void ForeignDecoder::find_inputs(const std::string& path) {
  if (!module_.find_method("forward")) {
    throw Error("ERR_ARCHIVE_INPUTS", text(path, ": the module has no forward method"), {{"path", path}});
  }
  const auto& arguments = module_.get_method("forward").function().getSchema().arguments();
  inputs_.count = static_cast<int64_t>(arguments.size()) - 1;
  inputs_.tokens = token_argument(arguments);
  std::string unknown;
  for (int64_t i = 0; i < inputs_.count; ++i) {
    const auto& argument = arguments[static_cast<size_t>(i + 1)];
    const std::string& name = argument.name();
    const bool tensor = is_tensor(argument.type());
    if (i == inputs_.tokens) continue;
    if (tensor && contains(name, {"mask"})) {
      inputs_.mask = i;
    } else if (tensor && contains(name, {"cache_position"})) {
      inputs_.cache_positions = i;
    } else if (tensor && contains(name, {"position"})) {
      inputs_.positions = i;
    } else if (is_collection(argument.type()) && inputs_.past < 0 &&
               (contains(name, {"past", "cache"}) || !argument.default_value())) {
      inputs_.past = i;
    } else if (is_flag(argument.type()) && contains(name, {"use_cache"})) {
      inputs_.use_cache = i;
    } else if (!argument.default_value()) {
      unknown += text(unknown.empty() ? "" : ", ", name, ": ", argument.type()->str());
    }
  }
  if (inputs_.tokens < 0 || !unknown.empty()) {
    throw Error("ERR_ARCHIVE_INPUTS",
                text(path, ": expected forward(input_ids, attention mask?, position ids?, past?), got ",
                     unknown.empty() ? "no tensor argument" : "an argument that cannot be filled: " + unknown),
                {{"path", path}});
  }
  info_.cached = inputs_.past >= 0;
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
                                                         "no place to steer; ", kRemedy), {{"path", options.path}});
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
  Outputs result{find_logits(out), inputs_.past >= 0 ? find_past(out) : c10::IValue()};
  if (!result.logits.defined() || result.logits.numel() == 0 ||
      result.logits.numel() != count * result.logits.size(-1)) {
    throw Error("ERR_ARCHIVE_OUTPUTS", "forward returned no logits: expected a floating tensor [1, tokens, vocab]");
  }
  result.logits = result.logits.reshape({count, result.logits.size(-1)});
  return result;
}

ForeignDecoder::Outputs ForeignDecoder::probe_run(jit::Module& module, const std::vector<int64_t>& tokens,
                                                  int64_t first_position, const c10::IValue& past,
                                                  const std::string& path) {
  const auto failed = [&](const std::string& reason) {
    const char* dtype = "; a trace keeps the dtype it was made with: load it with dtype \"auto\"";
    return Error("ERR_ARCHIVE_PROBE",
                 text(path, ": a forward of ", tokens.size(), " token(s) at position ", first_position, " failed: ",
                      brief(reason), reason.find("dtype") == std::string::npos ? "" : dtype),
                 {{"path", path}});
  };
  try {
    return run(module, tokens, first_position, past);
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    throw failed(error.what_without_backtrace());
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw failed(error.what());
  }
}

void ForeignDecoder::drop_past() {
  // What is not given is left at its default by run().
  inputs_.past = -1;
  info_.cached = false;
}

void ForeignDecoder::probe(const std::string& path) {
  // A copy carries the observers, so that the module which runs later is cut once, rightly.
  jit::Module copy = module_.clone(/*inplace=*/true);
  SiteProbe observers(copy);
  const std::vector<int64_t> tokens{0, 1, 2};
  const Outputs out = probe_run(copy, tokens, 0, inputs_.past >= 0 ? empty_past() : c10::IValue(), path);
  observers.stop();
  info_.vocab_size = out.logits.size(-1);
  if (!observers.reached(info_.layers_path + ".0")) {
    throw Error("ERR_ARCHIVE_FROZEN", text(path, ": the layers at \"", info_.layers_path,
                                           "\" are not called by forward (inlined or frozen); ", kRemedy),
                {{"path", path}});
  }
  learned_ = observers.learn(info_.layers_path, info_.layers, static_cast<int64_t>(tokens.size()), path);
  if (inputs_.past >= 0 && out.past.isNone()) {
    const auto& argument =
        module_.get_method("forward").function().getSchema().arguments()[static_cast<size_t>(inputs_.past + 1)];
    if (!argument.default_value()) {
      throw Error("ERR_ARCHIVE_PAST", text(path, ": forward takes a past (", argument.name(), ") and returns none"),
                  {{"path", path}});
    }
    drop_past();
  }
  check_lengths(copy, out.logits, path);
}

void ForeignDecoder::check_lengths(jit::Module& module, const at::Tensor& whole, const std::string& path) {
  const bool half = dtype_ != at::kFloat;
  const at::Tensor expected = whole.to(at::kFloat);
  const double scale = std::max(1.0, expected.abs().max().item<double>());
  const auto differs = [&](const at::Tensor& got, int64_t first) {
    const at::Tensor part = expected.narrow(0, first, got.size(0));
    return !((got.to(at::kFloat) - part).abs().max().item<double>() <= (half ? 5e-2 : 1e-3) * scale);
  };
  const Outputs shorter = probe_run(module, {0, 1}, 0, inputs_.past >= 0 ? empty_past() : c10::IValue(), path);
  if (differs(shorter.logits, 0)) {
    throw Error("ERR_ARCHIVE_LENGTH",
                text(path, ": the same tokens give other logits when more follow them: the trace holds one length, "
                           "dropout, or attention to later tokens; expected a causal decoder that runs at any length "
                           "(scripts/py/export_torchscript.py writes one)"),
                {{"path", path}});
  }
  if (inputs_.past < 0) return;
  const Outputs rest = probe_run(module, {2}, 2, shorter.past, path);
  if (differs(rest.logits, 2)) {
    throw Error("ERR_ARCHIVE_PAST", text(path, ": a token run on the past that came back gives other logits than the "
                                               "whole sequence"), {{"path", path}});
  }
}

void ForeignDecoder::check_pairs(const std::string& path) {
  std::vector<SiteHook*> pairs;
  for (const LearnedSite& site : learned_) {
    if (site.form.kind != OutputForm::Kind::kPair) continue;
    const auto& hook = sites_.at(sites_.find(site.path)).hook;
    const at::Tensor wave = at::arange(site.width, at::TensorOptions().dtype(at::kFloat)).mul(2.4).sin();
    hook->nudge = wave.mul(0.25 * std::max(1e-3, site.magnitude)).to(device_);
    pairs.push_back(hook.get());
  }
  if (pairs.empty()) return;
  const auto logits = [&](bool both) {
    for (SiteHook* hook : pairs) hook->nudge_both = both;
    return probe_run(module_, {0, 1, 2}, 0, inputs_.past >= 0 ? empty_past() : c10::IValue(), path)
        .logits.to(at::kFloat);
  };
  const at::Tensor moved = logits(true);
  const at::Tensor changed = logits(false);
  for (SiteHook* hook : pairs) hook->nudge = at::Tensor();
  const at::Tensor plain = logits(false);
  const double by_moving = (moved - plain).abs().max().item<double>();
  const double by_changing = (changed - plain).abs().max().item<double>();
  if (!(by_moving <= 0.1 * by_changing)) {
    throw Error("ERR_LAYER_OUTPUT",
                text(path, ": the layers at \"", info_.layers_path, "\" return two tensors that the next one takes, but "
                           "their sum is not the hidden state (moving a part of one to the other changes logits by ",
                     by_moving, ", changing one by ", by_changing, "); name another list of layers"),
                {{"path", path}});
  }
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
