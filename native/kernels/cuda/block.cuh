// SPDX-License-Identifier: Apache-2.0
// A thread block as the kernels' bodies see it. The bodies are templates over this small interface, so
// the tests run the very same code on a CPU, with a block of cooperative lanes in its place
// (native/tests/emulated_block.h).
#pragma once

#include "kernels/cuda/storage.cuh"

#if defined(__CUDACC__)

namespace chatspace::cuda {

class CudaBlock {
 public:
  __device__ __forceinline__ CudaBlock(float* reduce) : reduce_(reduce) {}

  __device__ __forceinline__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int size() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ int lane() const { return rank() & 31; }
  __device__ __forceinline__ int warp() const { return rank() >> 5; }
  __device__ __forceinline__ int warps() const { return size() >> 5; }

  __device__ __forceinline__ void sync() { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() { __syncwarp(); }

  // Butterfly: every lane ends with the same bits.
  __device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
  }
  __device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
  }
  // Over the whole block; the same value in every thread.
  __device__ __forceinline__ float sum(float value) {
    value = warp_sum(value);
    __syncthreads();  // the last sum's readers are done
    if (lane() == 0) reduce_[warp()] = value;
    __syncthreads();
    return warp_sum(lane() < warps() ? reduce_[lane()] : 0.0f);
  }
  // Called by one thread.
  __device__ __forceinline__ void count(SteerCounter& counter, double change) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&counter.rows), 1ull);
    atomicAdd(&counter.change_norm, change);
  }

 private:
  float* reduce_;  // shared, 32 floats
};

}  // namespace chatspace::cuda

#endif
