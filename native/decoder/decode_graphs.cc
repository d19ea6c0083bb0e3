// SPDX-License-Identifier: Apache-2.0
#include "decoder/decode_graphs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "errors.h"

namespace chatspace {
namespace {

// Widths of block tables that steps are recorded for: 1024, 4096, 16384 positions, then the whole context.
constexpr int64_t kWidths[] = {32, 128, 512};

int64_t padded_rows(int64_t rows, int64_t most) {
  int64_t padded = 1;
  while (padded < rows) padded *= 2;
  return std::min(padded, most);
}

int64_t padded_width(int64_t blocks, int64_t most) {
  for (const int64_t width : kWidths) {
    if (blocks <= width && width < most) return width;
  }
  return most;
}

// Copies host bytes to the beginning of `to` without waiting for the device. The pinned block is kept by
// torch's host allocator until the copy is done.
void upload(const void* bytes, size_t size, const at::Tensor& to) {
  const auto count = static_cast<int64_t>(size);
  const bool pinned = !to.device().is_cpu();
  const at::Tensor host = at::empty({count}, at::TensorOptions().dtype(at::kByte).pinned_memory(pinned));
  std::memcpy(host.mutable_data_ptr(), bytes, size);
  to.narrow(0, 0, count).copy_(host, /*non_blocking=*/true);
}

bool is_layer(const std::string& name) {
  constexpr const char* kPrefix = "layers.";
  return name.rfind(kPrefix, 0) == 0 && name.find('.', std::strlen(kPrefix)) == std::string::npos;
}

[[noreturn]] void refuse(int64_t rows, const std::string& reason) {
  throw Error("ERR_GRAPH_RECORD",
              text("a step of ", rows, " rows cannot be recorded in a CUDA graph: ", brief(reason)));
}

// While it lives the sites' hooks record instead of steering.
class Recording {
 public:
  Recording(SiteTable& sites, SiteTables& tables, const std::function<bool(int64_t)>& reached) : sites_(sites) {
    for (int64_t site = 0; site < sites.size(); ++site) {
      SiteHook& hook = *sites.at(site).hook;
      hook.slot = site;
      hook.recorded_in = reached(site) ? &tables : nullptr;
      // The step at hand may have work here; its recording has none.
      active_.push_back(std::exchange(hook.step.active, false));
    }
  }
  ~Recording() {
    for (int64_t site = 0; site < sites_.size(); ++site) {
      sites_.at(site).hook->recorded_in = nullptr;
      sites_.at(site).hook->step.active = active_[static_cast<size_t>(site)];
    }
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  SiteTable& sites_;
  std::vector<bool> active_;
};

}  // namespace

DecodeGraphs::DecodeGraphs(Backend& backend, SiteTable& sites, KVCache& cache, at::Device device, int64_t max_batch,
                           int64_t max_blocks, int64_t table_bytes, Forward forward)
    : sites_(sites),
      cache_(cache),
      device_(device),
      max_batch_(max_batch),
      max_blocks_(max_blocks),
      forward_(std::move(forward)),
      tables_(backend.site_tables(device, sites.size(), max_batch, table_bytes)),
      recorder_(backend.step_recorder(device)) {
  if (tables_ == nullptr || recorder_ == nullptr) {
    throw Error("ERR_GRAPHS_DEVICE", text("cudaGraphs: expected a CUDA device, got ", device.str()));
  }
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(device);
  inputs_ = at::zeros({16 * max_batch}, bytes);
  tokens_ = inputs_.narrow(0, 0, 8 * max_batch).view(at::kLong);
  positions_ = inputs_.narrow(0, 8 * max_batch, 4 * max_batch).view(at::kInt);
  row_sequence_ = inputs_.narrow(0, 12 * max_batch, 4 * max_batch).view(at::kInt);
  block_tables_ = at::zeros({max_batch, max_blocks}, bytes.dtype(at::kInt));
  tables_there_.assign(static_cast<size_t>(max_batch * max_blocks), 0);
  for (const Site& site : sites.list()) layer_site_.push_back(is_layer(site.name));
}

void DecodeGraphs::probe() { recorded({1, padded_width(1, max_blocks_), Reach::kNone}); }

bool DecodeGraphs::fits(const StepRows& step, const std::vector<int64_t>& logit_rows) const {
  const auto rows = static_cast<int64_t>(step.tokens.size());
  if (rows == 0 || rows > max_batch_ || rows != static_cast<int64_t>(step.sequences.size())) return false;
  if (!step.given_rows.empty() || logit_rows.size() != step.tokens.size()) return false;
  for (const StepRows::Sequence& sequence : step.sequences) {
    if (sequence.rows != 1 || static_cast<int64_t>(sequence.blocks.size()) > max_blocks_) return false;
  }
  return true;
}

DecodeGraphs::Reach DecodeGraphs::reach_of(const std::vector<SiteWork>& work) const {
  Reach reach = Reach::kNone;
  for (const SiteWork& site : work) {
    reach = std::max(reach, layer_site_[static_cast<size_t>(site.slot)] ? Reach::kLayers : Reach::kAll);
  }
  return reach;
}

// Tokens, positions and sequences of the rows; the rest of `padded` is padding.
void DecodeGraphs::put_rows(const StepRows& step, int64_t padded) {
  std::vector<uint8_t> bytes(static_cast<size_t>(16 * max_batch_), 0);
  auto* tokens = reinterpret_cast<int64_t*>(bytes.data());
  auto* positions = reinterpret_cast<int32_t*>(bytes.data() + 8 * max_batch_);
  auto* sequences = reinterpret_cast<int32_t*>(bytes.data() + 12 * max_batch_);
  for (size_t row = 0; row < step.tokens.size(); ++row) {
    tokens[row] = step.tokens[row];
    positions[row] = step.positions[row];
    sequences[row] = step.row_sequence[row];
  }
  for (int64_t row = static_cast<int64_t>(step.tokens.size()); row < padded; ++row) {
    sequences[row] = static_cast<int32_t>(-1 - row);
  }
  upload(bytes.data(), bytes.size(), inputs_);
}

// Blocks are added to a sequence one at a time and change only when it gave them up to an older one, so most
// steps find theirs there.
void DecodeGraphs::put_tables(const StepRows& step) {
  bool changed = false;
  for (size_t row = 0; row < step.sequences.size(); ++row) {
    const std::vector<int32_t>& blocks = step.sequences[row].blocks;
    int32_t* there = tables_there_.data() + row * static_cast<size_t>(max_blocks_);
    if (std::equal(blocks.begin(), blocks.end(), there)) continue;
    std::copy(blocks.begin(), blocks.end(), there);
    changed = true;
  }
  if (!changed) return;
  const size_t used = step.sequences.size() * static_cast<size_t>(max_blocks_) * sizeof(int32_t);
  upload(tables_there_.data(), used, block_tables_.view({-1}).view(at::kByte));
}

const DecodeGraphs::Recorded& DecodeGraphs::recorded(const Key& key) {
  const auto found = recordings_.find(key);
  if (found != recordings_.end()) return found->second;
  const auto [rows, width, reach] = key;
  // While it is recorded a step must change nothing: padding alone, no site with work.
  put_rows({}, rows);
  tables_->fill({});
  Recorded& made = recordings_[key];
  try {
    made.graph = recorder_->record([this, &made, rows = rows, width = width, reach = reach] {
      const Recording recording(sites_, *tables_, [&](int64_t site) {
        return reach == Reach::kAll || (reach == Reach::kLayers && layer_site_[static_cast<size_t>(site)]);
      });
      StepLayout layout;
      layout.positions = positions_.narrow(0, 0, rows);
      layout.row_sequence = row_sequence_.narrow(0, 0, rows);
      layout.block_tables = block_tables_.narrow(0, 0, rows).narrow(1, 0, width);
      cache_.begin_step(std::move(layout));
      made.logits = forward_(tokens_.narrow(0, 0, rows));
    });
  } catch (const c10::OutOfMemoryError&) {
    recordings_.erase(key);
    throw;
  } catch (const c10::Error& error) {
    recordings_.erase(key);
    refuse(rows, error.what_without_backtrace());
  } catch (const std::exception& error) {
    recordings_.erase(key);
    refuse(rows, error.what());
  }
  counts_.recorded += 1;
  return made;
}

// What the hooks do when they run. The order in which sites are passed is the decoder's, so whether a gate's
// reading is made before it is needed is known without running.
void DecodeGraphs::mark_passed(const std::vector<SiteWork>& work) {
  for (const int64_t slot : tables_->read()) {
    const Site& site = sites_.at(slot);
    site.hook->step.ran = true;
    for (const SiteStep* gate : site.hook->step.gates) {
      const auto source = std::find_if(work.begin(), work.end(), [&](const SiteWork& other) {
        return &sites_.at(other.slot).hook->step == gate;
      });
      if (source == work.end() || sites_.at(source->slot).order >= site.order) site.hook->step.ungated = true;
    }
  }
}

std::optional<at::Tensor> DecodeGraphs::run(const StepRows& step, const std::vector<int64_t>& logit_rows) {
  if (!fits(step, logit_rows)) return std::nullopt;
  std::vector<SiteWork> work;
  for (int64_t slot = 0; slot < sites_.size(); ++slot) {
    const Site& site = sites_.at(slot);
    if (site.hook->step.active) work.push_back({slot, site.hook->step.call(site.width)});
  }
  const auto rows = static_cast<int64_t>(step.tokens.size());
  size_t blocks = 1;
  for (const StepRows::Sequence& sequence : step.sequences) blocks = std::max(blocks, sequence.blocks.size());
  const int64_t padded = padded_rows(rows, max_batch_);
  const Recorded& recording =
      recorded({padded, padded_width(static_cast<int64_t>(blocks), max_blocks_), reach_of(work)});
  // A recording that reaches no site reads no tables.
  if (!work.empty() && !tables_->fill(work)) {
    counts_.overflowed += 1;
    return std::nullopt;
  }
  put_rows(step, padded);
  put_tables(step);
  recording.graph->replay();
  at::Tensor logits = recording.logits.narrow(0, 0, rows).to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  if (!work.empty()) mark_passed(work);
  counts_.replayed += 1;
  return logits;
}

}  // namespace chatspace
