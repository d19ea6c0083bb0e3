// SPDX-License-Identifier: Apache-2.0
#include "ops/backend.h"

#include <atomic>

namespace chatspace {
namespace {
std::atomic<Backend*> g_cuda{nullptr};
}  // namespace

Backend* cuda_backend() { return g_cuda.load(std::memory_order_acquire); }

void set_cuda_backend(Backend* backend) { g_cuda.store(backend, std::memory_order_release); }

Backend& backend_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined(), "chatspace: expected a tensor, got none");
  if (tensor.device().is_cpu()) return cpu_backend();
  Backend* cuda = cuda_backend();
  TORCH_CHECK(tensor.device().is_cuda() && cuda != nullptr, "chatspace: no operators for device ", tensor.device(),
              cuda == nullptr ? " (the CUDA library is not loaded)" : "");
  return *cuda;
}

}  // namespace chatspace
