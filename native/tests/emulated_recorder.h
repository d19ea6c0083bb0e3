// SPDX-License-Identifier: Apache-2.0
// What records and replays steps on a CPU: the sites' tables at one address, with the steering kernels' bodies
// on an emulated block, and a recording that is the step's closure, called again.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_steer.h"

namespace chatspace::testing {

// Fixed memory, aligned, full of rubbish from before.
struct FixedBlock {
  std::vector<uint64_t> words;
  explicit FixedBlock(int64_t bytes) : words(static_cast<size_t>(bytes / 8), 0xa5a5a5a5a5a5a5a5u) {}
  uint8_t* data() { return reinterpret_cast<uint8_t*>(words.data()); }
};

class EmulatedTables final : public SiteTables {
 public:
  // norms: the norm after a site by the kernel's body too. Else it is the CPU's, so that a row that nothing steers
  // has the bits of an eager step.
  EmulatedTables(int64_t slots, int64_t bytes, bool norms = false)
      : norms_(norms), layout_(slots, bytes), block_(bytes) {}
  bool fill(const std::vector<SiteWork>& work) override {
    if (!layout_.fill(work)) return false;
    std::memcpy(block_.data(), layout_.bytes().data(), layout_.bytes().size());
    return true;
  }
  void steer(int64_t slot, at::Tensor& delta, at::Tensor& residual) override {
    CHECK_THAT(delta.is_contiguous() && (!residual.defined() || residual.is_contiguous()));
    emulate_slot(block_.data(), slot, delta, residual, kThreads, seed_++);
  }
  std::tuple<at::Tensor, at::Tensor> steer_add_rms_norm(int64_t slot, bool paired, at::Tensor& delta,
                                                        at::Tensor& residual, const at::Tensor& weight,
                                                        double eps) override {
    ++joined;
    if (!norms_) {
      at::Tensor none;
      steer(slot, delta, paired ? residual : none);
      return cpu_backend().add_rms_norm(delta, residual, weight, eps);
    }
    CHECK_THAT(delta.is_contiguous() && residual.is_contiguous());
    const EmulatedNorm norm =
        emulate_slot_norm(block_.data(), slot, paired, delta, residual, weight, eps, kThreads, seed_++);
    return {norm.sum, norm.normed};
  }
  std::vector<int64_t> read() override { return layout_.take(block_.data()); }
  static inline int64_t joined = 0;  // norms taken with their site, over all tables

 private:
  static constexpr int kThreads = 64;
  bool norms_;
  cuda::SiteTableBlock layout_;
  FixedBlock block_;
  uint32_t seed_ = 1;
};

class ClosureGraph final : public StepGraph {
 public:
  explicit ClosureGraph(std::function<void()> step) : step_(std::move(step)) {}
  void replay() override { step_(); }

 private:
  std::function<void()> step_;
};

class ClosureRecorder final : public StepRecorder {
 public:
  explicit ClosureRecorder(bool broken) : broken_(broken) {}
  std::unique_ptr<StepGraph> record(const std::function<void()>& step) override {
    step();
    step();
    TORCH_CHECK(!broken_, "operation not permitted when stream is capturing");
    return std::make_unique<ClosureGraph>(step);
  }

 private:
  bool broken_;
};

// Only what recorded steps need; the operators themselves are the CPU's.
class EmulatedBackend final : public Backend {
 public:
  // norms: as EmulatedTables. broken: nothing can be recorded.
  explicit EmulatedBackend(bool norms = false, bool broken = false) : norms_(norms), broken_(broken) {}
  const char* name() const override { return "emulated"; }
  std::unique_ptr<SiteTables> site_tables(at::Device, int64_t slots, int64_t, int64_t bytes) override {
    return std::make_unique<EmulatedTables>(slots, bytes, norms_);
  }
  std::unique_ptr<StepRecorder> step_recorder(at::Device) override { return std::make_unique<ClosureRecorder>(broken_); }

  at::Tensor embed(const at::Tensor&, const at::Tensor&) override { unused(); }
  std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                  double) override { unused(); }
  at::Tensor rms_norm(const at::Tensor&, const at::Tensor&, double) override { unused(); }
  std::tuple<at::Tensor, at::Tensor> add_layer_norm(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                    const OptionalTensor&, double) override { unused(); }
  at::Tensor linear(const at::Tensor&, const at::Tensor&, const OptionalTensor&) override { unused(); }
  at::Tensor linear3(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                     const OptionalTensor&, const OptionalTensor&) override { unused(); }
  at::Tensor gated_mlp(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                       std::string_view) override { unused(); }
  at::Tensor mlp(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const at::Tensor&, const OptionalTensor&,
                 std::string_view) override { unused(); }
  at::Tensor attention(const AttentionCall&) override { unused(); }
  void steer(const SteerCall&, at::Tensor&, at::Tensor&) override { unused(); }

 private:
  [[noreturn]] static void unused() { throw std::logic_error("a replayed step called the backend"); }
  bool norms_;
  bool broken_;
};

}  // namespace chatspace::testing
