// SPDX-License-Identifier: Apache-2.0
// A request's steering program, compiled: vectors on the model's device, directions normalised,
// operations that cannot change anything left out, and each operation's scope ready to be asked
// "does this row count?". Immutable after compile(); shared by the steps of one request.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/steer_types.h"
#include "steering/hash128.h"

namespace chatspace {

enum class Phase { kAll, kPrompt, kGeneration };

// Which rows of a sequence something applies to.
struct Scope {
  Phase phase = Phase::kAll;
  bool has_positions = false;
  std::vector<std::pair<int32_t, int32_t>> positions;  // [start, end), absolute
  int32_t after_generated = 0;
  int32_t first_generated = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> token_ids;  // sorted; empty = any

  // position: of the row in its sequence; token: the row's input id; prompt: tokens of the prompt.
  bool selects(int32_t position, int32_t token, int32_t prompt) const;
};

// One operation as the caller gave it.
struct OperationSpec {
  std::string site;
  SteerKind kind = SteerKind::kAdd;
  std::vector<float> vector;
  float scale = 1.0f;
  float min = -std::numeric_limits<float>::infinity();
  float max = std::numeric_limits<float>::infinity();
  float mean = 0.0f;
  float amount = 1.0f;
  bool keep_norm = false;
  Scope scope;
};

struct CompiledOperation {
  SteerOp op;      // vector points into `storage`; counter = index in the caller's program
  Scope scope;
  at::Tensor storage;
  Hash128 content;  // of kind, parameters and vector
};

// The operations of one site in the caller's order.
struct SiteProgram {
  int64_t site;
  std::vector<CompiledOperation> operations;
};

class SiteTable;

class Program {
 public:
  // Throws Error when a site is unknown or a vector does not fit; checked again here because a wrong
  // width would read past the end.
  static std::shared_ptr<const Program> compile(const std::vector<OperationSpec>& specs, const SiteTable& sites,
                                                at::Device device);
  const std::vector<SiteProgram>& sites() const { return sites_; }
  // Adds to `key` what the program does to `count` (at most 64) rows from `first_position` on: for each
  // operation that selects any of them, which rows and with what. Nothing for rows it leaves alone, so
  // that they are the same as unsteered ones.
  void signature(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt, Hash128& key) const;
  // Adds to reused[i] the rows operation i selects among `count` rows from `first_position` on.
  void count_rows(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                  std::vector<int64_t>& reused) const;
  int64_t size() const { return size_; }

 private:
  std::vector<SiteProgram> sites_;
  int64_t size_ = 0;
};

}  // namespace chatspace
