// SPDX-License-Identifier: Apache-2.0
#include "decoder/device.h"

#include <ATen/Context.h>
#include <dlfcn.h>
#include <torch/version.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "errors.h"
#include "ops/backend.h"

namespace chatspace {
namespace {

using AbiFunction = int (*)();
using TorchFunction = const char* (*)();
using CountFunction = int (*)();
using DeviceFunction = int (*)(int device, char* name, size_t capacity, size_t* free_bytes, size_t* total_bytes);
using BackendFunction = Backend* (*)(int device);

std::mutex opening;
void* library = nullptr;

template <typename Function>
Function symbol(const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

std::vector<std::string> candidates() {
  std::vector<std::string> paths;
  if (const char* given = std::getenv("CHATSPACE_CUDA")) paths.emplace_back(given);
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&candidates), &info) != 0 && info.dli_fname != nullptr) {
    const std::string file = info.dli_fname;
    const std::string folder = file.substr(0, file.rfind('/') + 1);
    paths.push_back(folder + "chatspace_cuda.so");
    paths.push_back(folder + "../cuda/chatspace_cuda.so");
  }
  return paths;
}

// libtorch may have been opened from anywhere (chatspace_preload); its CUDA half lies beside it, where
// the run path of our library does not look. Left to the loader when there is none.
void open_torch_cuda() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::globalContext), &info) == 0 || info.dli_fname == nullptr) return;
  const std::string file = info.dli_fname;
  dlopen((file.substr(0, file.rfind('/') + 1) + "libtorch_cuda.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
}

void open_library() {
  open_torch_cuda();
  std::string tried;
  for (const std::string& path : candidates()) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library != nullptr) break;
    tried += text("\n  ", path, ": ", dlerror());
  }
  if (library == nullptr) {
    throw Error("ERR_CUDA_MISSING", text("the CUDA half of the addon cannot be opened; build it with npm run "
                                         "build:cuda (needs fetch-libtorch --cuda). Tried:", tried));
  }
  const auto abi = symbol<AbiFunction>("chatspace_cuda_abi");
  const auto torch_version = symbol<TorchFunction>("chatspace_cuda_torch");
  const bool fits = abi != nullptr && abi() == kBackendAbi && torch_version != nullptr &&
                    std::strcmp(torch_version(), TORCH_VERSION) == 0;
  if (!fits) {
    library = nullptr;
    throw Error("ERR_CUDA_ABI", text("the CUDA half was built for another addon or another libtorch (expected ABI ",
                                     kBackendAbi, ", torch ", TORCH_VERSION, "); build it again"));
  }
}

// libtorch asks once in a process whether there is CUDA and keeps the answer. Asked before our library
// brought libtorch's CUDA half in, it will say no for good.
void check_torch_sees_cuda(int count) {
  if (count == 0 || at::globalContext().hasCUDA()) return;
  throw Error("ERR_CUDA_LATE", text("this machine has ", count, " CUDA devices, but libtorch was asked for CUDA before "
                                    "its CUDA half was opened and will not look again in this process"));
}

}  // namespace

void require_cuda(const std::string& device) {
  std::lock_guard<std::mutex> lock(opening);
  if (library == nullptr) open_library();
  const int count = symbol<CountFunction>("chatspace_cuda_device_count")();
  check_torch_sees_cuda(count);
  const size_t colon = device.find(':');
  const int index = colon == std::string::npos ? 0 : std::atoi(device.c_str() + colon + 1);
  if (index >= count) {
    throw Error("ERR_CUDA_DEVICE", text("device ", device, ": this machine has ", count, " CUDA devices"),
                {{"device", device}});
  }
  set_cuda_backend(symbol<BackendFunction>("chatspace_cuda_backend")(index));
}

std::vector<CudaDevice> cuda_devices() {
  std::lock_guard<std::mutex> lock(opening);
  static bool looked = false;
  const bool driver = access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0;
  if (library == nullptr && driver && !looked) {
    looked = true;
    try {
      open_library();
    } catch (const Error&) {
      // Not built or not fitting: no CUDA. Whoever asks for a device by name hears the reason.
    }
  }
  std::vector<CudaDevice> devices;
  if (library == nullptr) return devices;
  const auto describe = symbol<DeviceFunction>("chatspace_cuda_device");
  const int count = symbol<CountFunction>("chatspace_cuda_device_count")();
  for (int i = 0; i < count; ++i) {
    std::array<char, 256> name{};
    size_t total = 0;
    if (describe(i, name.data(), name.size(), nullptr, &total) != 0) continue;
    devices.push_back({name.data(), static_cast<int64_t>(total)});
  }
  return devices;
}

int64_t cuda_free_bytes(int device) {
  std::lock_guard<std::mutex> lock(opening);
  if (library == nullptr) return 0;
  std::array<char, 256> name{};
  size_t free_bytes = 0;
  size_t total = 0;
  const auto describe = symbol<DeviceFunction>("chatspace_cuda_device");
  return describe(device, name.data(), name.size(), &free_bytes, &total) == 0 ? static_cast<int64_t>(free_bytes) : 0;
}

}  // namespace chatspace
