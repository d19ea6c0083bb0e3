// SPDX-License-Identifier: Apache-2.0
// Products on a matrix unit: the kernel's own body on emulated tiles anywhere, and on the processor's where
// it has them, which must agree bit for bit.
#include <emmintrin.h>

#include <cmath>
#include <cstring>
#include <random>

#include "tests/check.h"
#include "tests/emulated_tiles.h"

namespace chatspace::testing {
namespace {

#include "kernels/linear_amx.inl"

using Floats = std::vector<float>;

struct Problem {
  int64_t rows, k, n;
  Floats x, bias;
  std::vector<uint16_t> weight;
  LinearBlock block(float* out) const {
    LinearBlock b{};
    b.x = x.data();
    b.x_stride = k;
    b.rows = rows;
    b.k = k;
    b.weight = weight.data();
    b.type = ElementType::kBFloat16;
    b.n = n;
    b.bias = bias.empty() ? nullptr : bias.data();
    b.out = out;
    b.out_stride = n;
    return b;
  }
};

float from_half(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
}

Problem random_problem(int64_t rows, int64_t k, int64_t n, bool bias, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Problem p{rows, k, n, Floats(static_cast<size_t>(rows * k)), {}, std::vector<uint16_t>(static_cast<size_t>(n * k))};
  for (float& v : p.x) v = normal(random);
  for (uint16_t& v : p.weight) v = to_half(normal(random));
  if (bias) {
    p.bias.resize(static_cast<size_t>(n));
    for (float& v : p.bias) v = normal(random);
  }
  return p;
}

Floats emulated(const LinearBlock& b) {
  std::vector<uint32_t> packed(static_cast<size_t>(packed_limbs_words(b.rows, b.k)));
  pack_limbs(b.x, b.x_stride, b.rows, b.k, packed.data());
  Floats out(static_cast<size_t>(b.rows * b.n));
  LinearBlock to = b;
  to.out = out.data();
  to.out_stride = b.n;
  linear_tiles<EmulatedTiles>(to, packed.data());
  return out;
}

Floats emulated(const Problem& p) { return emulated(p.block(nullptr)); }

bool same(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

}  // namespace

TEST(amx_limbs_add_up_to_the_number) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    float x[kTilePiece];
    for (float& v : x) {
      const uint32_t bits = random();
      std::memcpy(&v, &bits, 4);
    }
    x[0] = std::numeric_limits<float>::max();
    x[1] = -std::numeric_limits<float>::denorm_min();
    x[2] = -0.0f;
    uint32_t pairs[kLimbs * kTileSide];
    split_limbs(x, pairs);
    for (int i = 0; i < kTilePiece; ++i) {
      double sum = 0.0;
      for (int l = 0; l < kLimbs; ++l) {
        sum += from_half(static_cast<uint16_t>(pairs[l * kTileSide + i / 2] >> (i % 2 == 0 ? 0 : 16)));
      }
      const double want = x[i];
      // Below 2^-110 the last bits are less than bfloat16 has; the unit takes them for zero in any case.
      const double allowed = std::fabs(want) < std::ldexp(1.0, -110) ? std::ldexp(1.0, -133) : 0.0;
      const bool equal = std::isfinite(want) ? std::fabs(sum - want) <= allowed
                                             : std::isnan(want) == std::isnan(sum) && (std::isnan(want) || sum == want);
      if (!equal) return fail(__FILE__, __LINE__, "limbs of " + std::to_string(x[i]) + " add up to " + std::to_string(sum));
    }
  }
}

TEST(amx_linear_stays_inside_its_bound_on_any_shape) {
  double worst = 0.0, largest = 0.0;
  std::string at;
  uint32_t seed = 7;
  for (const int64_t k : {1, 2, 31, 32, 33, 100, 576}) {
    for (const int64_t n : {1, 15, 16, 17, 31, 32, 33, 61}) {
      for (const int64_t rows : {1, 3, 16, 17, 32, 45}) {
        const Problem p = random_problem(rows, k, n, n % 2 == 1, ++seed);
        const Floats got = emulated(p);
        CHECK_THAT(!EmulatedTiles::configured());
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t i = 0; i < n; ++i) {
            double want = 0.0, size = 0.0;
            for (int64_t j = 0; j < k; ++j) {
              const double product = static_cast<double>(p.x[static_cast<size_t>(t * k + j)]) *
                                     from_half(p.weight[static_cast<size_t>(i * k + j)]);
              want += product;
              size += std::fabs(product);
            }
            const double bias = p.bias.empty() ? 0.0 : p.bias[static_cast<size_t>(i)];
            const double off = std::fabs(got[static_cast<size_t>(t * n + i)] - (want + bias));
            const double u = std::ldexp(1.0, -24);
            const double bound = static_cast<double>(3 * tile_pieces(k) + 17) * u * size + u * (size + std::fabs(bias));
            if (off / bound > worst) {
              worst = off / bound;
              at = "k " + std::to_string(k) + " n " + std::to_string(n) + " rows " + std::to_string(rows);
            }
            largest = std::fmax(largest, off / (size + std::fabs(bias)));
          }
        }
      }
    }
  }
  std::printf("  worst deviation %.2e of the sum of magnitudes, %.3f of the bound (%s)\n", largest, worst, at.c_str());
  CHECK_THAT(worst <= 1.0);
}

