// SPDX-License-Identifier: Apache-2.0
// Programs that are shared though they differ, or are not though they are equal; what a hash that collides, an
// address that is used again, or a request that ends must not do to them.
#include <cmath>

#include "steering/program_table.h"
#include "steering/site.h"
#include "tests/check.h"

namespace chatspace::testing {
namespace {

constexpr int64_t kWidth = 8;

struct World {
  SiteTable sites;
  ProgramTable programs{at::kCPU};

  World() {
    for (const char* name : {"early", "late"}) {
      Site site;
      site.name = name;
      site.path = std::string("path.") + name;
      site.width = kWidth;
      site.order = sites.size();
      sites.add(std::move(site));
    }
  }
  std::shared_ptr<const Program> share(const std::vector<OperationSpec>& specs) { return programs.share(specs, sites); }
};

std::vector<float> ramp(float from) {
  std::vector<float> values;
  for (int64_t k = 0; k < kWidth; ++k) values.push_back(from + static_cast<float>(k));
  return values;
}

OperationSpec add_at(const char* site, float from, float scale) {
  OperationSpec spec;
  spec.site = site;
  spec.vector = ramp(from);
  spec.scale = scale;
  return spec;
}

// Every field away from its default.
std::vector<OperationSpec> rich() {
  OperationSpec swap = add_at("late", 1.0f, 0.5f);
  swap.kind = SteerKind::kSwap;
  swap.second = ramp(-3.0f);
  swap.min = -1.0f;
  swap.max = 2.0f;
  swap.mean = 0.25f;
  swap.amount = 0.75f;
  swap.keep_norm = true;
  swap.scope.phase = Phase::kGeneration;
  swap.scope.has_positions = true;
  swap.scope.positions = {{1, 5}, {9, 12}};
  swap.scope.after_generated = 2;
  swap.scope.first_generated = 30;
  swap.scope.token_ids = {4, 7};
  swap.schedule.points = {{0.0f, 1.0f}, {8.0f, 0.5f}};
  swap.gate = GateSpec{"early", ramp(2.0f), 0.125f, true, true, false};
  return {add_at("early", 5.0f, 1.5f), swap};
}

using Change = std::function<void(std::vector<OperationSpec>&)>;

const std::vector<std::pair<const char*, Change>>& changes() {
  static const std::vector<std::pair<const char*, Change>> list = {
      {"one float of a vector", [](auto& p) { p[0].vector[3] = std::nextafter(p[0].vector[3], 9e9f); }},
      {"one float of a second vector", [](auto& p) { p[1].second[7] = std::nextafter(p[1].second[7], 9e9f); }},
      {"one float of a gate", [](auto& p) { p[1].gate->direction[0] += 1.0f; }},
      {"site", [](auto& p) { p[0].site = "late"; }},
      {"kind", [](auto& p) { p[0].kind = SteerKind::kReplace; }},
      {"scale", [](auto& p) { p[0].scale = std::nextafter(1.5f, 2.0f); }},
      {"min", [](auto& p) { p[1].min = -2.0f; }},
      {"max", [](auto& p) { p[1].max = 3.0f; }},
      {"mean", [](auto& p) { p[1].mean = -0.25f; }},
      {"mean's sign of zero", [](auto& p) { p[0].mean = -0.0f; }},
      {"amount", [](auto& p) { p[1].amount = 0.5f; }},
      {"keepNorm", [](auto& p) { p[1].keep_norm = false; }},
      {"phase", [](auto& p) { p[1].scope.phase = Phase::kAll; }},
      {"no positions", [](auto& p) { p[1].scope.has_positions = false; }},
      {"a position", [](auto& p) { p[1].scope.positions[1].second = 13; }},
      {"positions less", [](auto& p) { p[1].scope.positions.pop_back(); }},
      {"after", [](auto& p) { p[1].scope.after_generated = 3; }},
      {"first", [](auto& p) { p[1].scope.first_generated = 31; }},
      {"token ids", [](auto& p) { p[1].scope.token_ids = {4, 8}; }},
      {"a point of the schedule", [](auto& p) { p[1].schedule.points[1].second = 0.25f; }},
      {"no schedule", [](auto& p) { p[1].schedule.points.clear(); }},
      {"no gate", [](auto& p) { p[1].gate.reset(); }},
      {"gate on the row itself", [](auto& p) { p[1].gate->site = ""; }},
      {"threshold", [](auto& p) { p[1].gate->threshold = 0.25f; }},
      {"below", [](auto& p) { p[1].gate->above = false; }},
      {"not a cosine", [](auto& p) { p[1].gate->cosine = false; }},
      {"latch", [](auto& p) { p[1].gate->latch = true; }},
      {"order", [](auto& p) { std::swap(p[0], p[1]); }},
      {"one more", [](auto& p) { p.push_back(p[0]); }},
      {"one less", [](auto& p) { p.pop_back(); }},
  };
  return list;
}

}  // namespace

TEST(equal_programs_are_one_and_any_difference_makes_two) {
  World world;
  const auto first = world.share(rich());
  CHECK_THAT(world.share(rich()) == first);
  std::vector<std::shared_ptr<const Program>> held{first};
  for (const auto& [what, change] : changes()) {
    std::vector<OperationSpec> other = rich();
    change(other);
    held.push_back(world.share(other));
    for (size_t i = 0; i + 1 < held.size(); ++i) {
      if (held[i] == held.back()) fail(__FILE__, __LINE__, std::string("shared though different: ") + what);
    }
    CHECK_THAT(world.share(other) == held.back());
  }
  CHECK_THAT(world.programs.size() == static_cast<int64_t>(held.size()));
}

TEST(one_vector_is_held_once_whatever_is_done_with_it) {
  World world;
  const auto vector_of = [](const std::shared_ptr<const Program>& program) {
    return program->sites().front().operations.front().op.vector;
  };
  const auto weak = world.share({add_at("early", 1.0f, 0.5f)});
  const auto strong = world.share({add_at("late", 1.0f, 2.0f)});
  const auto other = world.share({add_at("early", 2.0f, 0.5f)});
  CHECK_THAT(weak != strong && vector_of(weak) == vector_of(strong));
  CHECK_THAT(vector_of(weak) != vector_of(other));
  // As a direction it has another length, so other values.
  OperationSpec ablate = add_at("early", 1.0f, 0.0f);
  ablate.kind = SteerKind::kAblate;
  CHECK_THAT(vector_of(world.share({ablate})) != vector_of(weak));
}

TEST(a_program_lives_as_long_as_its_last_request) {
  World world;
  auto first = world.share(rich());
  auto second = world.share(rich());
  const float* vector = first->sites().front().operations.front().op.vector;
  const float before = *vector;
  first.reset();
  world.programs.sweep();
  CHECK_THAT(world.programs.size() == 1);
  CHECK_THAT(*vector == before && world.share(rich()) == second);
  second.reset();
  world.programs.sweep();
  CHECK_THAT(world.programs.size() == 0);
}

// An operation that changes nothing is left out and its vector let go: another may come to stand there.
TEST(the_address_of_a_vector_that_was_let_go_proves_nothing) {
  World world;
  OperationSpec zero = add_at("early", 0.0f, 1.0f);
  zero.vector.assign(kWidth, 0.0f);
  const auto idle = world.share({zero});
  CHECK_THAT(idle->sites().empty());
  for (int i = 1; i < 50; ++i) {
    const auto acting = world.share({add_at("early", static_cast<float>(i), 1.0f)});
    CHECK_THAT(acting != idle && acting->sites().size() == 1);
  }
}

TEST(a_hash_that_collides_decides_nothing) {
  LiveTable<int> table;
  const Hash128 key;
  const auto one = std::make_shared<const int>(1);
  const auto two = std::make_shared<const int>(2);
  table.add(key, one);
  table.add(key, two);
  CHECK_THAT(table.find(key, [](int value) { return value == 2; }) == two);
  CHECK_THAT(table.find(key, [](int value) { return value == 1; }) == one);
  CHECK_THAT(table.find(key, [](int value) { return value == 3; }) == nullptr);
}

TEST(what_died_does_not_pile_up) {
  LiveTable<int> table;
  Hash128 key;
  size_t most = 0;
  const auto kept = std::make_shared<const int>(0);
  table.add(key, kept);
  for (int i = 1; i < 10000; ++i) {
    key.add(static_cast<uint64_t>(i));
    table.add(key, std::make_shared<const int>(i));
    most = std::max(most, table.size());
  }
  CHECK_THAT(most <= 65);
  CHECK_THAT(table.find(Hash128{}, [](int value) { return value == 0; }) == kept);
}

}  // namespace chatspace::testing
