// SPDX-License-Identifier: Apache-2.0
// Steps recorded in CUDA graphs. Each is run once on the recording stream first, so that libraries make
// their handles and workspaces and kernels are loaded outside the recording. Only this thread's calls are
// watched while recording (thread-local mode): other models go on on theirs.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/launches.h"

namespace chatspace::cuda {
namespace {

class CudaStepGraph final : public StepGraph {
 public:
  explicit CudaStepGraph(at::Device device) : device_(device) {}
  void replay() override {
    const c10::cuda::CUDAGuard guard(device_);
    graph.replay();
  }
  at::cuda::CUDAGraph graph;

 private:
  at::Device device_;
};

class CudaStepRecorder final : public StepRecorder {
 public:
  explicit CudaStepRecorder(at::Device device)
      : device_(device),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        pool_(at::cuda::graph_pool_handle()) {}

  std::unique_ptr<StepGraph> record(const std::function<void()>& step) override {
    const c10::cuda::CUDAGuard guard(device_);
    c10::cuda::device_synchronize();  // the step's inputs were queued on another stream
    {
      const c10::cuda::CUDAStreamGuard on(stream_);
      step();
    }
    stream_.synchronize();
    auto made = std::make_unique<CudaStepGraph>(device_);
    const c10::cuda::CUDAStreamGuard on(stream_);
    made->graph.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    try {
      step();
    } catch (...) {
      // The stream must not stay in capture. What ended it says less than the step's own error.
      try {
        made->graph.capture_end();
      } catch (const std::exception&) {
      }
      (void)cudaGetLastError();
      throw;
    }
    made->graph.capture_end();
    return made;
  }

 private:
  at::Device device_;
  c10::cuda::CUDAStream stream_;
  c10::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<StepRecorder> CudaBackend::step_recorder(at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  return std::make_unique<CudaStepRecorder>(device);
}

}  // namespace chatspace::cuda
