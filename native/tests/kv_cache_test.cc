// SPDX-License-Identifier: Apache-2.0
// The cache object: its spec, its steps, and what it refuses.
#include "ops/kv_cache.h"

#include <cmath>

#include "tests/check.h"

namespace chatspace::testing {
namespace {
const char* const kSpec =
    "chatspace-cache 1\n"
    "rope 1 2 1 0.1\n"
    "rope 0.5 4 1 0.1 0.01 0.001\n"
    "layer 4 2 8 4 0 0 0.25 0 0\n"
    "layer 4 4 8 8 1 1 0.25 30 128\n"
    "layer 4 1 16 0 0 -1 1 0 0\n";
}  // namespace

TEST(kv_cache_spec_is_read_and_kept) {
  const KVCache cache(kSpec);
  CHECK_THAT(cache.spec() == kSpec);
  CHECK_THAT(cache.layers().size() == 3);
  CHECK_THAT(cache.layers()[1].interleaved && cache.layers()[1].window == 128 && cache.layers()[1].softcap == 30.0f);
  CHECK_THAT(cache.layers()[2].rope == -1 && cache.layers()[2].head_dim == 16);
  CHECK_THAT(cache.block_bytes(at::kHalf) == 2 * 2 * 32 * (2 * 8 + 4 * 8 + 16));
}

TEST(kv_cache_spec_refuses_malformed_text) {
  const auto refuse = [](const std::string& spec, const char* part) { CHECK_THROWS(KVCache{spec}, part); };
  refuse("", "got nothing");
  refuse("chatspace-cache 2\n", "version");
  refuse("cache 1\n", "expected 'chatspace-cache 1'");
  refuse("chatspace-cache 1\n", "no layers");
  refuse("chatspace-cache 1\nlayers 1\n", "expected 'rope' or 'layer'");
  refuse("chatspace-cache 1\nlayer 4 3 8 8 0 -1 1 0 0\n", "no multiple");
  refuse("chatspace-cache 1\nlayer 4 2 8 9 0 -1 1 0 0\n", "rotary dimension");
  refuse("chatspace-cache 1\nlayer 4 2 8 3 0 -1 1 0 0\n", "odd");
  refuse("chatspace-cache 1\nlayer 4 2 8 8 0 0 1 0 0\n", "rope");
  refuse("chatspace-cache 1\nrope 1 2 1 1\nlayer 4 2 8 8 0 0 1 0 0\n", "frequencies");
  refuse("chatspace-cache 1\nrope 1 99999999999 1\n", "number of frequencies");
  refuse("chatspace-cache 1\nrope 1 3 1 2\n", "a field is missing");
  refuse("chatspace-cache 1\nrope 1 1 x\n", "finite number");
  refuse("chatspace-cache 1\nrope nan 1 1\n", "finite number");
  refuse("chatspace-cache 1\nlayer 4 2 8 8 0 -1 1 0 0 7\n", "unexpected '7'");
  refuse("chatspace-cache 1\nlayer -4 2 8 8 0 -1 1 0 0\n", "heads");
  refuse("chatspace-cache 1\nlayer 4 2 8 8 0 -1 1e99 0 0\n", "finite number");
}

TEST(kv_cache_refuses_steps_that_do_not_fit) {
  KVCache cache(kSpec);
  const auto ints = [](std::vector<int32_t> v) { return at::tensor(v, at::kInt); };
  const at::Tensor qkv = at::zeros({1, 8 * 8});
  CHECK_THROWS(cache.attend(0, qkv, {}, {}, 1e-6), "outside a step");
  CHECK_THROWS(cache.positions(), "outside a step");
  CHECK_THROWS(cache.begin_step({ints({0}), ints({0}), ints({0}).view({1, 1})}), "not been allocated");
  CHECK_THROWS(cache.allocate(0, at::kFloat, at::kCPU), "cache blocks");
  CHECK_THROWS(cache.allocate(1, at::kDouble, at::kCPU), "float32, bfloat16 or float16");
  cache.allocate(2, at::kFloat, at::kCPU);
  const auto attend = [&](int32_t position, int32_t sequence, int32_t block) {
    cache.begin_step({ints({position}), ints({sequence}), ints({block}).view({1, 1})});
    return cache.attend(0, qkv, {}, {}, 1e-6);
  };
  CHECK_THAT(attend(0, 0, 1).size(1) == 32);
  CHECK_THROWS(attend(0, 0, 2), "outside a cache of 2");
  CHECK_THROWS(attend(0, 0, -1), "outside a cache of 2");
  CHECK_THROWS(attend(32, 0, 0), "outside block tables");
  CHECK_THROWS(attend(-1, 0, 0), "outside block tables");
  CHECK_THROWS(attend(0, 1, 0), "outside block tables");
  CHECK_THROWS(cache.attend(3, qkv, {}, {}, 1e-6), "layer 3");
  CHECK_THROWS(cache.attend(-1, qkv, {}, {}, 1e-6), "layer -1");
  CHECK_THROWS(cache.attend(2, qkv, {}, {}, 1e-6), "qkv must be");
  CHECK_THROWS(cache.copy_block(0, 2), "copy of block");
  CHECK_THROWS(cache.begin_step({at::zeros({2}), at::zeros({2}), at::zeros({1, 1})}), "int32");
}

TEST(kv_cache_copies_a_block_of_every_layer) {
  KVCache cache(kSpec);
  cache.allocate(3, at::kBFloat16, at::kCPU);
  const auto run = [&](const at::Tensor& qkv, int64_t begin, int32_t block) {
    cache.begin_step({at::arange(begin, begin + qkv.size(0), at::kInt), at::zeros({qkv.size(0)}, at::kInt),
                      at::full({1, 1}, block, at::kInt)});
    return cache.attend(1, qkv, {}, {}, 1e-6);
  };
  const at::Tensor prompt = at::randn({20, 96}), next = at::randn({1, 96});
  run(prompt, 0, 0);
  cache.copy_block(0, 2);
  const at::Tensor original = run(next, 20, 0);
  CHECK_SAME_BITS(run(next, 20, 2), original, "copied block");
  CHECK_SAME_BITS(cache.positions(), at::full({1}, 20, at::kLong), "positions");
}

}  // namespace chatspace::testing
