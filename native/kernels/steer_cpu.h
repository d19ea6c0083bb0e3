// SPDX-License-Identifier: Apache-2.0
// Steers and captures the rows of one site on the current pool.
#pragma once

#include "kernels/cpu_kernels.h"

namespace chatspace {

// `rows.change` is filled in here. Counters are summed in order of row, whatever the threads.
void steer_rows(const SteerCall& call, SteerRows rows);

}  // namespace chatspace
