// SPDX-License-Identifier: Apache-2.0
// What the addon finds by dlsym after it has opened this library. C names; the addon checks
// chatspace_cuda_abi() and chatspace_cuda_torch() before it calls anything else, because a Backend
// made for another header or another libtorch would be called through the wrong table.
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#include <torch/version.h>

#include <cstddef>
#include <cstdio>

#include "ops/cuda/cuda_backend.h"

#define CHATSPACE_EXPORT extern "C" __attribute__((visibility("default")))

// kBackendAbi of the header this library was built with.
CHATSPACE_EXPORT int chatspace_cuda_abi() { return chatspace::kBackendAbi; }

// libtorch this library was built with, for example "2.11.0".
CHATSPACE_EXPORT const char* chatspace_cuda_torch() {
  static char version[32];
  std::snprintf(version, sizeof version, "%d.%d.%d", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
  return version;
}

// CUDA devices this process can use; 0 without a driver. Never throws.
CHATSPACE_EXPORT int chatspace_cuda_device_count() { return static_cast<int>(c10::cuda::device_count()); }

// Name (terminated, cut to `capacity`) and memory of a device. Returns 0, or a cudaError_t. `free_bytes`
// may be null; asking for it makes a CUDA context on the device, which takes some of its memory.
CHATSPACE_EXPORT int chatspace_cuda_device(int device, char* name, size_t capacity, size_t* free_bytes,
                                           size_t* total_bytes) {
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) {
    return static_cast<int>(error);
  }
  std::snprintf(name, capacity, "%s", properties.name);
  *total_bytes = properties.totalGlobalMem;
  if (free_bytes == nullptr) return 0;
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  return static_cast<int>(cudaMemGetInfo(free_bytes, total_bytes));
}

// The backend, ready for `device`; throws c10::Error when there is no such device. Lives as long as the
// process: the library is never closed.
CHATSPACE_EXPORT chatspace::Backend* chatspace_cuda_backend(int device) {
  const int count = chatspace_cuda_device_count();
  TORCH_CHECK(device >= 0 && device < count, "cuda:", device, " was asked for, this process can use ", count,
              " CUDA device(s)");
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  static auto* backend = new chatspace::cuda::CudaBackend();
  return backend;
}
