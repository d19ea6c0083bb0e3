// SPDX-License-Identifier: Apache-2.0
// Devices other than the CPU. The CUDA half is a shared object beside the addon, opened when a CUDA
// device is first asked for or looked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace chatspace {

struct CudaDevice {
  std::string name;
  int64_t bytes = 0;
};

// Opens the CUDA half if it is there; throws Error ERR_CUDA_* with the reason and the remedy.
void require_cuda(const std::string& device);
// What the CUDA half finds; opens it if this machine has a driver and the half is there. Makes no CUDA
// context, so it takes no device memory. Empty when there is nothing to find.
std::vector<CudaDevice> cuda_devices();
// Bytes free on a device, 0 when it cannot say. Makes a CUDA context.
int64_t cuda_free_bytes(int device);

}  // namespace chatspace
