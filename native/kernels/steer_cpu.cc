// SPDX-License-Identifier: Apache-2.0
#include "kernels/steer_cpu.h"

#include <algorithm>
#include <vector>

#include "kernels/thread_pool.h"

namespace chatspace {

void steer_rows(const SteerCall& call, SteerRows rows) {
  if (call.active <= 0) return;
  const CpuKernels& kernels = cpu_kernels();
  std::vector<double> change(static_cast<size_t>(call.entry_count) + 1, 0.0);
  rows.change = change.data();
  constexpr int64_t kRows = 16;
  current_pool()->parallel_for((call.active + kRows - 1) / kRows, [&](int64_t chunk) {
    const int64_t end = std::min(call.active, (chunk + 1) * kRows);
    for (int64_t i = chunk * kRows; i < end; ++i) kernels.steer(call, rows, call.active_rows[i]);
  });
  for (int64_t i = 0; i < call.entry_count; ++i) {
    if (change[static_cast<size_t>(i)] < 0.0) continue;  // its gate stayed shut
    SteerCounter& counter = call.counters[call.ops[call.entries[i].op].counter];
    counter.rows += 1;
    counter.change_norm += change[static_cast<size_t>(i)];
  }
}

}  // namespace chatspace
