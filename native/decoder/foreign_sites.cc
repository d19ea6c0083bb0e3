// SPDX-License-Identifier: Apache-2.0
#include "decoder/foreign_sites.h"

#include <torch/csrc/jit/api/function_impl.h>

#include <algorithm>

#include "errors.h"

namespace chatspace {
namespace {

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && at::equal(a, b);
}

// Rounding of the sum differs with the order a model adds in; a wrong guess is off by far more.
bool is_sum(const at::Tensor& a, const at::Tensor& b, const at::Tensor& sum) {
  if (a.sizes() != b.sizes() || a.sizes() != sum.sizes() || !a.is_floating_point()) return false;
  const at::Tensor target = sum.to(at::kFloat);
  const double worst = (a.to(at::kFloat) + b.to(at::kFloat) - target).abs().max().item<double>();
  return worst <= 1e-2 * std::max(1e-6, target.abs().max().item<double>());
}

bool holds_rows(const at::Tensor& tensor, int64_t rows) {
  // Four dimensions are keys, values or attention weights, even where their heads are one.
  return tensor.defined() && tensor.is_floating_point() && tensor.dim() >= 2 && tensor.dim() <= 3 && tensor.size(-1) > 0 &&
         tensor.size(-2) == rows && tensor.numel() == rows * tensor.size(-1);
}

std::vector<int64_t> tensor_elements(const torch::jit::Module& module) {
  std::vector<int64_t> elements;
  const auto graph = torch::jit::toGraphFunction(module.get_method("forward").function()).graph();
  const auto type = graph->return_node()->input(0)->type();
  if (const auto tuple = type->cast<c10::TupleType>()) {
    for (size_t i = 0; i < tuple->elements().size(); ++i) {
      if (tuple->elements()[i]->isSubtypeOf(*c10::TensorType::get())) elements.push_back(static_cast<int64_t>(i));
    }
  }
  return elements;
}

}  // namespace

SiteProbe::SiteProbe(torch::jit::Module& root) {
  Surgeon surgeon;
  for (const auto& named : root.named_modules()) {
    if (named.name.empty() || return_form(named.value) == "other") continue;
    Observed observed{named.name, c10::make_intrusive<SiteHook>(), tensor_elements(named.value)};
    observed.hook->observing = true;
    torch::jit::Module module = named.value;
    surgeon.observe(module, observed.hook);
    observed_.push_back(std::move(observed));
  }
}

const SiteProbe::Observed* SiteProbe::find(const std::string& path) const {
  const auto found = std::find_if(observed_.begin(), observed_.end(), [&](const Observed& o) { return o.path == path; });
  return found == observed_.end() ? nullptr : &*found;
}

bool SiteProbe::reached(const std::string& path) const {
  const Observed* observed = find(path);
  return observed != nullptr && observed->hook->calls > 0;
}

void SiteProbe::stop() {
  for (const Observed& observed : observed_) observed.hook->observing = false;
}

const SiteProbe::Observed* SiteProbe::after_layers(const std::string& layers_path) const {
  const auto found = std::find_if(observed_.begin(), observed_.end(), [&](const Observed& o) {
    return o.hook->calls == 1 && canonical_name(o.path, layers_path) == "final";
  });
  return found == observed_.end() ? nullptr : &*found;
}

bool SiteProbe::learn_layer(const Observed& layer, const Observed& next, LearnedSite& out) const {
  const auto& outputs = layer.hook->outputs;
  const auto& inputs = next.hook->inputs;
  const auto element = [&](size_t k) { return layer.elements.empty() ? 0 : layer.elements[k]; };
  const auto among = [](const std::vector<at::Tensor>& tensors, const at::Tensor& wanted) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const at::Tensor& each) { return same(each, wanted); });
  };
  // What a layer only hands on (a position bias, the embedding kept for later layers) is not its state.
  std::vector<size_t> states;
  for (size_t k = 0; k < outputs.size(); ++k) {
    const int64_t rows = outputs[k].dim() >= 2 ? outputs[k].size(-2) : 0;
    if (!holds_rows(outputs[k], rows)) continue;
    if (outputs.size() == 1 || !among(layer.hook->inputs, outputs[k])) states.push_back(k);
  }
  for (size_t i = 0; i < states.size(); ++i) {
    for (size_t j = i + 1; j < states.size(); ++j) {
      const at::Tensor& a = outputs[states[i]];
      const at::Tensor& b = outputs[states[j]];
      const bool both = a.sizes() == b.sizes() && among(inputs, a) && among(inputs, b) && !same(a, b);
      const bool summed =
          std::any_of(inputs.begin(), inputs.end(), [&](const at::Tensor& in) { return is_sum(a, b, in); });
      if (!both && !summed) continue;
      out.form = {OutputForm::Kind::kPair, element(states[i]), element(states[j])};
      out.width = a.size(-1);
      out.magnitude = std::max(a.abs().max().item<double>(), b.abs().max().item<double>());
      return true;
    }
  }
  for (size_t k : states) {
    if (!among(inputs, outputs[k])) continue;
    out.form = {layer.elements.empty() ? OutputForm::Kind::kTensor : OutputForm::Kind::kElement, element(k), 0};
    out.width = outputs[k].size(-1);
    return true;
  }
  return false;
}

