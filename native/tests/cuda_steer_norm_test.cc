// SPDX-License-Identifier: Apache-2.0
// Steering, addition and RMS norm in one kernel must leave what the two kernels leave, bit for bit, in every row:
// one that acts, one that is only normed, one that stands last. The bodies run on an emulated block.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "ops/backend.h"
#include "tests/check.h"
#include "tests/emulated_recorder.h"

namespace chatspace::testing {
namespace {

constexpr double kEps = 1e-5;

// Everything a site and its norm write.
struct Left {
  at::Tensor delta, residual, sum, normed, captured, read;
  std::vector<SteerCounter> counters;
};

struct Storage {
  at::ScalarType delta, weight;
};
constexpr Storage kStorages[] = {{at::kFloat, at::kFloat},
                                 {at::kBFloat16, at::kBFloat16},
                                 {at::kHalf, at::kHalf},
                                 {at::kBFloat16, at::kFloat},
                                 {at::kFloat, at::kHalf}};

// Takes what `run` leaves of copies of delta and residual and in the tables, which are cleared before.
template <class Run>
Left left_by(RandomSteer& tables, const at::Tensor& delta, const at::Tensor& residual, const Run& run) {
  tables.counters.assign(tables.counters.size(), {});
  tables.captured.fill_(NAN);
  tables.read.fill_(NAN);
  Left left;
  left.delta = delta.clone();
  left.residual = residual.clone();
  std::tie(left.sum, left.normed) = run(left.delta, left.residual);
  left.captured = tables.captured.clone();
  left.read = tables.read.clone();
  left.counters = tables.counters;
  return left;
}

void check_same(const Left& got, const Left& want, const std::string& what) {
  CHECK_SAME_BITS(got.delta, want.delta, what + " delta");
  CHECK_SAME_BITS(got.residual, want.residual, what + " residual");
  CHECK_SAME_BITS(got.sum, want.sum, what + " sum");
  CHECK_SAME_BITS(got.normed, want.normed, what + " normed");
  CHECK_SAME_BITS(got.captured, want.captured, what + " captures");
  CHECK_SAME_BITS(got.read, want.read, what + " readings");
  for (size_t i = 0; i < want.counters.size(); ++i) {
    CHECK_THAT(got.counters[i].rows == want.counters[i].rows);
    CHECK_THAT(got.counters[i].change_norm == want.counters[i].change_norm);
  }
}

std::tuple<at::Tensor, at::Tensor> both(const EmulatedNorm& norm) { return {norm.sum, norm.normed}; }

// Leaves a random part of the rows without work: none, some or all.
void thin_out(RandomSteer& tables, std::mt19937& random) {
  const auto keep = random() % 5;
  const auto dropped = [&](const SteerRow&) { return random() % 4 >= keep; };
  tables.work.erase(std::remove_if(tables.work.begin(), tables.work.end(), dropped), tables.work.end());
}

}  // namespace

TEST(cuda_a_row_finds_its_own_work_or_none) {
  constexpr int64_t kRows = 9;
  for (uint32_t chosen = 0; chosen < (1u << kRows); ++chosen) {
    std::vector<SteerRow> list;
    for (int32_t row = 0; row < kRows; ++row) {
      if ((chosen >> row & 1u) != 0) list.push_back({row, 0, 0, 0, 0, 0, 0});
    }
    const auto active = static_cast<int64_t>(list.size());
    for (int64_t rows = kRows; rows < kRows + 3; ++rows) {  // the last ones are padding
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t found = cuda::find_work(list.data(), active, rows, row);
        const bool listed = row < kRows && (chosen >> row & 1u) != 0;
        CHECK_THAT(listed ? found >= 0 && found < active && list[static_cast<size_t>(found)].row == row : found == -1);
      }
    }
  }
}

