// SPDX-License-Identifier: Apache-2.0
// Memory this process may still take on a device, in bytes: the smaller of what the machine has
// available and what the control group leaves.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace chatspace {

int64_t available_memory(c10::Device device);

}  // namespace chatspace