std::vector<LearnedSite> SiteProbe::learn(const std::string& layers_path, int64_t layers, int64_t rows,
                                          const std::string& archive) const {
  std::vector<LearnedSite> sites;
  LearnedSite convention;
  for (int64_t i = 0; i < layers; ++i) {
    const bool last = i + 1 == layers;
    const Observed* layer = find(text(layers_path, ".", i));
    const Observed* next = last ? after_layers(layers_path) : find(text(layers_path, ".", i + 1));
    if (layer == nullptr || layer->hook->outputs.empty()) {
      throw Error("ERR_LAYER_OUTPUT", text(archive, ": layer ", i, " returns no tensor"), {{"path", archive}});
    }
    if (layer->hook->calls != 1) {
      throw Error("ERR_LAYER_OUTPUT", text(archive, ": layer ", i, " runs ", layer->hook->calls, " times in one forward; "
                                                    "expected once, so that a row has one place in it"),
                  {{"path", archive}});
    }
    LearnedSite site{layer->path, layer->hook->outputs[0].size(-1), {}, 0.0};
    const bool known = next != nullptr && !next->hook->inputs.empty() && learn_layer(*layer, *next, site);
    // Nothing told by a final norm: a lone tensor is the state, a tuple of the usual length means the usual.
    const Observed* before = i > 0 ? find(text(layers_path, ".", i - 1)) : nullptr;
    const bool alike = last && before != nullptr && before->elements == layer->elements;
    if (!known && alike) {
      site = convention;
      site.path = layer->path;
    } else if (!known && (!last || !layer->elements.empty())) {
      throw Error("ERR_LAYER_OUTPUT", text(archive, ": none of what layer ", i, " returns, alone or summed, is what ",
                                           last ? std::string("the final norm") : text("layer ", i + 1), " receives"),
                  {{"path", archive}});
    }
    convention = site;
    sites.push_back(site);
  }
  for (const Observed& observed : observed_) {
    const auto& outputs = observed.hook->outputs;
    const bool layer = std::any_of(sites.begin(), sites.end(), [&](const auto& s) { return s.path == observed.path; });
    if (layer || observed.hook->calls != 1) continue;
    for (size_t k = 0; k < outputs.size(); ++k) {
      if (!holds_rows(outputs[k], rows)) continue;
      LearnedSite site{observed.path, outputs[k].size(-1), {}, 0.0};
      if (!observed.elements.empty()) site.form = {OutputForm::Kind::kElement, observed.elements[k], 0};
      sites.push_back(site);
      break;
    }
  }
  for (LearnedSite& site : sites) site.order = find(site.path)->hook->last_call;
  return sites;
}

std::string canonical_name(const std::string& path, const std::string& layers_path) {
  const std::string prefix = layers_path + ".";
  const size_t dot = path.rfind('.');
  const std::string leaf = dot == std::string::npos ? path : path.substr(dot + 1);
  if (path.starts_with(prefix)) {
    const std::string rest = path.substr(prefix.size());
    const size_t end = rest.find('.');
    if (end == std::string::npos) return "layers." + rest;
    const std::string inner = rest.substr(end + 1);
    const std::string layer = "layers." + rest.substr(0, end);
    if (inner == "self_attn" || inner == "attn" || inner == "attention" || inner == "self_attention") {
      return layer + ".attn";
    }
    if (inner == "mlp" || inner == "feed_forward" || inner == "ffn") return layer + ".mlp";
    return path;
  }
  if (leaf == "embed_tokens" || leaf == "wte" || leaf == "embed_in" || leaf == "tok_embeddings") return "embed";
  const std::string trunk = layers_path.substr(0, layers_path.rfind('.') + 1);
  if (path == trunk + "norm" || path == trunk + "ln_f" || path == trunk + "final_layer_norm") return "final";
  return path;
}

}  // namespace chatspace
