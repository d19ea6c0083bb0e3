// SPDX-License-Identifier: Apache-2.0
#include "archive/weight_arena.h"

#include <cstdint>
#include <vector>

#include "tests/check.h"

namespace chatspace::testing {

TEST(weight_arena_keeps_bits_and_outlives_its_maker) {
  at::manual_seed(3);
  std::vector<at::Tensor> given, placed;
  {
    WeightArena arena;
    // More than a chunk together, one more than a chunk alone, and every dtype a matrix comes in.
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf, at::kChar, at::kByte, at::kShort, at::kInt}) {
      for (const int64_t rows : {601, 1537, 4096}) given.push_back((at::randn({rows, 1001}) * 50).to(type));
    }
    given.push_back(at::randn({20000, 1001}));
    given.push_back(at::randn({1001, 700}).t());  // not contiguous
    for (const at::Tensor& weight : given) placed.push_back(arena.place(weight));
  }
  for (size_t i = 0; i < given.size(); ++i) {
    CHECK_THAT(placed[i].is_contiguous() && placed[i].scalar_type() == given[i].scalar_type());
    CHECK_THAT(placed[i].const_data_ptr() != given[i].const_data_ptr());
    CHECK_THAT(reinterpret_cast<uintptr_t>(placed[i].const_data_ptr()) % 64 == 0);
    CHECK_SAME_BITS(placed[i], given[i].contiguous(), "placed");
  }
  // Nothing overlaps: what one is filled with does not show in another.
  for (at::Tensor& weight : placed) weight.zero_();
  placed[4].fill_(1);
  for (size_t i = 0; i < placed.size(); ++i) {
    CHECK_THAT(placed[i].count_nonzero().item<int64_t>() == (i == 4 ? placed[4].numel() : 0));
  }
}

TEST(weight_arena_leaves_small_matrices_where_they_are) {
  WeightArena arena;
  const at::Tensor small = at::randn({16, 16});
  CHECK_THAT(arena.place(small).is_same(small));
}

}  // namespace chatspace::testing
