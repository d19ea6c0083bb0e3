// SPDX-License-Identifier: Apache-2.0
// Devices other than the CPU. The CUDA half is a shared object beside the addon, opened when a CUDA
// device is first asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace chatspace {

struct CudaDevice {
  std::string name;
  int64_t bytes = 0;
  int64_t free = 0;
};

// Opens the CUDA half if it is there; throws Error ERR_CUDA_* with the reason and the remedy.
void require_cuda(const std::string& device);
// Devices of the opened CUDA half; empty when it was not opened.
std::vector<CudaDevice> cuda_devices();

}  // namespace chatspace
