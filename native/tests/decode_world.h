// SPDX-License-Identifier: Apache-2.0
// A small decoder stepped by hand, as the engine does it: requests with programs, cache blocks and captures.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "decoder/own_decoder.h"
#include "steering/step_tables.h"

namespace chatspace::testing {

inline LoadOptions small_model() {
  LoadOptions options;
  options.path = std::string(CHATSPACE_SOURCE) + "/models/stories260k.pt";
  options.dtype = "float32";
  options.max_batch = 6;  // no power of two: the last padding is cut
  options.cache_bytes = 32 << 20;
  return options;
}

inline std::vector<float> values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

// One request, run by hand: what the engine keeps of it.
struct Running {
  std::vector<int64_t> tokens;
  int64_t prompt = 0;
  int64_t computed = 0;
  std::vector<int32_t> blocks;
  std::shared_ptr<const Program> program;
  std::vector<SteerCounter> counters;
  std::vector<float> latches;
  std::vector<Capture> captures;
  std::vector<Capture> probes;
};

inline std::vector<OperationSpec> random_program(std::mt19937& random, int64_t layers, int64_t hidden) {
  std::vector<OperationSpec> program;
  for (auto left = static_cast<int64_t>(random() % 4); left > 0; --left) {
    OperationSpec op;
    const int64_t layer = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(layers - 1));
    op.site = "layers." + std::to_string(layer) + (random() % 4 == 0 ? ".mlp" : "");
    op.kind = static_cast<SteerKind>(random() % 7);
    op.vector = values_of(at::randn({hidden}));
    if (op.kind == SteerKind::kSwap) op.second = values_of(at::randn({hidden}));
    if (op.kind == SteerKind::kCap) {
      op.min = -0.2f;
      op.max = 0.2f;
    }
    if (op.kind == SteerKind::kAddNorm) op.max = 1.0f;
    op.scale = 0.3f;
    op.amount = 0.2f;
    op.keep_norm = random() % 4 == 0;
    if (random() % 3 == 0) {
      GateSpec gate;
      gate.site = random() % 2 == 0 ? "" : "layers.0";
      gate.direction = values_of(at::randn({hidden}));
      gate.above = random() % 2 == 0;
      op.gate = gate;
    }
    program.push_back(op);
  }
  return program;
}

// A decoder and its steering tables, stepped as the engine does.
struct World {
  OwnDecoder decoder;
  StepTables tables;
  explicit World(const LoadOptions& options)
      : decoder(open_archive(options.path), options),
        tables(decoder.sites(), decoder.device(), [this](const at::Tensor& rows) { return decoder.lens(rows); }) {}

  at::Tensor step(std::vector<Running*> batch) {
    StepRows rows;
    std::vector<StepSlice> slices;
    std::vector<int64_t> logit_rows;
    for (Running* each : batch) {
      StepSlice slice;
      slice.first_row = static_cast<int64_t>(rows.tokens.size());
      slice.count = static_cast<int64_t>(each->tokens.size()) - each->computed;
      slice.first_position = static_cast<int32_t>(each->computed);
      slice.prompt = static_cast<int32_t>(each->prompt);
      slice.program = each->program.get();
      slice.captures = &each->captures;
      slice.probes = &each->probes;
      slice.counters = &each->counters;
      slice.latches = &each->latches;
      for (int64_t i = each->computed; i < static_cast<int64_t>(each->tokens.size()); ++i) {
        rows.tokens.push_back(each->tokens[static_cast<size_t>(i)]);
        rows.positions.push_back(static_cast<int32_t>(i));
        rows.row_sequence.push_back(static_cast<int32_t>(slices.size()));
      }
      logit_rows.push_back(static_cast<int64_t>(rows.tokens.size()) - 1);
      rows.sequences.push_back({static_cast<int64_t>(slices.size()), slice.first_row, slice.count, each->blocks});
      slices.push_back(slice);
      each->computed = static_cast<int64_t>(each->tokens.size());
    }
    for (StepSlice& slice : slices) slice.tokens = rows.tokens.data() + slice.first_row;
    tables.begin(static_cast<int64_t>(rows.tokens.size()), slices);
    const at::Tensor logits = decoder.forward(rows, logit_rows);
    tables.end();
    return logits;
  }
};

}  // namespace chatspace::testing
