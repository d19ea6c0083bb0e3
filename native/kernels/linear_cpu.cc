// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear_cpu.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "kernels/chunk_plan.h"
#include "kernels/int16_rows.h"
#include "kernels/thread_pool.h"

namespace chatspace {
namespace {

// Rows of x that stay in the second-level cache while all weights pass by. The kernel walks a long K in
// segments, so no more than one segment of each row is in use at a time.
int64_t row_block(int64_t rows, int64_t k, bool int16) {
  if (rows <= 64) return rows;
  const int64_t in_use = int16 ? std::max<int64_t>(int16_row_bytes(k), 1)
                               : std::clamp<int64_t>(k, 1, 576) * static_cast<int64_t>(sizeof(float));
  const int64_t fit = (384 * 1024) / in_use;
  const int64_t block = std::clamp<int64_t>(fit / 12 * 12, 24, 96);
  const int64_t blocks = (rows + block - 1) / block;
  return ((rows + blocks - 1) / blocks + 11) / 12 * 12;
}

// Cuts n columns of `weights_per_column` weight rows each.
ChunkPlan plan_columns(int64_t rows, int64_t k, int64_t n, int64_t weights_per_column, ElementType type, int64_t tile,
                       int threads, int64_t most) {
  const double bytes = static_cast<double>(row_bytes(type, k) * weights_per_column);
  const double flops = 2.0 * static_cast<double>(k * rows * weights_per_column);
  // About 8 bytes a nanosecond against 50 flops a nanosecond.
  const double nanoseconds = std::max(bytes / 8.0, flops / 50.0);
  return {n, std::min(most, static_cast<int64_t>(24000.0 / nanoseconds)), static_cast<int64_t>(3000.0 / nanoseconds),
          tile, threads};
}

// The rows of x in int16 when a weight asks for them, in scratch of this thread that holds until its next
// product; null otherwise.
const char* int16_rows(const float* x, int64_t x_stride, int64_t rows, int64_t k, bool wanted) {
  if (!wanted) return nullptr;
  const CpuKernels& kernels = cpu_kernels();
  const int64_t bytes = int16_row_bytes(k);
  auto* out = reinterpret_cast<char*>(thread_scratch(Scratch::kInt16, rows * bytes / 4));
  // About 16 Ki elements a chunk: a single row is not worth a claim.
  const int64_t step = std::max<int64_t>(1, 16384 / std::max<int64_t>(k, 1));
  current_pool()->parallel_for((rows + step - 1) / step, [&](int64_t chunk) {
    const int64_t end = std::min(rows, (chunk + 1) * step);
    for (int64_t row = chunk * step; row < end; ++row) kernels.quantize_int16(x + row * x_stride, k, out + row * bytes);
  });
  return out;
}

LinearBlock block_of(const float* x, int64_t x_stride, const char* x_int16, int64_t rows, int64_t k,
                     const LinearPart& part, int64_t row, int64_t column, int64_t columns, float* out, int64_t out_stride) {
  LinearBlock block;
  block.x = x + row * x_stride;
  block.x_stride = x_stride;
  block.rows = rows;
  block.k = k;
  block.weight = static_cast<const char*>(part.weight) + column * row_bytes(part.type, k);
  block.type = part.type;
  block.n = columns;
  block.bias = part.bias != nullptr ? part.bias + column : nullptr;
  block.out = out;
  block.out_stride = out_stride;
  if (x_int16 != nullptr) block.x_int16 = x_int16 + row * int16_row_bytes(k);
  return block;
}

}  // namespace

void linear_parts(const float* x, int64_t x_stride, int64_t rows, int64_t k, const LinearPart* parts, int64_t count,
                  int64_t out_stride) {
  if (rows <= 0) return;
  const CpuKernels& kernels = cpu_kernels();
  ThreadPool& pool = *current_pool();
  int64_t total = 0;
  bool int16 = false;
  for (int64_t p = 0; p < count; ++p) {
    total += parts[p].n;
    int16 = int16 || is_plane_type(parts[p].type);
  }
  const char* quantized = int16_rows(x, x_stride, rows, k, int16);
  const int64_t block = row_block(rows, k, int16);
  const int64_t row_blocks = (rows + block - 1) / block;
  // The parts lie side by side; a chunk may cross from one into the next.
  const ChunkPlan plan =
      plan_columns(block, k, total, 1, parts[0].type, kernels.linear_tile_n, pool.width(), total);
  const int64_t chunks = plan.count();
  const Stream stream{parts[0].weight, parts[0].n * row_bytes(parts[0].type, k)};
  pool.parallel_for(chunks * row_blocks, stream, [&](int64_t chunk) {
    const int64_t row = chunk / chunks * block;
    int64_t column = plan.starts[static_cast<size_t>(chunk % chunks)];
    int64_t left = plan.starts[static_cast<size_t>(chunk % chunks) + 1] - column;
    for (int64_t p = 0; left > 0; column -= parts[p].n, ++p) {
      const LinearPart& part = parts[p];
      if (column >= part.n) continue;
      const int64_t columns = std::min(left, part.n - column);
      kernels.linear(block_of(x, x_stride, quantized, std::min(block, rows - row), k, part, row, column, columns,
                              part.out + row * out_stride + column, out_stride));
      left -= columns;
      column += columns;
    }
  });
}

void linear_activated(const float* x, int64_t x_stride, int64_t rows, int64_t k, const LinearPart& gate,
                      const LinearPart& up, Activation act, float* out, int64_t out_stride) {
  if (rows <= 0) return;
  const CpuKernels& kernels = cpu_kernels();
  ThreadPool& pool = *current_pool();
  const bool gated = up.weight != nullptr;
  const int64_t n = gate.n;
  const bool int16 = is_plane_type(gate.type) || (gated && is_plane_type(up.type));
  const char* quantized = int16_rows(x, x_stride, rows, k, int16);
  const int64_t block = row_block(rows, k, int16);
  const int64_t row_blocks = (rows + block - 1) / block;
  // At most 384 columns: that bounds the scratch of `up`.
  const ChunkPlan plan = plan_columns(block, k, n, gated ? 2 : 1, gate.type, kernels.linear_tile_n, pool.width(),
                                      gated ? 384 : n);
  const int64_t chunks = plan.count();
  const Stream stream{gate.weight, gate.n * row_bytes(gate.type, k)};
  pool.parallel_for(chunks * row_blocks, stream, [&](int64_t chunk) {
    const int64_t row = chunk / chunks * block;
    const int64_t column = plan.starts[static_cast<size_t>(chunk % chunks)];
    const int64_t count = std::min(block, rows - row);
    const int64_t columns = plan.starts[static_cast<size_t>(chunk % chunks) + 1] - column;
    float* gated_out = out + row * out_stride + column;
    kernels.linear(block_of(x, x_stride, quantized, count, k, gate, row, column, columns, gated_out, out_stride));
    float* scratch = nullptr;
    if (gated) {
      scratch = thread_scratch(Scratch::kRows, count * columns);
      kernels.linear(block_of(x, x_stride, quantized, count, k, up, row, column, columns, scratch, columns));
    }
    kernels.activate(act, gated_out, out_stride, scratch, columns, count, columns);
  });
}

double read_bandwidth(int64_t bytes, int threads, int runs) {
  const int64_t floats = std::max<int64_t>(bytes / 4, 1024);
  std::unique_ptr<float, decltype(&std::free)> data(
      static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((floats * 4 + 63) / 64 * 64))), &std::free);
  if (data == nullptr) return 0.0;
  std::fill(data.get(), data.get() + floats, 1.0f);
  ThreadPool pool(std::max(threads, 1));
  const CpuKernels& kernels = cpu_kernels();
  constexpr int64_t kChunk = 64 * 1024;
  const int64_t chunks = (floats + kChunk - 1) / kChunk;
  double best = 0.0;
  std::atomic<float> sink{0.0f};
  for (int run = 0; run < std::max(runs, 1); ++run) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(chunks, [&](int64_t chunk) {
      const int64_t from = chunk * kChunk;
      sink.store(kernels.read(data.get() + from, std::min(kChunk, floats - from)), std::memory_order_relaxed);
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(floats) * 4.0 / seconds / 1e9);
  }
  return best;
}

}  // namespace chatspace
