// SPDX-License-Identifier: Apache-2.0
// A program that is taken for steady while its action still changes from row to row, or whose steady form does
// something else than the program does.
#include <random>

#include "errors.h"
#include "steering/program_table.h"
#include "steering/site.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

constexpr int64_t kWidth = 4;
constexpr int kSites = 3;

SiteTable sites_of() {
  SiteTable sites;
  for (int i = 0; i < kSites; ++i) {
    Site site;
    site.name = text("s", i);
    site.path = text("path.", i);
    site.width = kWidth;
    site.order = i;
    sites.add(std::move(site));
  }
  return sites;
}

OperationSpec operation_at(int site, float scale) {
  OperationSpec spec;
  spec.site = text("s", site);
  spec.vector = {1.0f, scale, -1.0f, 0.5f};
  spec.scale = scale;
  return spec;
}

// What acts on a row, in order: site, operation of the caller's program, strength.
using Acting = std::vector<std::tuple<int64_t, int32_t, float>>;

Acting by_rule(const Program& program, int32_t position, int32_t token, int32_t prompt) {
  Acting out;
  for (const SiteProgram& part : program.sites()) {
    for (const CompiledOperation& operation : part.operations) {
      const float strength = operation.strength(position, token, prompt);
      if (strength != 0.0f) out.emplace_back(part.site, operation.op.counter, strength);
    }
  }
  return out;
}

Acting steadily(const SteadyRows& steady) {
  Acting out;
  for (const SteadyRows::Part& part : steady.parts) {
    for (int32_t o = part.begin; o < part.end; ++o) {
      const SteadyRows::Operation& operation = steady.operations[static_cast<size_t>(o)];
      out.emplace_back(part.site, operation.op.counter, operation.strength);
    }
  }
  return out;
}

}  // namespace

TEST(steady_rows_are_what_the_program_does_to_every_later_row) {
  const SiteTable sites = sites_of();
  ProgramTable programs(at::kCPU);
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<uint32_t>(n)); };
  int steady_ones = 0;
  int later = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<OperationSpec> specs;
    for (int i = 1 + below(5); i > 0; --i) {
      OperationSpec spec = operation_at(below(kSites), 0.5f + static_cast<float>(below(3)));
      spec.scope.phase = static_cast<Phase>(below(3));
      if (below(3) == 0) spec.scope.after_generated = below(6);
      if (below(3) == 0) spec.scope.first_generated = below(9);
      if (below(12) == 0) spec.scope.token_ids = {1, 2};
      if (below(12) == 0) {
        spec.scope.has_positions = true;
        spec.scope.positions = {{0, 12}};
      }
      if (below(3) == 0) spec.schedule.points = {{0.0f, 1.0f}, {1.0f + 2.5f * static_cast<float>(below(4)), 0.25f * static_cast<float>(below(3))}};
      if (below(6) == 0) spec.gate = GateSpec{"", {1, 0, 0, 0}, 0.5f, true, false, false};
      if (below(20) == 0) spec.gate = GateSpec{"s0", {1, 0, 0, 0}, 0.5f, true, false, true};
      specs.push_back(std::move(spec));
    }
    const auto program = programs.share(specs, sites);
    const SteadyRows& steady = program->steady();
    if (steady.from == SteadyRows::kNever) continue;
    ++steady_ones;
    if (steady.from > 0) ++later;
    for (const int32_t prompt : {1, 7, 40}) {
      for (int32_t g = steady.from; g < steady.from + 40; ++g) {
        CHECK_THAT(by_rule(*program, prompt + g, below(5), prompt) == steadily(steady));
      }
    }
  }
  std::printf("  %d of 2000 programs steady, %d of them not from the first row\n", steady_ones, later);
  CHECK_THAT(steady_ones > 800 && later > 300);
}

TEST(what_depends_on_the_row_is_never_steady) {
  const SiteTable sites = sites_of();
  ProgramTable programs(at::kCPU);
  const auto from = [&](const std::function<void(OperationSpec&)>& change) {
    std::vector<OperationSpec> specs{operation_at(2, 1.0f), operation_at(1, 1.0f)};
    change(specs[1]);
    return programs.share(specs, sites)->steady().from;
  };
  CHECK_THAT(from([](auto&) {}) == 0);
  CHECK_THAT(from([](auto& s) { s.scope.phase = Phase::kPrompt; s.schedule.points = {{0, 1}, {9, 0.5f}}; }) == 0);
  CHECK_THAT(from([](auto& s) { s.scope.after_generated = 5; }) == 5);
  CHECK_THAT(from([](auto& s) { s.scope.first_generated = 6; }) == 6);
  CHECK_THAT(from([](auto& s) { s.schedule.points = {{0, 1}, {8.5f, 0.5f}}; }) == 9);
  CHECK_THAT(from([](auto& s) { s.gate = GateSpec{"", {1, 0, 0, 0}, 0, true, false, false}; }) == 0);
  const int32_t never = SteadyRows::kNever;
  CHECK_THAT(from([](auto& s) { s.scope.token_ids = {3}; }) == never);
  CHECK_THAT(from([](auto& s) { s.scope.has_positions = true; }) == never);
  CHECK_THAT(from([](auto& s) { s.gate = GateSpec{"s0", {1, 0, 0, 0}, 0, true, false, false}; }) == never);
  CHECK_THAT(from([](auto& s) { s.gate = GateSpec{"s1", {1, 0, 0, 0}, 0, true, false, true}; }) == never);
  CHECK_THAT(from([](auto& s) { s.schedule.points = {{0, 1}, {3e9f, 0.5f}}; }) == never);
}

}  // namespace chatspace::testing
