// SPDX-License-Identifier: Apache-2.0
#include "steering/steady_rows.h"

#include <algorithm>
#include <cmath>

#include "steering/program.h"

namespace chatspace {
namespace {

// First generated row from which on the operation's strength stays as it is.
int32_t steady_from(const CompiledOperation& operation) {
  const Scope& scope = operation.scope;
  // A gate of the row itself is asked where the arithmetic happens.
  if (scope.has_positions || !scope.token_ids.empty() || operation.gate >= 0) return SteadyRows::kNever;
  if (scope.phase == Phase::kPrompt) return 0;
  int32_t from = std::max(scope.after_generated, 0);
  if (scope.first_generated != std::numeric_limits<int32_t>::max()) from = std::max(from, scope.first_generated);
  if (!operation.schedule.points.empty()) {
    const float last = std::ceil(operation.schedule.points.back().first);
    if (!(last < 1e9f)) return SteadyRows::kNever;
    from = std::max(from, static_cast<int32_t>(std::max(last, 0.0f)));
  }
  return from;
}

}  // namespace

SteadyRows SteadyRows::of(const std::vector<SiteProgram>& sites) {
  SteadyRows out;
  int32_t from = 0;
  for (const SiteProgram& part : sites) {
    for (const CompiledOperation& operation : part.operations) from = std::max(from, steady_from(operation));
  }
  if (from == kNever) return out;
  out.from = from;
  for (const SiteProgram& part : sites) {
    const auto begin = static_cast<int32_t>(out.operations.size());
    for (const CompiledOperation& operation : part.operations) {
      // Neither the prompt's length nor the token matters: a prompt of no tokens makes `from` the position.
      const float strength = operation.strength(from, 0, 0);
      if (strength != 0.0f) out.operations.push_back({operation.op, strength});
    }
    const auto end = static_cast<int32_t>(out.operations.size());
    if (end > begin) out.parts.push_back({part.site, begin, end});
  }
  return out;
}

}  // namespace chatspace
