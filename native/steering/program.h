// SPDX-License-Identifier: Apache-2.0
// A request's steering program, compiled: vectors on the model's device, directions normalised,
// operations that cannot change anything left out, and each operation's scope, schedule and gate ready to
// be asked "does this row count, and how much?". Immutable after compile(); shared by all requests whose
// programs are equal (program_table.h).
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/steer_types.h"
#include "steering/hash128.h"
#include "steering/steady_rows.h"
#include "steering/vector_table.h"

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

// How strength moves over the generated rows: straight lines between points (generated index, factor),
// ascending; level before the first and after the last. Prompt rows take the factor of index 0. No points: 1.
struct Schedule {
  std::vector<std::pair<float, float>> points;

  float at(int32_t position, int32_t prompt) const;
};

// Makes an operation conditional on a reading: of its own row as it stands at the operation's turn (site
// ""), of the same token's row at another site, or, latched, of the last prompt token's row, which decides
// once for all generated rows (conditional activation steering: Lee et al. 2024, arXiv:2409.05907).
struct GateSpec {
  std::string site;
  std::vector<float> direction;
  float threshold = 0.0f;
  bool above = true;
  bool cosine = false;
  bool latch = false;
};

// One operation as the caller gave it.
struct OperationSpec {
  std::string site;
  SteerKind kind = SteerKind::kAdd;
  std::vector<float> vector;  // of a subspace: [rank, width]
  std::vector<float> second;  // swap: [width]; subspace: [3, rank] push, keep, mean
  float scale = 1.0f;
  float min = -std::numeric_limits<float>::infinity();
  float max = std::numeric_limits<float>::infinity();
  float mean = 0.0f;
  float amount = 1.0f;
  bool keep_norm = false;
  Scope scope;
  Schedule schedule;
  std::optional<GateSpec> gate;
};

// A reading that gates of other sites need, made after the operations of its site.
struct GateReading {
  int64_t site;
  VectorRef direction;  // [width], unit norm
  bool cosine;
};

struct CompiledOperation {
  SteerOp op;  // points into `vector`, `second` and `gate_direction`; counter = index in the caller's program
  Scope scope;
  Schedule schedule;
  int32_t gate = -1;   // index into Program::readings(); -1 = none, or the row itself (op.gate)
  bool latch = false;  // `gate` is read on the last prompt token; acts on generated rows alone
  VectorRef vector;
  VectorRef second;
  VectorRef gate_direction;
  Hash128 content;  // of kind, parameters, vectors and gate

  // Strength on a row: 0 where the scope leaves it out, or a latch has nothing to say about it.
  float strength(int32_t position, int32_t token, int32_t prompt) const;
};

// The operations of one site in the caller's order.
struct SiteProgram {
  int64_t site;
  std::vector<CompiledOperation> operations;
};

class SiteTable;

class Program {
 public:
  // Throws Error when a site is unknown, a vector does not fit, or a gate reads a site that has not run by
  // then; checked again here because a wrong width would read past the end.
  static std::shared_ptr<const Program> compile(const std::vector<OperationSpec>& specs, const SiteTable& sites,
                                                VectorTable& vectors);
  const std::vector<SiteProgram>& sites() const { return sites_; }
  const std::vector<GateReading>& readings() const { return readings_; }
  const SteadyRows& steady() const { return steady_; }
  // Adds to `key` what the program does to `count` (at most 64) rows from `first_position` on: for each
  // operation that may act on any of them, which rows, how strongly and with what. Nothing for rows it
  // leaves alone, so that they are the same as unsteered ones.
  void signature(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt, Hash128& key) const;
  // Adds to reused[i] the rows operation i acts on among `count` rows from `first_position` on. Gated
  // operations are left out: which of those rows the gate was open for is not kept.
  void count_rows(int32_t first_position, int32_t count, const int64_t* tokens, int32_t prompt,
                  std::vector<int64_t>& reused) const;
  // Everything the compiled program consists of, its vectors by address: two programs of one VectorTable
  // that live at the same time do the same exactly if these are equal.
  std::vector<uint64_t> identity() const;

 private:
  CompiledOperation compile_operation(const OperationSpec& spec, int64_t site, const SiteTable& sites,
                                      VectorTable& vectors);
  void compile_gate(const GateSpec& gate, int64_t site, const SiteTable& sites, VectorTable& vectors,
                    CompiledOperation& out);

  std::vector<SiteProgram> sites_;
  std::vector<GateReading> readings_;
  SteadyRows steady_;
};

}  // namespace chatspace
