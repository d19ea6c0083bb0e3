// SPDX-License-Identifier: Apache-2.0
// A list of calls made of small graphs: what it must refuse, what it must not join, what it must let go of.
#include "decoder/call_plan.h"

#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/custom_class.h>

#include "decoder/surgery.h"
#include "ops/backend.h"
#include "steering/site.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

namespace jit = torch::jit;

// Finds our operators under the name the archives' sources use.
struct Operators : jit::NativeResolver {
  std::shared_ptr<jit::SugaredValue> resolveValue(const std::string& name, jit::GraphFunction& function,
                                                  const jit::SourceRange& range) override {
    if (name == "chatspace") return std::make_shared<jit::BuiltinModule>("chatspace");
    return NativeResolver::resolveValue(name, function, range);
  }
};

// A module with a weight [4], a flag, and the given forward; `inner` becomes a submodule with a site behind it.
struct Small {
  jit::Module module{"Small"};
  jit::Module inner{"Inner"};
  c10::intrusive_ptr<SiteHook> hook = c10::make_intrusive<SiteHook>();

  explicit Small(const std::string& forward) {
    inner.define("def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:\n    return x * 2.0, y\n");
    module.register_parameter("weight", at::ones({4}), false);
    module.register_attribute("flag", c10::BoolType::get(), true);
    module.register_attribute("eps", c10::FloatType::get(), 1e-6);
    module.register_module("inner", inner);
    module.define(forward, std::make_shared<Operators>());
    Surgeon surgeon;
    surgeon.install(inner, hook, {OutputForm::Kind::kPair, 0, 1});
  }

  std::unique_ptr<CallPlan> plan(size_t inputs, std::string* reason) {
    return CallPlan::make(module, "forward", std::vector<std::optional<c10::IValue>>(inputs), reason);
  }
};

at::Tensor rows() { return at::arange(8, at::kFloat).view({2, 4}); }

constexpr const char* kJoined = R"(
def forward(self, x: Tensor) -> Tensor:
    delta, residual = self.inner.forward(x, x + 1.0)
    normed, sum = chatspace.add_rms_norm(delta, residual, self.weight, self.eps)
    return normed + sum
)";

constexpr const char* kReadAgain = R"(
def forward(self, x: Tensor) -> Tensor:
    delta, residual = self.inner.forward(x, x + 1.0)
    normed, sum = chatspace.add_rms_norm(delta, residual, self.weight, self.eps)
    return normed + sum + delta
)";

}  // namespace

TEST(call_plan_joins_a_site_with_the_norm_behind_it_and_only_there) {
  c10::InferenceMode inference;
  std::string reason;
  Small joined(kJoined);
  const auto plan = joined.plan(1, &reason);
  CHECK_THAT(plan != nullptr && plan->fused_sites() == 1);
  CHECK_SAME_BITS(plan->run({rows()}), joined.module.forward({rows()}).toTensor(), "joined");
  // Somebody else reads what the site handed on.
  Small again(kReadAgain);
  const auto apart = again.plan(1, &reason);
  CHECK_THAT(apart != nullptr && apart->fused_sites() == 0);
  CHECK_SAME_BITS(apart->run({rows()}), again.module.forward({rows()}).toTensor(), "apart");
}

TEST(call_plan_runs_a_site_with_work_where_the_graph_has_it) {
  c10::InferenceMode inference;
  for (const char* forward : {kJoined, kReadAgain}) {
    std::string reason;
    Small small(forward);
    const auto plan = small.plan(1, &reason);
    const std::vector<float> vector{1.0f, -2.0f, 3.0f, 0.5f};
    const auto work = [&] {
      SiteStep& step = small.hook->step;
      step.start(2);
      SteerOp op{};
      op.kind = SteerKind::kAdd;
      op.vector = vector.data();
      op.scale = 0.5f;
      step.ops.push_back(op);
      step.counters.resize(1);
      step.entries.push_back({0, 1.0f, nullptr});
      step.entry_rows.push_back({1, 0, 1});
      step.finish();
    };
    work();
    const at::Tensor called = plan->run({rows()});
    CHECK_THAT(small.hook->step.ran && small.hook->step.counters[0].rows == 1);
    work();
    const at::Tensor interpreted = small.module.forward({rows()}).toTensor();
    CHECK_SAME_BITS(called, interpreted, "steered");
    small.hook->step.active = false;
    CHECK_THAT(!at::equal(called[1], plan->run({rows()})[1]));
  }
}

TEST(call_plan_takes_the_branch_the_run_asks_for) {
  c10::InferenceMode inference;
  std::string reason;
  Small small(R"(
def forward(self, x: Tensor) -> Tensor:
    if not self.flag:
        return x - 100.0
    kept = x * 3.0
    if bool(x.sum() > 0.0):
        y = kept + 1.0
    else:
        y = x * 2.0
    return torch.cat([y, kept], 0)
)");
  const auto plan = small.plan(1, &reason);
  CHECK_THAT(plan != nullptr);
  for (const at::Tensor& x : {rows(), -rows(), rows()}) {
    CHECK_SAME_BITS(plan->run({x}), small.module.forward({x}).toTensor(), "branch");
  }
}

TEST(call_plan_refuses_a_loop_and_says_so) {
  std::string reason;
  Small small(R"(
def forward(self, x: Tensor) -> Tensor:
    while bool(x.sum() < 100.0):
        x = x * 2.0
    return x
)");
  CHECK_THAT(small.plan(1, &reason) == nullptr);
  CHECK_THAT(reason.find("prim::Loop") != std::string::npos);
}

TEST(call_plan_holds_nothing_after_a_run_or_a_failure) {
  c10::InferenceMode inference;
  std::string reason;
  Small small(R"(
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    z = x * 2.0
    return torch.matmul(z, y) + x
)");
  const auto plan = small.plan(2, &reason);
  const at::Tensor x = rows();
  const at::Tensor y = at::eye(4);
  CHECK_THAT(plan->run({x, y}).use_count() == 1);
  CHECK_THAT(x.use_count() == 1 && y.use_count() == 1);
  const at::Tensor wrong = at::eye(3);
  CHECK_THROWS(plan->run({x, wrong}), "mat");
  CHECK_THAT(x.use_count() == 1 && wrong.use_count() == 1);
  CHECK_SAME_BITS(plan->run({x, y}), at::matmul(x * 2.0, y) + x, "after a failure");
}

}  // namespace chatspace::testing