TEST(cuda_steering_and_norm_in_one_kernel_leave_the_bits_of_two) {
  at::manual_seed(31);
  std::mt19937 random(31);
  int64_t steered = 0, only_normed = 0;
  for (const Storage& storage : kStorages) {
    for (const int64_t hidden : {5, 64, 577}) {
      for (const int threads : {32, 96}) {
        for (const bool paired : {true, false}) {
          const int64_t rows = 1 + static_cast<int64_t>(random() % 9);
          RandomSteer tables(random, rows, hidden);
          thin_out(tables, random);
          const SteerCall call = tables.call(rows, hidden);
          steered += call.active;
          only_normed += rows - call.active;
          const at::Tensor delta = at::randn({rows, hidden}).to(storage.delta), residual = at::randn({rows, hidden}) * 4;
          const at::Tensor weight = at::randn({hidden}).to(storage.weight);
          const Left two = left_by(tables, delta, residual, [&](const at::Tensor& d, const at::Tensor& r) {
            emulate_steer(call, d, paired ? r : at::Tensor(), threads, random());
            return both(emulate_norm(d, r, weight, kEps, threads, random()));
          });
          const Left one = left_by(tables, delta, residual, [&](const at::Tensor& d, const at::Tensor& r) {
            return both(emulate_steer_norm(call, paired, d, r, weight, kEps, threads, random()));
          });
          const std::string what = std::string(c10::toString(storage.delta)) + (paired ? " pair" : " delta alone") +
                                   ", hidden " + std::to_string(hidden);
          check_same(one, two, what);
          // The two by the CPU's operators, as far as rounding lets them agree.
          const Left oracle = left_by(tables, delta, residual, [&](at::Tensor& d, at::Tensor& r) {
            return cpu_backend().steer_add_rms_norm(call, paired, d, r, weight, kEps);
          });
          // Steering a delta of 16 bits alone may round a last bit otherwise.
          const bool half = storage.delta != at::kFloat && !paired;
          const double allowed = half ? 8e-3 : 5e-6;
          CHECK_CLOSE(one.sum, oracle.sum, allowed, what + " sum");
          const double rounded = storage.weight == at::kFloat ? allowed : 8e-3;
          CHECK_CLOSE(one.normed, oracle.normed.to(storage.weight), std::max(allowed, rounded), what + " normed");
        }
      }
    }
  }
  CHECK_THAT(steered > 50 && only_normed > 50);
  std::printf("  %lld rows steered and normed, %lld only normed\n", static_cast<long long>(steered),
              static_cast<long long>(only_normed));
  report_worst("one kernel against the CPU operators");
}

TEST(cuda_recorded_steering_and_norm_leave_the_bits_of_two_for_any_program) {
  at::manual_seed(32);
  std::mt19937 random(32);
  constexpr int64_t kSlots = 3, kRows = 8, kHidden = 40, kBytes = 1 << 15;
  int64_t idle = 0;
  for (const Storage& storage : kStorages) {
    EmulatedTables held(kSlots, kBytes, /*norms=*/true);
    for (int round = 0; round < 12; ++round) {
      const bool paired = random() % 2 == 0;
      // Fewer rows than were recorded: the rest is padding, which is normed and never steered.
      RandomSteer tables(random, 1 + static_cast<int64_t>(random() % kRows), kHidden);
      thin_out(tables, random);
      const SteerCall call = tables.call(kRows, kHidden);
      const auto slot = static_cast<int64_t>(random() % kSlots);
      const std::vector<SiteWork> work = call.active == 0 ? std::vector<SiteWork>() : std::vector<SiteWork>{{slot, call}};
      idle += work.empty() ? 1 : 0;
      const at::Tensor delta = at::randn({kRows, kHidden}).to(storage.delta), residual = at::randn({kRows, kHidden});
      const at::Tensor weight = at::randn({kHidden}).to(storage.weight);
      const Left two = left_by(tables, delta, residual, [&](const at::Tensor& d, const at::Tensor& r) {
        emulate_steer(call, d, paired ? r : at::Tensor(), 64, random());
        return both(emulate_norm(d, r, weight, kEps, 64, random()));
      });
      const Left one = left_by(tables, delta, residual, [&](at::Tensor& d, at::Tensor& r) {
        CHECK_THAT(held.fill(work));
        auto out = held.steer_add_rms_norm(slot, paired, d, r, weight, kEps);
        const std::vector<int64_t> passed = held.read();
        CHECK_THAT(passed.size() == work.size() && (work.empty() || passed[0] == slot));
        return out;
      });
      check_same(one, two, std::string(c10::toString(storage.delta)) + ", round " + std::to_string(round));
    }
  }
  CHECK_THAT(idle > 0);
}

}  // namespace chatspace::testing
