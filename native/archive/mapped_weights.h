// SPDX-License-Identifier: Apache-2.0
// Weight bytes by memory map: source files read-only, and an unlinked scratch file for what has to be
// rearranged (transposed, rows reordered) or stored in another type, so that neither ever stands in anonymous memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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
  // `restored(bytes)` is told of source bytes that have been brought into another type.
  explicit MappedWeights(std::string scratch_folder, std::function<void(int64_t)> restored = {})
      : scratch_folder_(std::move(scratch_folder)), restored_(std::move(restored)) {}
  StoredWeight open(const WeightSource& source, const std::string& where);
  // Drops the pages behind bytes that have been written.
  void release(const void* from, size_t bytes) const;

 private:
  // The bytes of a weight on their way, and what keeps them mapped.
  struct Bytes {
    std::shared_ptr<Mapping> owner;
    const char* at;
    std::vector<int64_t> shape;
  };
  std::shared_ptr<Mapping> file(const std::string& path);
  std::shared_ptr<Mapping> scratch(int64_t bytes);
  Bytes locate(const WeightSource& source, const std::string& where);
  Bytes transposed(const WeightSource& source, const Bytes& from);
  Bytes in_half_order(const WeightSource& source, const Bytes& from, int64_t row_bytes, const std::string& where);
  StoredWeight stored_as(const std::string& type, const StoredWeight& weight, const std::string& where);
  using Key = std::tuple<std::string, int64_t, std::string, bool, int64_t, int64_t, int64_t, std::string>;

  std::string scratch_folder_;
  std::function<void(int64_t)> restored_;
  std::map<std::string, std::shared_ptr<Mapping>> files_;
  std::vector<std::shared_ptr<Mapping>> scratch_;
  std::map<Key, StoredWeight> opened_;
};

// True for F32, F16, BF16.
bool is_float_type(const std::string& type);
// Dtype of F32, F16, BF16.
at::ScalarType float_type(const std::string& type);

}  // namespace chatspace
