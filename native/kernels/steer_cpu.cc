// SPDX-License-Identifier: Apache-2.0
#include "kernels/steer_cpu.h"

#include <algorithm>
#include <vector>

#include "kernels/thread_pool.h"

namespace chatspace {

void steer_rows(const SteerCall& call, SteerRows rows) {
  if (call.rows <= 0) return;
  const int32_t entries = call.row_offsets[call.rows];
  if (entries == 0 && call.captures == 0) return;
  const CpuKernels& kernels = cpu_kernels();
  std::vector<double> change(static_cast<size_t>(entries) + 1, 0.0);
  rows.change = change.data();
  constexpr int64_t kRows = 16;
  current_pool()->parallel_for((call.rows + kRows - 1) / kRows, [&](int64_t chunk) {
    const int64_t end = std::min(call.rows, (chunk + 1) * kRows);
    for (int64_t row = chunk * kRows; row < end; ++row) kernels.steer(call, rows, row);
  });
  for (int32_t i = 0; i < entries; ++i) {
    SteerCounter& counter = call.counters[call.ops[call.op_index[i]].counter];
    counter.rows += 1;
    counter.change_norm += change[static_cast<size_t>(i)];
  }
}

}  // namespace chatspace