TEST(amx_row_alone_equals_row_in_any_batch) {
  for (const auto& [k, n] : {std::pair<int64_t, int64_t>{48, 61}, {200, 33}, {576, 16}}) {
    const Problem all = random_problem(50, k, n, true, 3);
    const Floats want = [&] {
      Floats rows;
      for (int64_t t = 0; t < all.rows; ++t) {
        LinearBlock one = all.block(nullptr);
        one.x += t * k;
        one.rows = 1;
        const Floats row = emulated(one);
        rows.insert(rows.end(), row.begin(), row.end());
      }
      return rows;
    }();
    for (int64_t rows = 1; rows <= all.rows; ++rows) {
      LinearBlock last = all.block(nullptr);
      last.x += (all.rows - rows) * k;
      last.rows = rows;
      const Floats got = emulated(last);
      if (!same(got.data(), want.data() + (all.rows - rows) * n, rows * n)) {
        fail(__FILE__, __LINE__, "bits differ with " + std::to_string(rows) + " rows, k " + std::to_string(k));
      }
    }
    // A block of weights cut elsewhere, as another number of threads cuts it.
    for (const int64_t from : {1, 7, 16}) {
      LinearBlock part = all.block(nullptr);
      part.weight = all.weight.data() + from * k;
      part.bias += from;
      part.n = n - from;
      if (part.n <= 0) continue;
      const Floats got = emulated(part);
      for (int64_t t = 0; t < all.rows; ++t) {
        CHECK_THAT(same(got.data() + t * part.n, want.data() + t * n + from, part.n));
      }
    }
  }
}

TEST(amx_keeps_what_is_not_a_number_where_it_belongs) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (const int64_t k : {33, 64}) {
    Problem p = random_problem(20, k, 40, false, 5);
    const Floats clean = emulated(p);
    p.weight[static_cast<size_t>(5 * k)] = to_half(nan);      // poisons column 5 alone, not the end of row 4
    p.x[static_cast<size_t>(3 * k + k - 1)] = inf;            // row 3 alone
    const uint32_t low_nan = 0x7f800001u;                     // a NaN by its last bit alone: row 7
    std::memcpy(&p.x[static_cast<size_t>(7 * k)], &low_nan, 4);
    const Floats got = emulated(p);
    for (int64_t t = 0; t < p.rows; ++t) {
      for (int64_t i = 0; i < p.n; ++i) {
        const float value = got[static_cast<size_t>(t * p.n + i)];
        if (i == 5 || t == 7) CHECK_THAT(std::isnan(value));
        else if (t == 3) CHECK_THAT(std::isinf(value));
        else CHECK_THAT(same(&value, &clean[static_cast<size_t>(t * p.n + i)], 1));
      }
    }
  }
}

TEST(amx_of_this_processor_equals_the_emulated_tiles) {
  const CpuKernels* amx = cpu_kernels_for(Isa::kAmx);
  if (amx == nullptr) {
    std::printf("  skipped: this processor, build or system has no AMX\n");
    return;
  }
  std::mt19937 random(11);
  for (const int64_t k : {1, 31, 64, 200}) {
    for (const int64_t n : {1, 16, 33, 61}) {
      for (const int64_t rows : {1, 2, 16, 17, 33, 45}) {
        Problem p = random_problem(rows, k, n, n % 2 == 1, static_cast<uint32_t>(random()));
        // Numbers and results around 2^-126, where the unit flushes.
        for (size_t i = 0; i < p.x.size(); i += 3) p.x[i] = std::ldexp(p.x[i], -static_cast<int>(random() % 150));
        for (size_t i = 0; i < p.weight.size(); i += 5) {
          p.weight[i] = to_half(std::ldexp(from_half(p.weight[i]), -static_cast<int>(random() % 140)));
        }
        Floats got(static_cast<size_t>(rows * n));
        amx->linear(p.block(got.data()));
        if (!same(got.data(), emulated(p).data(), rows * n)) {
          fail(__FILE__, __LINE__, "bits differ: k " + std::to_string(k) + " n " + std::to_string(n) + " rows " +
                                       std::to_string(rows));
        }
      }
    }
  }
}

}  // namespace chatspace::testing
