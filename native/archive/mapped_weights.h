// SPDX-License-Identifier: Apache-2.0
// Weight bytes by memory map: source files read-only, and an unlinked scratch file for what has to be
// rearranged (transposed, rows reordered), so that neither ever stands in anonymous memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include <ATen/ATen.h>

#include "archive/plan.h"

namespace chatspace {

// One mmapped region; unmapped when the last tensor over it is gone. Any thread.
class Mapping {
 public:
  // Read-only map of a whole file.
  static std::shared_ptr<Mapping> of_file(const std::string& path);
  // Writable map of `bytes` bytes of a new, already unlinked file in `folder`.
  static std::shared_ptr<Mapping> scratch(const std::string& folder, size_t bytes);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }
  // Lets the system take back the pages of [from, from + bytes) that lie in this map; the content stays.
  void release(const void* from, size_t bytes) const;

 private:
  Mapping(char* data, size_t size) : data_(data), size_(size) {}
  char* data_;
  size_t size_;
};

// A weight as it goes into the archive.
struct StoredWeight {
  at::Tensor tensor;           // the real dtype and shape, or uint8 [bytes] for block types
  std::string type;
  std::vector<int64_t> shape;  // in elements, after transpose and row selection
};

// Opens weights of a plan; the same source gives the same tensor (tied embeddings are stored once).
class MappedWeights {
 public:
  explicit MappedWeights(std::string scratch_folder) : scratch_folder_(std::move(scratch_folder)) {}
  StoredWeight open(const WeightSource& source, const std::string& where);
  // Drops the pages behind bytes that have been written.
  void release(const void* from, size_t bytes) const;

 private:
  std::shared_ptr<Mapping> file(const std::string& path);
  using Key = std::tuple<std::string, int64_t, std::string, bool, int64_t, int64_t, int64_t>;

  std::string scratch_folder_;
  std::map<std::string, std::shared_ptr<Mapping>> files_;
  std::vector<std::shared_ptr<Mapping>> scratch_;
  std::map<Key, StoredWeight> opened_;
};

// True for F32, F16, BF16.
bool is_float_type(const std::string& type);
// Dtype of F32, F16, BF16.
at::ScalarType float_type(const std::string& type);

}  // namespace chatspace
