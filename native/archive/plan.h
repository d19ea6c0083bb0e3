// SPDX-License-Identifier: Apache-2.0
// What an archive is made of, as plain data: the C++ side of NativeConvertPlan in
// src/native/contract.ts. TypeScript decides everything about families and names; here is only where
// the bytes lie and what the modules look like.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace chatspace {

// Where a weight's bytes lie, and what is done to them on the way into the archive, in this order:
// transpose, take rows, undo the interleaved rope order, bring into another element type.
struct WeightSource {
  std::string file;
  int64_t offset = 0;
  int64_t bytes = 0;
  std::string type;            // F32, F16, BF16 or a GGUF block type (Q4_1, ...)
  std::vector<int64_t> shape;  // row-major, outermost first, in elements
  bool transpose = false;      // two dimensions, F32, F16, BF16 only
  int64_t rope_heads = 0;      // > 0: rows are in llama.cpp's interleaved order for this many heads
  int64_t row_start = 0;
  int64_t rows = -1;           // -1 = all
  double addend = 0.0;         // added at load, one dimension only
  std::string store;           // F32, F16, BF16, Q8_0 or Q4_1: stored so; matrices only. "" = as it is
};

struct WeightPlan {
  std::string name;
  bool optional = false;               // the attribute is Optional[Tensor]
  std::optional<WeightSource> source;  // absent = None
};

struct AttributePlan {
  std::string name;
  std::variant<int64_t, double, bool, std::string> value;
};

// One module instance; parents come after their children.
struct ModulePlan {
  std::string path;  // "" = the root, "layers.0.attn"
  std::string kind;
  std::vector<AttributePlan> attributes;
  std::vector<WeightPlan> weights;
};

struct ConvertPlan {
  std::string output;
  std::vector<std::pair<std::string, std::string>> sources;  // kind, TorchScript source
  std::vector<ModulePlan> modules;
  std::string cache;  // spec of the KVCache
  std::string dtype;  // what loading with dtype "auto" takes; "" = the dtype of most matrices
  std::vector<std::pair<std::string, std::string>> extra_files;
};

}  // namespace chatspace
