// SPDX-License-Identifier: Apache-2.0
// The steering tables of all sites at one address, filled again and again for other programs: what a recorded
// step reads must be this step's work and nothing of the one before.
#include <cstring>
#include <random>

#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_recorder.h"

namespace chatspace::testing {

TEST(cuda_site_tables_at_one_address_serve_any_program) {
  at::manual_seed(21);
  std::mt19937 random(21);
  constexpr int64_t kSlots = 4, kRows = 8, kHidden = 40, kBytes = 1 << 15;
  cuda::SiteTableBlock layout(kSlots, kBytes);
  FixedBlock block(kBytes);
  for (int round = 0; round < 40; ++round) {
    // Any sites, none of them, the same one again: what a slot held before must not show.
    std::vector<std::unique_ptr<RandomSteer>> tables(kSlots);
    std::vector<SiteWork> work;
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      if (random() % 3 == 0) continue;
      tables[static_cast<size_t>(slot)] = std::make_unique<RandomSteer>(random, 1 + static_cast<int64_t>(random() % kRows), kHidden);
      const auto rows = static_cast<int64_t>(tables[static_cast<size_t>(slot)]->work.size());
      work.push_back({slot, tables[static_cast<size_t>(slot)]->call(rows, kHidden)});
    }
    CHECK_THAT(layout.fill(work));
    std::memcpy(block.data(), layout.bytes().data(), layout.bytes().size());
    std::vector<at::Tensor> deltas, residuals, captured, read;
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      const at::Tensor delta = at::randn({kRows, kHidden}), residual = at::randn({kRows, kHidden}) * 3;
      at::Tensor got = delta.clone();
      emulate_slot(block.data(), slot, got, residual, 64, random());
      RandomSteer* own = tables[static_cast<size_t>(slot)].get();
      if (own == nullptr) {
        CHECK_SAME_BITS(got, delta, "an idle site");
        continue;
      }
      const auto rows = static_cast<int64_t>(own->work.size());
      CHECK_SAME_BITS(got.narrow(0, rows, kRows - rows), delta.narrow(0, rows, kRows - rows), "padded rows");
      const at::Tensor got_captured = own->captured.clone(), got_read = own->read.clone();
      own->captured.fill_(NAN);
      own->read.fill_(NAN);
      const std::vector<SteerCounter> before = own->counters;
      at::Tensor oracle = delta.narrow(0, 0, rows).clone(), oracle_residual = residual.narrow(0, 0, rows).clone();
      cpu_backend().steer(own->call(rows, kHidden), oracle, oracle_residual);
      CHECK_CLOSE(got.narrow(0, 0, rows), oracle, 5e-6, "steered rows");
      CHECK_CLOSE(at::nan_to_num(got_captured), at::nan_to_num(own->captured), 5e-6, "captures");
      CHECK_THAT(at::equal(at::isnan(got_captured), at::isnan(own->captured)));
      CHECK_CLOSE(got_read, own->read, 5e-6, "readings");
      for (const SteerCounter& counter : before) CHECK_THAT(counter.rows == 0);
    }
    // The device's counts come on top of the oracle's: each must have doubled.
    std::vector<std::vector<SteerCounter>> once;
    for (const auto& own : tables) once.push_back(own == nullptr ? std::vector<SteerCounter>() : own->counters);
    const std::vector<int64_t> visited = layout.take(block.data());
    CHECK_THAT(visited.size() == work.size());
    for (size_t i = 0; i < visited.size(); ++i) CHECK_THAT(visited[i] == work[i].slot);
    for (size_t slot = 0; slot < tables.size(); ++slot) {
      if (tables[slot] == nullptr) continue;
      for (size_t i = 0; i < once[slot].size(); ++i) {
        CHECK_THAT(tables[slot]->counters[i].rows == 2 * once[slot][i].rows);
        CHECK_THAT(std::abs(tables[slot]->counters[i].change_norm - 2 * once[slot][i].change_norm) <=
                   1e-4 * (once[slot][i].change_norm + 1e-3));
      }
    }
    CHECK_THAT(layout.take(block.data()).empty());  // counts are taken once
  }
  report_worst("tables at one address");
}

TEST(cuda_site_tables_refuse_what_does_not_fit_and_keep_what_they_held) {
  std::mt19937 random(22);
  RandomSteer small(random, 2, 16), large(random, 8, 16);
  cuda::SiteTableBlock layout(2, 4096);
  CHECK_THAT(layout.fill({{1, small.call(2, 16)}}));
  const std::vector<uint8_t> held = layout.bytes();
  CHECK_THAT(!layout.fill({{0, large.call(8, 16)}, {1, large.call(8, 16)}}));
  CHECK_THAT(layout.bytes() == held);
  FixedBlock block(4096);
  std::memcpy(block.data(), held.data(), held.size());
  // A step that never passed the site must not look as if it had.
  CHECK_THAT(layout.take(block.data()).empty());
}

}  // namespace chatspace::testing
