// SPDX-License-Identifier: Apache-2.0
// The body of each cpu_kernels_*.cc. Everything here has internal linkage: a function compiled for
// AVX-512 must never be the copy that the linker keeps for the whole program.

namespace chatspace {
namespace {

#include "kernels/math.inl"
#include "kernels/rows.inl"
#include "kernels/int16.inl"
#include "kernels/linear.inl"
#include "kernels/attention.inl"
#include "kernels/steer_cpu.inl"

constexpr CpuKernels make_table(Isa isa, const char* name) {
  return CpuKernels{isa,      name,   kTileCols == 6 ? 24 : 8, linear, quantize_int16, activate, rms_norm, layer_norm,
                    to_float, from_float, rotate, attention, merge, steer, read, exp_array, argmax};
}

}  // namespace
