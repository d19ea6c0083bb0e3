// SPDX-License-Identifier: Apache-2.0
// Calls of a CallPlan: closures over slots. `reads` and `writes` are the slots of the arguments and results.
#pragma once

#include <torch/csrc/jit/runtime/operator.h>

#include <string>
#include <vector>

#include "decoder/call_plan.h"
#include "ops/kv_cache.h"
#include "steering/site.h"

namespace chatspace::plan_operators {

using Slots = std::vector<int32_t>;

// An operator of ours without the dispatcher; empty when `name` is none.
CallPlan::Call ours(const std::string& name, const Slots& reads, const Slots& writes);
// Any other, on a stack as the interpreter calls it.
CallPlan::Call boxed(torch::jit::Operation operation, const Slots& reads, const Slots& writes);
// Steers slot reads[0], of a pair reads[1] too, where they are.
CallPlan::Call site(const c10::intrusive_ptr<SiteHook>& hook, const Slots& reads);
// The same and chatspace::add_rms_norm with its reads and writes in one call.
CallPlan::Call site_and_norm(const c10::intrusive_ptr<SiteHook>& hook, bool paired, const Slots& reads,
                             const Slots& writes);
// reads: the arguments without the object; empty when the cache has no such method.
CallPlan::Call cache_method(const c10::intrusive_ptr<KVCache>& cache, const std::string& method, const Slots& reads,
                            const Slots& writes);

}  // namespace chatspace::plan_operators
