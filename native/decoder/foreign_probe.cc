// SPDX-License-Identifier: Apache-2.0
// What a stranger's archive must show at load: a forward of three tokens with observers in it, the same tokens
// at other lengths and on a past, and that what looks like a delta and a residual is one.
#include <algorithm>

#include "decoder/foreign_decoder.h"
#include "errors.h"

namespace chatspace {

namespace jit = torch::jit;

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
                                           "\" are not called by forward (inlined or frozen); ", kForeignRemedy),
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

}  // namespace chatspace
