// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda/steer_counters.h"

#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace chatspace::cuda {
namespace {

// A step of 32 programs over 30 sites, one operation each.
constexpr int64_t kSmallestChunk = 1024;

using ThreadCounters = std::vector<std::pair<c10::Device, std::unique_ptr<SteerCounters>>>;

// Thread-local rather than keyed by thread id: ids are used again, and what a dead thread left unread
// points at memory that is gone.
ThreadCounters& of_this_thread() {
  thread_local ThreadCounters counters;
  return counters;
}

}  // namespace

SteerCounter* SteerCounters::take(const std::vector<SteerCounter*>& hosts) {
  const auto wanted = static_cast<int64_t>(hosts.size());
  const auto free_in = [](const Chunk& chunk) { return chunk.capacity - static_cast<int64_t>(chunk.hosts.size()); };
  if (chunks_.empty() || free_in(chunks_.back()) < wanted) {
    Chunk chunk;
    chunk.capacity = std::max(wanted, kSmallestChunk);
    chunk.slots = at::zeros({chunk.capacity * static_cast<int64_t>(sizeof(SteerCounter))},
                            at::TensorOptions().dtype(at::kByte).device(device_));
    chunks_.push_back(std::move(chunk));
  }
  Chunk& chunk = chunks_.back();
  auto* slots = static_cast<SteerCounter*>(chunk.slots.mutable_data_ptr()) + chunk.hosts.size();
  chunk.hosts.insert(chunk.hosts.end(), hosts.begin(), hosts.end());
  return slots;
}

void SteerCounters::read() {
  const c10::cuda::CUDAGuard guard(device_);
  // Taken out first: if the device fails below, nothing may point at host counters any more.
  std::vector<Chunk> chunks = std::move(chunks_);
  chunks_.clear();
  for (Chunk& chunk : chunks) {
    if (chunk.hosts.empty()) continue;
    const auto used = static_cast<int64_t>(chunk.hosts.size() * sizeof(SteerCounter));
    at::Tensor part = chunk.slots.narrow(0, 0, used);
    const at::Tensor host = part.cpu();  // waits for this stream
    part.zero_();
    const auto* counted = static_cast<const SteerCounter*>(host.const_data_ptr());
    for (size_t i = 0; i < chunk.hosts.size(); ++i) {
      chunk.hosts[i]->rows += counted[i].rows;
      chunk.hosts[i]->change_norm += counted[i].change_norm;
    }
    chunk.hosts.clear();
  }
  if (!chunks.empty()) chunks_.push_back(std::move(chunks.back()));  // kept for the next step
}

SteerCounters& thread_counters(c10::Device device) {
  ThreadCounters& all = of_this_thread();
  for (auto& [at, counters] : all) {
    if (at == device) return *counters;
  }
  all.emplace_back(device, std::make_unique<SteerCounters>(device));
  return *all.back().second;
}

void read_thread_counters() {
  for (auto& [device, counters] : of_this_thread()) counters->read();
}

}  // namespace chatspace::cuda
